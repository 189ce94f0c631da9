"""The notices of an account that is low, and of its recovery, word for word."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from agent_credits.billing.teams import Tenure
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.entries import Draw
from agent_credits.ledger.reservations import Reservation, ReservationTerms
from agent_credits.notices.announcements import AccountRecord, NoticeSettings, notices_of
from agent_credits.notices.notice import Notice
from agent_credits.values.principals import Principal
from tests.golden import assert_golden, data_and_email_of
from tests.unit.builders import FAR_PAST, NOW, POLICY, RELOADING_ACME, grant_change, pause, usage
from tests.unit.commit.test_low_credits import OFF, fall_to, low_world, with_thresholds
from tests.unit.payments.payment_fakes import FakePayments
from tests.unit.reload_world import ReloadWorld
from tests.unit.reservation_world import HOUR


def only(world: ReloadWorld, notice_type: str) -> Notice:
    (notice,) = world.notices_of_type(notice_type)
    return notice


def test_the_notice_to_a_user() -> None:
    world = low_world()
    fall_to(world, 119)

    notice = only(world, "credits_low")

    assert notice.retryable is False
    assert_golden("low_credits/user.txt", data_and_email_of(notice))


def test_the_notice_to_an_owner() -> None:
    world = low_world(with_thresholds(OFF, "50"))
    trigger = {"kind": "schedule", "schedule_id": "nightly"}
    tenure = Tenure(since=FAR_PAST, kind="self_serve", owner="ana", policy_version=POLICY.version)
    world.rows.teams["acme"] = world.team.model_copy(update={"tenures": (tenure,)})
    document = usage("e1", "351")
    document["data"]["trigger"] = trigger
    world.deliver(document)

    assert_golden("low_credits/owner.txt", data_and_email_of(only(world, "credits_low")))


def test_the_notice_to_an_enterprise() -> None:
    bigcorp = Principal("team", "acme")
    tenure = Tenure(since=FAR_PAST, kind="enterprise", owner="o", policy_version=POLICY.version)
    world = ReloadWorld(team=OFF.model_copy(update={"tenures": (tenure,)}))
    contract = grant_change("contract", "contract", "1000", principal=bigcorp)
    commit(world.rows, bigcorp, [contract], now=world.now, pause=pause, opens_account=True)
    world.deliver(usage("e1", "950"))

    assert_golden("low_credits/enterprise.txt", data_and_email_of(only(world, "credits_low")))


def test_the_notice_after_a_declined_reload() -> None:
    world = low_world(RELOADING_ACME, payments=FakePayments(["decline"]))
    fall_to(world, 99)
    world.resolve()

    assert_golden("low_credits/reload_declined.txt", data_and_email_of(only(world, "credits_low")))


def test_the_notice_of_a_recovery() -> None:
    world = low_world()
    fall_to(world, 119)
    world.later(timedelta(days=12))
    world.grant("by-hand", "1")

    notice = only(world, "credits_restored")

    assert notice.retryable is False
    assert_golden("low_credits/restored.txt", data_and_email_of(notice))


def test_a_pool_of_the_team_is_not_shown_as_one_of_the_account() -> None:
    world = low_world()
    fall_to(world, 119)
    old, new = world.rows.stream[-1]
    assert new.low is not None
    part = Draw("team:shared", "team/acme/g-1", 50_000_000)
    terms = ReservationTerms()
    shared = replace(
        new,
        low=replace(new.low, pools=(*new.low.pools, "team:shared")),
        reservations=(Reservation("run-9", None, (part,), 50_000_000, NOW + HOUR, terms),),
    )

    (notice,) = notices_of(AccountRecord(old, shared), NoticeSettings(""))

    assert [pool["pool"] for pool in notice.data["pools"]] == ["trial", "plan", "add_on"]
    assert notice.email_text == only(world, "credits_low").email_text


@pytest.mark.parametrize("left", [119, 39, 0])
def test_being_low_is_a_warning_at_any_depth(left: int) -> None:
    world = low_world()

    fall_to(world, left)

    assert only(world, "credits_low").severity == "warning"


def test_a_redelivered_stream_record_gives_the_same_notice() -> None:
    world = low_world()
    fall_to(world, 119)
    world.grant("by-hand", "300")

    world._announced = 0
    world.announce()

    first, restored, again, restored_again = (
        n for n in world.notices if n.type.startswith("credits_")
    )
    assert (first, first.id) == (again, again.id)
    assert (restored, restored.id) == (restored_again, restored_again.id)
