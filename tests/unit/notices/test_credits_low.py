"""The notices of an account that is low, and of its recovery, word for word."""

from datetime import timedelta

import pytest

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.teams import Tenure
from agent_credits.commit.write_protocol import commit
from agent_credits.notices.announcements import AccountRecord, NoticeSettings, notices_of
from agent_credits.notices.notice import Notice
from agent_credits.values.principals import Principal
from tests.golden import assert_golden, data_and_email_of
from tests.unit.builders import (
    ACME,
    FAR_PAST,
    NOW,
    POLICY,
    RELOADING_ACME,
    grant_change,
    pause,
    requested,
    usage,
)
from tests.unit.commit.test_low_credits import OFF, fall_to, low_world, with_thresholds
from tests.unit.commit.test_shared_pools import TEAM, SharingWorld, sharing
from tests.unit.payments.payment_fakes import FakePayments
from tests.unit.reload_world import ReloadWorld

# Of all that a member's runs may draw, or of what the team shares.
ALERTS = Alerts.model_validate({"low": ["50%"]})


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


def low_notices(world: SharingWorld) -> dict[str, Notice]:
    """Return the notices of low credits, by account."""
    found = [
        notice
        for old, new in world.rows.stream
        for notice in notices_of(AccountRecord(old, new), NoticeSettings(""))
    ]
    return {str(n.principal): n for n in found if n.type == "credits_low"}


def test_a_member_of_a_team_that_shares_is_shown_its_own_credits() -> None:
    world = SharingWorld(team=ACME.model_copy(update={"alerts": ALERTS}))

    world.send(usage("e-1", "490"))

    notice = low_notices(world)["user:ana"]
    assert [pool["pool"] for pool in notice.data["pools"]] == ["trial", "plan", "add_on"]
    assert notice.data["available_credits"] == "10"
    assert_golden("low_credits/member_of_a_team_that_shares.txt", data_and_email_of(notice))


def test_what_a_reservation_holds_of_the_team_is_not_shown_as_the_members_own() -> None:
    sharing_and_reserving = sharing(reserve="estimate")
    team = ACME.model_copy(update={"alerts": ALERTS})
    world = SharingWorld(team=team, policy=sharing_and_reserving)

    world.send(requested("r-1", credits="520"), usage("e-1", "495"))

    notice = low_notices(world)["user:ana"]
    assert (notice.data["available_credits"], notice.data["reserved_credits"]) == ("0", "5")


def test_a_team_has_a_notice_of_its_own_when_what_it_shares_is_low() -> None:
    world = SharingWorld(team=ACME.model_copy(update={"alerts": ALERTS}))

    world.send(usage("e-1", "560"))

    notice = low_notices(world)["team:acme"]
    assert notice.data["pools"] == [{"pool": "shared", "remaining_credits": "40"}]
    assert_golden("low_credits/what_a_team_shares.txt", data_and_email_of(notice))


def test_what_a_team_shares_is_restored_by_a_grant_to_the_team() -> None:
    world = SharingWorld(team=ACME.model_copy(update={"alerts": ALERTS}))
    world.send(usage("e-1", "560"))

    change = grant_change("t-2", pool="shared", credits="500", principal=TEAM)
    commit(world.rows, TEAM, [change], now=NOW, pause=pause)

    (notice,) = notices_of(AccountRecord(*world.rows.stream[-1]), NoticeSettings(""))
    assert notice.type == "credits_restored"
    assert_golden("low_credits/what_a_team_shares_restored.txt", data_and_email_of(notice))


def test_a_run_that_finds_both_empty_fails_with_both_ways_out() -> None:
    world = SharingWorld()
    world.send(usage("e-1", "700"))

    records = [AccountRecord(*images) for images in world.rows.stream]
    notices = [n for record in records for n in notices_of(record, NoticeSettings(""))]
    (notice,) = [n for n in notices if n.type == "insufficient_credits"]
    assert_golden("low_credits/both_pools_empty.txt", data_and_email_of(notice))


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
