"""The notices of a team's spending, word for word, and how often each is sent."""

from datetime import timedelta

import pytest

from agent_credits.aws.items import team_from_item, team_item
from agent_credits.billing.spend_cap import Spending
from agent_credits.billing.teams import Team
from agent_credits.ledger.reloads import DECLINE_HOLD
from agent_credits.notices.announcements import NoticeSettings, TeamRecord, notices_of
from tests.golden import assert_golden, data_and_email_of
from tests.unit.builders import CARD, NOW, PACK_CENTS, RELOADING_ACME, usage
from tests.unit.reload_world import ReloadWorld

TEN_PACKS = RELOADING_ACME.model_copy(update={"spend_cap_cents": 10 * PACK_CENTS})


def world_that_spends(team: Team = TEN_PACKS) -> ReloadWorld:
    world = ReloadWorld(team=team)
    world.open_account("150")
    return world


def spend(world: ReloadWorld, packs: int) -> list[int]:
    """Buy this many packs in one reload and return the levels that it warned of."""
    before = len(world.notices_of_type("spend_cap.warning"))
    number = len(world.requests)
    wanted = world.available() + packs * 400 - 101
    event = usage(f"e{number}", str(wanted), run=f"run-{number}")
    world.later(timedelta(hours=2))
    world.resolve_until_done(event)
    return [n.data["percent"] for n in world.notices_of_type("spend_cap.warning")[before:]]


def declined_three_times() -> ReloadWorld:
    world = world_that_spends()
    world.payments.declining.add(CARD.name)
    for number in range(3):
        world.deliver(usage(f"e{number}", "200", run=f"run-{number}"))
        world.resolve()
        world.later(DECLINE_HOLD)
    return world


def test_a_warning_below_the_cap() -> None:
    world = world_that_spends()
    assert spend(world, 7) == [70]

    (notice,) = world.notices_of_type("spend_cap.warning")

    assert notice.severity == "warning"
    assert_golden("reload/spend_cap_warning_70.txt", data_and_email_of(notice))


def test_a_warning_names_what_is_spent_and_not_the_level_that_was_crossed() -> None:
    world = world_that_spends(RELOADING_ACME.model_copy(update={"spend_cap_cents": 8 * PACK_CENTS}))
    assert spend(world, 6) == [70]

    (notice,) = world.notices_of_type("spend_cap.warning")

    assert notice.email_subject == "Team acme has spent 75% of its cap for 2025-11"
    assert "120.00 USD on credits in 2025-11: 75% of its spend cap of 160.00 USD" in (
        notice.email_text
    )
    assert (notice.data["percent"], notice.data["spent_percent"]) == (70, 75)


def test_a_purchase_that_crosses_several_levels_is_announced_once() -> None:
    world = world_that_spends()

    assert spend(world, 9) == [90]
    assert spend(world, 1) == [100]


def test_a_warning_that_the_cap_is_reached_is_critical() -> None:
    world = world_that_spends()
    spend(world, 10)

    (notice,) = world.notices_of_type("spend_cap.warning")

    assert notice.severity == "critical"
    assert_golden("reload/spend_cap_warning_100.txt", data_and_email_of(notice))


def test_a_team_whose_card_was_declined_three_times_in_a_row() -> None:
    world = declined_three_times()

    (notice,) = world.notices_of_type("auto_reload.suspended")

    assert notice.severity == "critical"
    assert_golden("reload/suspended.txt", data_and_email_of(notice))


def test_each_warning_is_sent_once_a_month() -> None:
    world = world_that_spends()
    assert [spend(world, n) for n in (6, 1, 1, 1, 1)] == [[], [70], [], [90], [100]]

    world.later(timedelta(days=20))

    assert [spend(world, n) for n in (6, 1)] == [[], [70]]
    assert len({n.id for n in world.notices_of_type("spend_cap.warning")}) == 4


def test_a_warning_is_given_again_when_the_first_purchase_of_a_month_reaches_it() -> None:
    """The row then goes from one month's warning to the same warning of the next in one change."""
    world = world_that_spends()
    assert spend(world, 7) == [70]

    world.later(timedelta(days=20))

    assert spend(world, 7) == [70]
    first, second = world.notices_of_type("spend_cap.warning")
    assert first.id != second.id


def test_a_warning_is_sent_again_only_after_a_raised_cap_put_spending_below_it() -> None:
    world = world_that_spends()
    assert spend(world, 8) == [70]

    world.apply(spend_cap_cents=11 * PACK_CENTS)
    assert spend(world, 1) == []
    world.apply(spend_cap_cents=20 * PACK_CENTS)
    assert spend(world, 4) == []

    assert spend(world, 1) == [70]
    first, second = world.notices_of_type("spend_cap.warning")
    assert first.id != second.id


def test_a_cap_that_was_raised_and_lowered_again_warns_under_a_new_id() -> None:
    """Under the same id, a consumer that drops repeats would drop the second warning."""
    world = world_that_spends()
    assert spend(world, 7) == [70]
    world.apply(spend_cap_cents=20 * PACK_CENTS)
    world.apply(spend_cap_cents=10 * PACK_CENTS)

    assert spend(world, 1) == [70]

    first, second = world.notices_of_type("spend_cap.warning")
    assert first.id != second.id


def test_a_change_of_settings_sends_no_notice() -> None:
    world = world_that_spends()
    spend(world, 7)
    before = len(world.notices)

    world.apply(spend_cap_cents=20 * PACK_CENTS)
    world.apply(spend_cap_cents=1)
    world.apply(time_zone="UTC")

    assert len(world.notices) == before


def test_a_suspension_is_announced_once_however_often_it_declines_a_reload() -> None:
    world = declined_three_times()
    for number in range(3, 9):
        world.deliver(usage(f"e{number}", "200", run=f"run-{number}"))
        world.resolve()
        world.later(DECLINE_HOLD)

    assert len(world.notices_of_type("auto_reload.suspended")) == 1


def test_a_teams_notices_are_derived_only_from_its_images() -> None:
    world = declined_three_times()
    again = []
    for old, new in world.rows.team_stream:
        images = [team_from_item(team_item(t)) if t else None for t in (old, new)]
        assert images[1] is not None
        again += notices_of(TeamRecord(images[0], images[1], NOW), NoticeSettings(""))

    assert [n.to_cloudevent() for n in again] == [
        n.to_cloudevent() for n in world.notices_of_type("auto_reload.suspended")
    ]


@pytest.mark.parametrize(
    "spending",
    [Spending(warned_percents=(70,)), Spending(suspended_payment_method="pm-1")],
    ids=["warned", "suspended"],
)
def test_a_warning_or_suspension_without_a_purchase_is_an_error(spending: Spending) -> None:
    row = RELOADING_ACME.model_copy(update={"spending": spending})

    with pytest.raises(ValueError, match="only a purchase"):
        notices_of(TeamRecord(RELOADING_ACME, row, NOW), NoticeSettings(""))
