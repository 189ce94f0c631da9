"""What an account is told when it is low, and when it no longer is, word for word."""

from datetime import timedelta

import pytest

from agent_credits.billing.teams import Tenure
from agent_credits.commit.write_protocol import commit
from agent_credits.notices.notice import Notice
from agent_credits.values.principals import Principal
from tests.golden import assert_golden, data_and_email_of
from tests.unit.builders import FAR_PAST, POLICY, RELOADING_ACME, grant_change, pause, usage
from tests.unit.commit.test_low_credits import OFF, fall_to, low_world, with_thresholds
from tests.unit.payments.payment_fakes import FakePayments
from tests.unit.reload_world import ReloadWorld


def only(world: ReloadWorld, notice_type: str) -> Notice:
    (notice,) = world.notices_of_type(notice_type)
    return notice


def test_a_user_who_is_low() -> None:
    world = low_world()
    fall_to(world, 119)

    notice = only(world, "credits_low")

    assert notice.retryable is False
    assert_golden("low_credits/user.txt", data_and_email_of(notice))


def test_an_owner_who_is_low() -> None:
    world = low_world(with_thresholds(OFF, "50"))
    trigger = {"kind": "schedule", "schedule_id": "nightly"}
    tenure = Tenure(since=FAR_PAST, kind="self_serve", owner="ana", policy_version=POLICY.version)
    world.rows.teams["acme"] = world.team.model_copy(update={"tenures": (tenure,)})
    document = usage("e1", "351")
    document["data"]["trigger"] = trigger
    world.deliver(document)

    assert_golden("low_credits/owner.txt", data_and_email_of(only(world, "credits_low")))


def test_an_enterprise_that_is_low() -> None:
    bigcorp = Principal("team", "acme")
    tenure = Tenure(since=FAR_PAST, kind="enterprise", owner="o", policy_version=POLICY.version)
    world = ReloadWorld(team=OFF.model_copy(update={"tenures": (tenure,)}))
    contract = grant_change("contract", "contract", "1000", principal=bigcorp)
    commit(world.rows, bigcorp, [contract], now=world.now, pause=pause, opens_account=True)
    world.deliver(usage("e1", "950"))

    assert_golden("low_credits/enterprise.txt", data_and_email_of(only(world, "credits_low")))


def test_an_account_that_is_low_and_whose_reload_was_declined() -> None:
    world = low_world(RELOADING_ACME, payments=FakePayments(["decline"]))
    fall_to(world, 99)
    world.resolve()

    assert_golden("low_credits/reload_declined.txt", data_and_email_of(only(world, "credits_low")))


def test_an_account_that_is_no_longer_low() -> None:
    world = low_world()
    fall_to(world, 119)
    world.later(timedelta(days=12))
    world.grant("by-hand", "1")

    notice = only(world, "credits_restored")

    assert notice.retryable is False
    assert_golden("low_credits/restored.txt", data_and_email_of(notice))


@pytest.mark.parametrize("left", [119, 39, 0])
def test_being_low_is_a_warning_however_deep(left: int) -> None:
    world = low_world()

    fall_to(world, left)

    assert only(world, "credits_low").severity == "warning"


def test_a_stream_record_that_comes_again_gives_the_same_notice() -> None:
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
