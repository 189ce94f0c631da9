"""When an account is notified that it is low, how often, and when it has recovered."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.aws.items import account_from_item, account_item, item_bytes
from agent_credits.billing.alerts import Alerts
from agent_credits.billing.spend_cap import Spending
from agent_credits.billing.teams import Team, Tenure
from agent_credits.commit.changes import ReloadDeclined
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.reloads import DECLINE_HOLD, RELOAD_DEADLINE, DeclineCause
from agent_credits.ledger.thresholds import parse_threshold
from agent_credits.values.principals import Principal
from tests.unit.builders import (
    ANA,
    BEN,
    FAR_PAST,
    NOW,
    ON,
    OTHER_CARD,
    POLICY,
    RELOADING_ACME,
    SECOND,
    finished,
    grant_change,
    pause,
    plan_change,
    requested,
    run_change,
    usage,
)
from tests.unit.payments.payment_fakes import FakePayments
from tests.unit.reload_world import ReloadWorld

CREDIT = 1_000_000
WRITE_UNIT_BYTES = 1_024
OFF = RELOADING_ACME.model_copy(update={"auto_reload": None})


def with_thresholds(team: Team, *low: str) -> Team:
    return team.model_copy(update={"alerts": Alerts(low=[*low])})


def low_world(team: Team = OFF, plan: int = 400, **fields: Any) -> ReloadWorld:
    """Return a world in which ana's plan was just refilled with this many credits."""
    world = ReloadWorld(team=team, **fields)
    change = plan_change(str(plan), change_id="plan:1")
    commit(world.rows, ANA, [change], now=NOW, pause=pause, opens_account=True)
    world.announce()
    return world


def fall_to(world: ReloadWorld, left: int, name: str = "") -> None:
    """Let a run use credits until this many are left."""
    used = world.available() - left
    name = name or f"to-{left}-at-{world.account().version}"
    assert world.outcome(usage(name, str(used), run=name)) == "debited"


def notified(world: ReloadWorld) -> list[tuple[str, str]]:
    """Return the thresholds notified so far, each with the credits left at that time."""
    notices = world.notices_of_type("credits_low")
    return [(notice.data["threshold"], notice.data["available_credits"]) for notice in notices]


def restored(world: ReloadWorld) -> int:
    return len(world.notices_of_type("credits_restored"))


# Falling


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (121, []),
        (120, []),  # On the threshold it is not below it.
        (119, [("30%", "119")]),
        (40, [("30%", "40")]),
        (39, [("10%", "39")]),  # Both at once: one notice, of the deeper one.
        (0, [("10%", "0")]),
    ],
)
def test_a_threshold_is_notified_when_less_than_it_is_left(left: int, expected: Any) -> None:
    world = low_world()

    fall_to(world, left)

    assert notified(world) == expected


def test_each_threshold_is_notified_once_as_the_balance_falls() -> None:
    world = low_world()

    for left in (130, 119, 118, 60, 39, 38, 5, 0):
        fall_to(world, left)

    assert notified(world) == [("30%", "119"), ("10%", "39")]


def test_thresholds_may_be_in_credits_and_in_percent() -> None:
    world = low_world(with_thresholds(OFF, "50", "30%"))

    for left in (119, 50, 49, 12):
        fall_to(world, left)

    assert notified(world) == [("30%", "119"), ("50", "49")]


def test_a_team_without_thresholds_is_never_notified() -> None:
    world = low_world(with_thresholds(OFF))

    fall_to(world, 0)

    assert notified(world) == []
    assert world.account().low is None


def test_a_threshold_crossed_in_a_large_batch_is_notified_once() -> None:
    world = low_world()

    world.deliver(*[usage(f"e{number}", "30", run=f"run-{number}") for number in range(12)])

    assert notified(world) == [("30%", "40")]


def test_a_threshold_of_a_fraction_of_a_microcredit_is_exact() -> None:
    third = parse_threshold("33%")

    assert third.microcredits(101) == 34  # 33.33 of 101: 33 and less are below it.
    assert third.microcredits(100) == 33


def test_a_plan_change_within_a_period_does_not_move_its_thresholds() -> None:
    world = low_world()
    bigger = plan_change("2000", change_id="plan:2")
    commit(world.rows, ANA, [bigger], now=NOW, pause=pause)

    fall_to(world, 130)
    fall_to(world, 119)

    assert notified(world) == [("30%", "119")]


@pytest.mark.parametrize("plan_credits", [0, 400])
def test_without_a_plan_percentages_are_of_what_was_granted(plan_credits: int) -> None:
    bigcorp = Principal("team", "acme")
    tenure = Tenure(since=FAR_PAST, kind="enterprise", owner="o", policy_version=POLICY.version)
    world = ReloadWorld(team=OFF.model_copy(update={"tenures": (tenure,)}))
    contract = grant_change("contract", "contract", "1000", principal=bigcorp)
    # A plan does not count if no run draws from its pool.
    plan = replace(plan_change(principal=bigcorp), microcredits=plan_credits * CREDIT)
    commit(world.rows, bigcorp, [contract, plan], now=NOW, pause=pause, opens_account=True)

    for number, used in enumerate(("700", "1", "200", "99")):
        world.deliver(usage(f"e{number}", used))

    assert notified(world) == [("30%", "299"), ("10%", "99")]
    assert world.notices[-1].principal == bigcorp


def test_an_empty_account_without_a_plan_is_below_every_percentage() -> None:
    world = ReloadWorld(team=OFF)
    world.open_account("100")

    fall_to(world, 0)

    assert notified(world) == [("10%", "0")]


def test_credits_that_expire_can_cross_a_threshold() -> None:
    world = ReloadWorld(team=OFF)
    trial = replace(grant_change("gift", "trial", "900"), expires_at=NOW + timedelta(minutes=1))
    changes = [grant_change("g-1", credits="100"), trial]
    commit(world.rows, ANA, changes, now=NOW, pause=pause, opens_account=True)

    world.later(timedelta(hours=1))
    world.deliver(finished("e1"))

    assert notified(world) == [("30%", "100")]


def test_a_grant_that_is_emptied_does_not_move_the_thresholds_of_a_low_account() -> None:
    world = ReloadWorld(team=OFF)
    changes = [grant_change("gift", "trial", "900"), grant_change("g-1", credits="150")]
    commit(world.rows, ANA, changes, now=NOW, pause=pause, opens_account=True)

    for left in (300, 140, 100):
        fall_to(world, left)

    assert notified(world) == [("30%", "300"), ("10%", "100")]


# Running dry


def test_a_run_that_fails_on_the_last_credit_publishes_only_its_own_notice() -> None:
    world = low_world()

    assert world.outcome(usage("e1", "450")) == "insufficient"

    assert [notice.type for notice in world.notices] == ["insufficient_credits"]


def test_a_request_that_fails_does_not_suppress_the_threshold() -> None:
    world = low_world()

    world.deliver(
        requested("e1", credits="600", run="run-greedy"), usage("e2", "300", run="run-modest")
    )

    assert notified(world) == [("30%", "100")]


def test_an_empty_account_that_gets_credits_is_restored_once() -> None:
    world = low_world()
    world.deliver(usage("e1", "450"))

    world.grant("by-hand", "500")
    world.deliver(usage("e2", "1", run="run-2"))

    assert restored(world) == 1
    assert notified(world) == []


# Recovering


def test_after_a_grant_restores_the_account_the_next_fall_is_notified_again() -> None:
    world = low_world()
    fall_to(world, 119)

    world.grant("by-hand", "1")
    fall_to(world, 119)

    assert notified(world) == [("30%", "119"), ("30%", "119")]
    assert restored(world) == 1


def test_a_grant_that_does_not_reach_the_threshold_restores_nothing() -> None:
    world = low_world()
    fall_to(world, 100)

    world.grant("by-hand", "19")
    fall_to(world, 118)

    assert notified(world) == [("30%", "100")]
    assert restored(world) == 0


def test_an_account_above_only_its_deepest_threshold_is_still_low() -> None:
    world = low_world()
    fall_to(world, 39)

    world.grant("by-hand", "61")
    assert restored(world) == 0
    fall_to(world, 38)

    assert notified(world) == [("10%", "39"), ("10%", "38")]


@pytest.mark.parametrize(("flaps", "used"), [(3, "2"), (20, "40")])
def test_runs_given_back_around_a_threshold_notify_it_once(flaps: int, used: str) -> None:
    world = low_world()
    fall_to(world, 120)

    for number in range(flaps):
        run = f"run-{number}"
        world.deliver(usage(f"{run}-used", used, run=run))
        world.deliver(finished(f"{run}-failed", "error", run=run))

    assert world.available() == 120
    assert len(notified(world)) == 1
    assert restored(world) == 0


def test_a_run_given_back_restores_an_account_that_it_lifts_clear_of_the_threshold() -> None:
    world = low_world()
    world.deliver(usage("e1", "300", run="run-1"))

    world.deliver(finished("e2", "error", run="run-1"))
    fall_to(world, 119)

    assert notified(world) == [("30%", "100"), ("30%", "119")]
    assert restored(world) == 1


def test_the_next_period_restores_the_account_and_notifies_its_thresholds_again() -> None:
    world = low_world()
    fall_to(world, 30)

    world.later(timedelta(days=12))
    world.deliver(finished("e1"))
    assert restored(world) == 1
    fall_to(world, 119)

    assert notified(world) == [("10%", "30"), ("30%", "119")]


def test_an_account_that_is_low_after_its_refill_is_notified_again_and_not_restored() -> None:
    world = low_world(with_thresholds(OFF, "500"))
    fall_to(world, 300)

    world.later(timedelta(days=12))
    world.grant("by-hand", "1")
    fall_to(world, 350)
    fall_to(world, 340)

    assert notified(world) == [("500", "300"), ("500", "350")]
    assert restored(world) == 0


def test_a_refill_used_up_by_its_own_commit_is_notified_and_restores_nothing() -> None:
    world = low_world()
    fall_to(world, 30)

    world.later(timedelta(days=12))
    world.deliver(usage("e1", "390", run="run-1"))

    assert notified(world) == [("10%", "30"), ("10%", "10")]
    assert restored(world) == 0


def test_a_threshold_added_above_a_notified_one_is_not_notified() -> None:
    world = low_world()
    fall_to(world, 39)

    world.apply(alerts=Alerts(low=["60%", "30%", "10%"]))
    world.later(timedelta(minutes=2))
    fall_to(world, 38)

    assert notified(world) == [("10%", "39")]


def test_switching_alerts_off_publishes_no_recovery() -> None:
    world = low_world()
    fall_to(world, 39)

    world.apply(alerts=Alerts(low=[]))
    world.later(timedelta(minutes=2))
    fall_to(world, 38)

    assert world.account().low is None
    assert restored(world) == 0


def test_a_row_of_an_older_version_restores_nothing_and_at_worst_notifies_again() -> None:
    world = low_world()
    fall_to(world, 100)
    change = run_change(usage("e-old", "1", run="run-old"), with_thresholds(OFF))
    commit(world.rows, ANA, [change], now=NOW, pause=pause)

    world.announce()
    fall_to(world, 98)

    assert restored(world) == 0
    assert notified(world) == [("30%", "100"), ("30%", "98")]


# Reloads. A pack is 400 credits, and the reload threshold 100: at 119 no reload is requested yet.


def test_while_a_reload_is_able_no_threshold_is_notified() -> None:
    world = low_world(RELOADING_ACME)

    fall_to(world, 119)

    assert world.requests == []
    assert notified(world) == []
    assert [str(t) for t in world.account().low.deferred] == ["30%"]  # type: ignore[union-attr]


def test_a_reload_that_succeeds_publishes_no_low_balance() -> None:
    world = low_world(RELOADING_ACME)
    fall_to(world, 39)

    world.resolve()
    fall_to(world, 300)

    assert notified(world) == []
    assert restored(world) == 0
    assert world.account().low is None


@pytest.mark.parametrize(
    ("settings", "confirm", "decline", "state"),
    [
        ({"auto_reload": None}, "success", "auto_reload_off", "off"),
        ({"spend_cap_cents": 0}, "success", "spend_cap_reached", "declined"),
        ({}, "decline", "payment_declined", "declined"),
        ({"payment": None}, "success", "payment_method_missing", "declined"),
    ],
)
def test_the_commit_that_declines_the_reload_notifies_the_deferred_threshold(
    settings: dict[str, Any], confirm: Any, decline: DeclineCause, state: str
) -> None:
    world = low_world(RELOADING_ACME, payments=FakePayments([confirm]))
    fall_to(world, 99)
    assert notified(world) == []

    world.apply(**settings)
    world.resolve()

    assert notified(world) == [("30%", "99")]
    (notice,) = world.notices_of_type("credits_low")
    assert notice.data["auto_reload"] == {"state": state, "cause": decline}


def test_a_threshold_is_notified_once_however_often_a_reload_is_declined() -> None:
    world = low_world(RELOADING_ACME, payments=FakePayments(["decline", "decline"]))
    fall_to(world, 99)
    world.resolve()

    for left in (98, 97, 96):
        world.later(DECLINE_HOLD + SECOND)
        fall_to(world, left)
        world.resolve()

    assert notified(world) == [("30%", "99")]
    assert len(world.notices_of_type("auto_reload.declined")) > 1


def test_once_a_decline_no_longer_holds_a_deeper_threshold_is_deferred_again() -> None:
    world = low_world(RELOADING_ACME, payments=FakePayments(["decline", "decline"]))
    fall_to(world, 99)
    world.resolve()

    world.later(DECLINE_HOLD + SECOND)
    fall_to(world, 39)
    assert notified(world) == [("30%", "99")]
    world.resolve()

    assert notified(world) == [("30%", "99"), ("10%", "39")]


def test_while_a_decline_holds_a_deeper_threshold_is_notified_at_once() -> None:
    world = low_world(RELOADING_ACME, payments=FakePayments(["decline"]))
    fall_to(world, 99)
    world.resolve()

    fall_to(world, 39)

    assert notified(world) == [("30%", "99"), ("10%", "39")]


def test_a_reload_past_its_deadline_defers_no_threshold() -> None:
    world = low_world(RELOADING_ACME)
    fall_to(world, 99)

    world.later(RELOAD_DEADLINE)
    fall_to(world, 98)

    assert notified(world) == [("30%", "98")]


def test_a_frozen_account_is_notified() -> None:
    once = ON.model_copy(update={"reloads_max": 1})
    world = low_world(RELOADING_ACME.model_copy(update={"auto_reload": once}))
    fall_to(world, 90)
    world.resolve()

    fall_to(world, 90)

    assert notified(world) == [("30%", "90")]
    (notice,) = world.notices_of_type("credits_low")
    assert notice.data["auto_reload"] == {"state": "frozen", "cause": "too_many_reloads"}


@pytest.mark.parametrize(
    ("settings", "decline"),
    [
        ({"spend_cap_cents": 1_999}, "spend_cap_reached"),
        ({"payment": None}, "payment_method_missing"),
        ({"auto_reload": ON.model_copy(update={"enabled": False})}, "auto_reload_off"),
    ],
)
def test_a_decline_that_the_teams_row_foresees_is_notified_before_a_reload_is_tried(
    settings: dict[str, Any], decline: DeclineCause
) -> None:
    world = low_world(RELOADING_ACME.model_copy(update=settings))

    fall_to(world, 119)

    assert world.requests == []
    assert notified(world) == [("30%", "119")]
    (notice,) = world.notices_of_type("credits_low")
    assert notice.data["auto_reload"]["cause"] == decline


def test_a_card_suspended_by_other_accounts_of_the_team_defers_no_threshold() -> None:
    suspended = Spending(suspended_payment_method="pm_good")
    world = low_world(RELOADING_ACME.model_copy(update={"spending": suspended}))
    fall_to(world, 119)

    world.apply(payment=OTHER_CARD)
    world.later(timedelta(minutes=2))
    fall_to(world, 39)

    (notice,) = world.notices_of_type("credits_low")
    assert notice.data["threshold"] == "30%"
    assert notice.data["auto_reload"] == {"state": "suspended", "cause": "suspended"}


def test_a_deferred_threshold_is_dropped_when_credits_come() -> None:
    world = low_world(RELOADING_ACME)
    fall_to(world, 119)

    world.grant("by-hand", "1")

    assert world.account().low is None
    assert restored(world) == 0


def test_a_decline_notifies_no_threshold_above_a_notified_one() -> None:
    world = low_world(with_thresholds(OFF, "30%"))
    fall_to(world, 119)
    world.apply(auto_reload=ON, alerts=Alerts(low=["60%", "30%", "10%"]))
    world.payments.declining = {"pm_good"}
    world.later(timedelta(minutes=2))
    fall_to(world, 39)
    world.grant("by-hand", "30")

    world.resolve()

    assert world.notices_of_type("auto_reload.declined")
    assert notified(world) == [("30%", "119")]


@pytest.mark.parametrize("state", ["requested", "declined"])
def test_a_late_decline_of_an_older_reload_notifies_nothing(state: str) -> None:
    world = low_world(with_thresholds(RELOADING_ACME, "60%"), payments=FakePayments(["decline"]))
    if state == "declined":
        fall_to(world, 99)
        world.resolve()
        world.grant("by-hand", "300")
        world.later(DECLINE_HOLD)
        fall_to(world, 239)
    else:
        fall_to(world, 99)
    assert world.reload().state == state
    before = notified(world)

    late = ReloadDeclined(ANA, "reload:user:ana:1", "acme", "payment_unavailable", None, 1)
    commit(world.rows, ANA, [late], now=world.now, pause=pause)
    world.announce()

    assert notified(world) == before
    assert [str(t) for t in world.account().low.deferred] == ["60%"]  # type: ignore[union-attr]


# The row


def test_an_account_that_is_not_low_stores_no_thresholds() -> None:
    world = low_world()
    fall_to(world, 120)

    assert "low" not in account_item(world.account())


def test_a_quiet_account_that_is_low_still_costs_one_write_unit() -> None:
    world = low_world(plan=1000)
    fall_to(world, 99)

    for _ in range(40):
        event_id, run = str(uuid.uuid4()), str(uuid.uuid4())
        world.deliver(usage(event_id, "1.234567", run=run, project_id="checkout-service"))

    later = [account for _, account in world.rows.stream if account.page_number > 1]
    assert later[-1].low is not None
    assert max(item_bytes(account_item(account)) for account in later) <= WRITE_UNIT_BYTES


@pytest.mark.parametrize("team", [OFF, RELOADING_ACME], ids=["notified", "deferred"])
def test_notified_and_deferred_thresholds_are_read_back_as_written(team: Team) -> None:
    world = low_world(with_thresholds(team, "50", "30%", "0.000001"))
    fall_to(world, 39)
    account = world.account()
    assert account.low is not None

    assert account_from_item(account_item(account)) == account


def test_each_account_of_a_team_is_notified_separately() -> None:
    world = low_world()
    change = plan_change("400", principal=BEN, change_id="plan:1")
    commit(world.rows, BEN, [change], now=NOW, pause=pause, opens_account=True)

    world.deliver(usage("e1", "300"), usage("e2", "300", run="run-2", user="ben"))

    first, second = world.notices_of_type("credits_low")
    assert {first.principal, second.principal} == {ANA, BEN}
    assert first.id != second.id
