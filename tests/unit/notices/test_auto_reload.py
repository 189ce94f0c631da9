"""The notices of reloads, word for word, and how often each is sent."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.aws.items import account_from_item, account_item
from agent_credits.aws.topic import NoticesTopic
from agent_credits.billing.teams import Tenure
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.reloads import DECLINE_HOLD, RELOAD_DEADLINE, DeclineCause
from agent_credits.notices.announcements import (
    AccountRecord,
    NoticeSettings,
    notices_of,
    reload_requests,
)
from agent_credits.notices.insufficient_credits import RETRY
from agent_credits.notices.notice import Notice
from agent_credits.notices.reload_declines import reload_fix
from agent_credits.values.principals import Principal
from tests.golden import assert_golden, data_and_email_of
from tests.unit.builders import (
    ANA,
    FAR_PAST,
    ON,
    POLICY,
    RELOADING_ACME,
    finished,
    grant_change,
    pause,
    plan_change,
    usage,
)
from tests.unit.payments.payment_fakes import FakePayments
from tests.unit.reload_world import ReloadWorld, short_world

ENTERPRISE = Principal("team", "acme")
OFF = RELOADING_ACME.model_copy(update={"auto_reload": None})


def only(world: ReloadWorld, notice_type: str) -> Notice:
    (notice,) = world.notices_of_type(notice_type)
    return notice


def exhausted_world() -> ReloadWorld:
    world = ReloadWorld(team=OFF)
    world.open_account("150")
    assert world.outcome(usage("e1", "200")) == "insufficient"
    return world


def test_a_reload_that_succeeded() -> None:
    world, _ = short_world(wanted="2000")
    world.resolve()

    notice = only(world, "auto_reload.succeeded")

    assert notice.severity == "info"
    assert_golden("reload/succeeded.txt", data_and_email_of(notice))


@pytest.mark.parametrize(
    ("settings", "confirm", "cause"),
    [
        ({"auto_reload": None}, "success", "auto_reload_off"),
        ({"spend_cap_cents": 0}, "success", "spend_cap_reached"),
        ({}, "decline", "payment_declined"),
        ({"payment": None}, "success", "payment_method_missing"),
    ],
)
def test_a_reload_that_was_declined(
    settings: dict[str, Any], confirm: Any, cause: DeclineCause
) -> None:
    world, _ = short_world(payments=FakePayments([confirm]))
    world.apply(**settings)
    world.resolve()

    notice = only(world, "auto_reload.declined")

    assert notice.severity == "warning"
    assert_golden(f"reload/declined_{cause}.txt", data_and_email_of(notice))


def test_a_reload_that_was_not_resolved_in_time() -> None:
    world, _ = short_world(payments=FakePayments(["processing"]))
    world.resolve()
    world.later(RELOAD_DEADLINE)
    world.resolve()
    world.resolve()

    assert_golden(
        "reload/declined_payment_unavailable.txt",
        data_and_email_of(only(world, "auto_reload.declined")),
    )


def test_an_account_that_is_frozen() -> None:
    once = ON.model_copy(update={"reloads_max": 1})
    world, event = short_world(team=RELOADING_ACME.model_copy(update={"auto_reload": once}))
    world.resolve()
    world.deliver(event)
    world.deliver(usage("e2", "300", run="run-2"))

    notice = only(world, "auto_reload.frozen")

    assert notice.severity == "critical"
    assert_golden("reload/frozen.txt", data_and_email_of(notice))


def test_credits_that_are_restored() -> None:
    world = exhausted_world()
    world.grant("by-hand", "10")

    notice = only(world, "credits_restored")

    assert notice.retryable is True
    assert_golden("reload/credits_restored.txt", data_and_email_of(notice))


def test_a_run_that_failed_because_its_reload_was_declined() -> None:
    world, event = short_world(payments=FakePayments(["decline"]))
    world.resolve()
    world.deliver(event)

    assert_golden(
        "reload/insufficient_credits_after_decline.txt",
        data_and_email_of(only(world, "insufficient_credits")),
    )


def enterprise_world(confirm: Any = "success", **settings: Any) -> ReloadWorld:
    """Return a world with an enterprise that reloads its contract, and a contract of 100."""
    tenure = Tenure(since=FAR_PAST, kind="enterprise", owner="o", policy_version=POLICY.version)
    into_contract = {
        "tenures": (tenure,),
        "auto_reload": ON.model_copy(update={"pool": "contract"}),
    }
    team = RELOADING_ACME.model_copy(update=into_contract | settings)
    world = ReloadWorld(team=team, payments=FakePayments([confirm]))
    contract = grant_change("contract", "contract", "100", principal=ENTERPRISE)
    commit(world.rows, ENTERPRISE, [contract], now=world.now, pause=pause, opens_account=True)
    return world


@pytest.mark.parametrize(
    ("settings", "confirm", "first_step"),
    [
        ({"spend_cap_cents": 0}, "success", "raise the spend cap"),
        ({}, "decline", "check the payment method"),
        ({"payment": None}, "success", "add a payment method"),
    ],
)
def test_an_enterprise_whose_reload_was_declined_has_two_ways_out(
    settings: dict[str, Any], confirm: Any, first_step: str
) -> None:
    world = enterprise_world(confirm, **settings)
    event = usage("e1", "200")
    assert world.outcome(event) == "waiting"
    world.resolve()
    assert world.outcome(event) == "insufficient"

    fix = only(world, "insufficient_credits").data["fix"]

    assert fix[0].startswith(f"An admin of team acme: {first_step}")
    assert fix[-2:] == [
        "An admin of team acme: contact your account manager to add credits to the contract.",
        RETRY,
    ]


def test_an_enterprise_that_is_low_at_its_spend_cap() -> None:
    world = enterprise_world(spend_cap_cents=0)
    world.deliver(usage("e1", "91"))
    world.resolve()

    notice = only(world, "credits_low")

    assert_golden("low_credits/enterprise_at_its_cap.txt", data_and_email_of(notice))


def test_every_decline_has_a_fix_of_its_own() -> None:
    causes: tuple[DeclineCause, ...] = (
        "auto_reload_off",
        "spend_cap_reached",
        "payment_declined",
        "payment_method_missing",
        "suspended",
        "too_many_reloads",
        "payment_unavailable",
    )

    fixes = [tuple(reload_fix(cause, "acme")) for cause in causes]

    assert all(fixes)
    assert len(set(fixes)) == len(causes)


def test_each_recovery_sends_one_notice() -> None:
    world = exhausted_world()
    world.grant("one", "10")
    world.grant("two", "10")
    world.deliver(usage("e2", "1", run="run-2"))
    assert len(world.notices_of_type("credits_restored")) == 1

    world.deliver(usage("e3", "500", run="run-3"))
    world.grant("three", "10")

    first, second = world.notices_of_type("credits_restored")
    assert first.id != second.id


def test_returned_credits_restore_an_account() -> None:
    world = exhausted_world()

    world.deliver(finished("e2", "error"))

    assert world.available() == 150
    assert len(world.notices_of_type("credits_restored")) == 1


def test_an_account_that_only_waited_was_never_exhausted() -> None:
    world, event = short_world()
    world.resolve()
    world.deliver(event)

    assert [n.type for n in world.notices] == ["auto_reload.succeeded"]


def test_a_late_reload_restores_an_account_whose_run_has_failed() -> None:
    world, event = short_world(payments=FakePayments(["processing"]))
    world.resolve()
    world.later(RELOAD_DEADLINE)
    world.deliver(event)
    world.payments.finish(succeeds=True)

    world.resolve()

    assert len(world.notices_of_type("credits_restored")) == 1


def filled_pages(world: ReloadWorld, entries: int) -> None:
    """Fill the open page up to this many entries."""
    for number in range(entries - len(world.account().entries)):
        world.deliver(usage(f"e-fill-{number}", "1", run="run-fill"))


class Published:
    """A fake of the SNS client, which rejects an attribute with an empty value."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def publish(self, **request: Any) -> None:
        assert all(a["StringValue"] for a in request["MessageAttributes"].values())
        self.requests.append(request)


def test_credits_restored_names_the_team_even_after_a_new_page_has_started() -> None:
    """The run failed at the end of a page; the decline of its reload started the next page."""
    world, event = short_world(payments=FakePayments(["processing"]))
    world.resolve()
    filled_pages(world, 7)
    world.later(RELOAD_DEADLINE)
    world.deliver(event)
    assert world.account().page_is_full
    world.resolve()
    world.payments.finish(succeeds=True)
    world.resolve()

    assert only(world, "credits_restored").team_id == "acme"


def test_every_notice_can_be_published_even_if_no_entry_on_the_row_names_a_team() -> None:
    world = ReloadWorld(team=OFF)
    world.open_account("150")
    filled_pages(world, 7)
    world.deliver(usage("e-short", "500", run="run-short"))
    assert world.account().page_is_full
    change = replace(plan_change(), microcredits=0)
    commit(world.rows, ANA, [change], now=world.now, pause=pause)
    world.grant("by-hand", "10")
    topic = Published()

    for notice in world.notices:
        NoticesTopic(topic, "arn:notices").publish(notice)  # type: ignore[arg-type]

    assert len(topic.requests) == len(world.notices) == 2


def every_notice(seed: int) -> ReloadWorld:
    world, event = short_world(payments=FakePayments(["500", "success", "decline"]))
    for number in range(8):
        world.resolve()
        world.deliver(event, usage(f"e{seed}-{number}", "300", run=f"run-{number}"))
        world.later(timedelta(minutes=4))
    return world


def test_notices_and_their_ids_are_derived_only_from_the_images() -> None:
    """The stream may be delivered again, and read back in another process."""
    world = every_notice(1)
    settings = NoticeSettings("")
    again = []
    for old, new in world.rows.stream:
        images = [account_from_item(account_item(a)) if a else None for a in (old, new)]
        assert images[1] is not None
        again += notices_of(AccountRecord(images[0], images[1]), settings)

    given = [n for n in world.notices if not n.type.startswith(("spend_cap", "auto_reload.susp"))]
    assert [n.to_cloudevent() for n in again] == [n.to_cloudevent() for n in given]
    assert [n.email_text for n in again] == [n.email_text for n in given]


def test_no_two_notices_share_an_id() -> None:
    world = every_notice(1)

    assert len({n.id for n in world.notices}) == len(world.notices) >= 5


def test_a_reload_request_is_sent_only_by_the_commit_that_made_it() -> None:
    world, _ = short_world()
    world.deliver(usage("e2", "1", run="run-2"))

    sent = [reload_requests(AccountRecord(old, new)) for old, new in world.rows.stream]

    assert [request for requests in sent for request in requests] == world.requests


def test_a_decline_that_comes_twice_is_announced_once() -> None:
    world, _ = short_world(payments=FakePayments(["processing"]))
    world.resolve()
    world.later(RELOAD_DEADLINE)
    for _ in range(5):
        world.resolve()
        world.later(DECLINE_HOLD / 100)

    assert len(world.notices_of_type("auto_reload.declined")) == 1
