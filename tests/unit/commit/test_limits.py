"""Limits: how far runs may draw and reserve, in which period, and what comes back."""

from datetime import UTC, datetime, timedelta

import pytest

from agent_credits.commit.changes import ReleaseChange
from agent_credits.commit.together import commit_changes
from agent_credits.ledger.limits import LimitKey, period_ends_at
from tests.unit.builders import (
    ANA,
    BEN,
    BIGCORP,
    BIGCORP_TEAM,
    MINUTE,
    NOW,
    OLGA,
    POLICY,
    finished,
    grant_change,
    pause,
    requested,
    usage,
)
from tests.unit.limit_world import LimitWorld, limit, name_of, team_with

HOUR = 60 * MINUTE
DAY = 24 * 60 * 60
OF_TEAM = LimitKey("acme", "team", "acme", "month")
OF_ANA = LimitKey("acme", "member", "ana", "month")


def test_usage_draws_up_to_the_limit_and_the_rest_is_the_shortfall() -> None:
    world = LimitWorld(limit("member", "10"))

    entry = world.entry(usage("e-1", "12"))

    assert entry.outcome == "insufficient"
    assert (entry.drawn_microcredits, entry.shortfall_microcredits) == (10_000_000, 2_000_000)
    refused = entry.limits.refused_by
    assert refused is not None
    assert (refused.key, refused.drawn_microcredits) == (OF_ANA, 0)
    assert refused.resets_at == datetime(2025, 11, 30, 23, tzinfo=UTC)
    assert entry.fails_run
    assert entry.decline is None
    assert not world.account().is_exhausted
    assert world.available() == "490"


def test_a_new_run_is_rejected_at_the_limit_with_all_its_limits_shown() -> None:
    world = LimitWorld(limit("member", "10"), limit("team", "1000"), limit("run", "5", "run"))
    world.send(usage("e-1", "5", run="run-1"), usage("e-2", "5", run="run-2"))

    entry = world.entry(requested("e-3", run="run-3", credits="1"))

    assert entry.outcome == "insufficient"
    scopes = [standing.key.scope for standing in entry.limits.standings]
    assert scopes == ["member", "team", "run"]
    assert entry.shortfall_microcredits == 1_000_000


def test_a_run_may_draw_its_own_limit_however_many_commits_it_takes() -> None:
    world = LimitWorld(limit("run", "5", "run"))
    for number in range(20):
        world.send(usage(f"e-{number}", "0.25"))

    assert world.outcomes(usage("e-20", "0.25")) == ["insufficient"]
    assert world.outcomes(usage("e-21", "0.25", run="run-2")) == ["debited"]


def test_a_limit_of_a_member_holds_for_that_member_alone() -> None:
    team = BIGCORP_TEAM
    world = LimitWorld(
        limit("member", "10"),
        limit("member", "20", id="ben"),
        team=team,
        payers=(BIGCORP,),
        pool="contract",
    )

    outcomes = world.outcomes(
        usage("e-1", "10", team="bigcorp", user="ana", run="r-1"),
        usage("e-2", "1", team="bigcorp", user="ana", run="r-2"),
        usage("e-3", "20", team="bigcorp", user="ben", run="r-3"),
        usage("e-4", "1", team="bigcorp", user="ben", run="r-4"),
        usage("e-5", "10", team="bigcorp", user="carl", run="r-5"),
    )

    assert outcomes == ["debited", "insufficient", "debited", "insufficient", "debited"]
    # They are all counted on the team's own row.
    assert world.rows.limits == {}
    assert len(world.account(BIGCORP).limit_counts) == 3


def test_a_limit_of_a_project_leaves_other_projects_alone() -> None:
    world = LimitWorld(
        limit("project", "10", id="web"), team=BIGCORP_TEAM, payers=(BIGCORP,), pool="contract"
    )

    outcomes = world.outcomes(
        usage("e-1", "11", team="bigcorp", project_id="web", run="r-1"),
        usage("e-2", "11", team="bigcorp", project_id="api", run="r-2"),
        usage("e-3", "11", team="bigcorp", run="r-3"),
    )

    assert outcomes == ["insufficient", "debited", "debited"]


def test_a_limit_that_warns_never_stops() -> None:
    world = LimitWorld(limit("member", "10", action="warn"))

    assert world.outcomes(usage("e-1", "12"), requested("e-2", run="run-2", credits="5")) == [
        "debited",
        "accepted",
    ]
    (count,) = world.account().limit_counts
    assert (world.drawn(OF_ANA), count.notified_percent) == ("12", 100)


def test_the_percentages_reached_are_remembered_once_per_period() -> None:
    world = LimitWorld(limit("member", "10"))
    reached = []
    for number, drawn in enumerate(("6.9", "0.1", "1", "1", "1")):
        world.send(usage(f"e-{number}", drawn))
        reached.append(world.account().limit_counts[0].notified_percent)

    assert reached == [0, 70, 70, 90, 100]


def test_a_limit_that_was_raised_warns_again() -> None:
    world = LimitWorld(limit("member", "10"))
    world.send(usage("e-1", "10"))
    world.set_limits(limit("member", "20"))
    reached = []
    for number, drawn in enumerate(("1", "3", "4", "2"), start=2):
        world.send(usage(f"e-{number}", drawn, run="run-2"))
        reached.append(world.account().limit_counts[0].notified_percent)

    assert reached == [0, 70, 90, 100]
    assert [n.data["percent"] for n in world.notices("limit.warning")] == [100, 70, 90, 100]


def test_a_limit_that_was_raised_warns_again_at_once_where_much_is_drawn() -> None:
    world = LimitWorld(limit("team", "10"))
    world.send(usage("e-1", "10"))
    world.set_limits(limit("team", "20"))

    world.send(usage("e-2", "9", run="run-2"))

    assert [n.data["percent"] for n in world.notices("limit.warning")] == [100, 90]


@pytest.mark.parametrize(
    ("period", "later"),
    [("day", timedelta(days=1)), ("week", timedelta(days=7)), ("month", timedelta(days=31))],
)
def test_the_next_period_begins_at_zero(period: str, later: timedelta) -> None:
    world = LimitWorld(limit("member", "10", period))
    world.send(usage("e-1", "10"))
    assert world.outcomes(usage("e-2", "1", run="run-2")) == ["insufficient"]

    assert world.outcomes(usage("e-3", "10", run="run-3"), now=NOW + later) == ["debited"]


def test_a_worker_whose_clock_is_slow_counts_in_the_newer_period() -> None:
    world = LimitWorld(limit("team", "10", "day"))
    world.send(usage("e-1", "10"), now=NOW + timedelta(days=1))

    assert world.outcomes(usage("e-2", "1", user="ben", run="run-2"), now=NOW) == ["insufficient"]


def test_reservations_count_when_they_are_made_and_free_what_they_leave() -> None:
    world = LimitWorld(limit("member", "10"))
    reserving = {"credits": "6", "reserve": "estimate"}

    assert world.outcomes(requested("r-1", run="run-1", **reserving)) == ["accepted"]
    assert world.outcomes(requested("r-2", run="run-2", **reserving)) == ["insufficient"]
    world.send(usage("u-1", "2", run="run-1"), finished("f-1", run="run-1"))

    assert world.outcomes(requested("r-3", run="run-3", **reserving)) == ["accepted"]
    assert world.drawn(OF_ANA) == "2"


def test_usage_draws_its_own_reservation_even_where_nothing_else_is_left() -> None:
    world = LimitWorld(limit("member", "10"))
    world.send(requested("r-1", run="run-1", credits="6", reserve="estimate"))
    world.send(requested("r-2", run="run-2", credits="4", reserve="estimate"))

    assert world.outcomes(usage("u-1", "6", run="run-1")) == ["debited"]
    assert world.outcomes(usage("u-2", "1", run="run-1")) == ["insufficient"]
    assert world.outcomes(usage("u-3", "4", run="run-2")) == ["debited"]
    assert world.drawn(OF_ANA) == "10"


def test_a_child_takes_from_its_parent_within_the_same_limit() -> None:
    world = LimitWorld(limit("member", "10"))
    world.send(requested("r-1", run="root", credits="10", reserve="estimate"))

    assert world.outcomes(requested("r-2", run="child", credits="4", parent_run_id="root")) == [
        "accepted"
    ]
    assert world.outcomes(usage("u-1", "4", run="child"), finished("f-1", run="child")) == [
        "debited",
        "finished",
    ]
    assert world.outcomes(usage("u-2", "6", run="root")) == ["debited"]
    assert world.drawn(OF_ANA) == "10"


def test_a_platform_error_gives_the_room_back() -> None:
    world = LimitWorld(limit("member", "10"))
    world.send(usage("e-1", "10"))

    world.send(finished("f-1", "error"))

    assert world.drawn(OF_ANA) == "0"
    assert world.outcomes(usage("e-2", "10", run="run-2")) == ["debited"]


def test_a_platform_error_gives_nothing_back_to_a_later_period() -> None:
    world = LimitWorld(limit("member", "10", "day"))
    world.send(usage("e-1", "10"))
    tomorrow = NOW + timedelta(days=1)
    world.send(usage("e-2", "4", run="run-2"), now=tomorrow)

    world.send(finished("f-1", "error"), now=tomorrow)

    assert world.drawn(LimitKey("acme", "member", "ana", "day")) == "4"


def test_a_limit_can_be_raised_for_a_while() -> None:
    until = NOW + HOUR
    world = LimitWorld(limit("member", "10", raise_until=until))

    assert world.outcomes(usage("e-1", "15")) == ["debited"]
    assert world.outcomes(usage("e-2", "1", run="run-2"), now=until) == ["insufficient"]
    assert world.drawn(OF_ANA) == "15"


def test_a_limit_that_is_lowered_stops_even_what_was_reserved() -> None:
    world = LimitWorld(limit("member", "10"))
    world.send(requested("r-1", run="run-1", credits="8", reserve="estimate"))
    world.set_limits(limit("member", "5"))

    entry = world.entry(usage("u-1", "8", run="run-1"))

    assert (entry.drawn_microcredits, entry.shortfall_microcredits) == (5_000_000, 3_000_000)
    assert entry.limits.refused_by is not None


def test_another_period_is_another_limit_and_begins_at_zero() -> None:
    world = LimitWorld(limit("member", "10"))
    world.send(usage("e-1", "10"))
    world.set_limits(limit("member", "10", "week"))

    assert world.outcomes(usage("e-2", "10", run="run-2")) == ["debited"]


def test_another_zone_acts_from_the_next_period() -> None:
    world = LimitWorld(limit("member", "10", "day"))
    world.send(usage("e-1", "10"))
    # It is midnight in Auckland before it is in Berlin.
    world.team = team_with(*world.team.limits, team=world.team, time_zone="Pacific/Auckland")

    in_auckland_tomorrow = NOW + 4 * HOUR
    assert world.outcomes(usage("e-2", "1", run="run-2"), now=in_auckland_tomorrow) == [
        "insufficient"
    ]
    assert world.outcomes(usage("e-3", "1", run="run-3"), now=NOW + 14 * HOUR) == ["debited"]


def test_an_account_counts_bounded_limits_and_stops_at_one_that_it_cannot_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent_credits.commit.limits.COUNTS_MAX", 2)
    world = LimitWorld(limit("member", "10"), team=BIGCORP_TEAM, payers=(BIGCORP,), pool="contract")
    of_bigcorp = {"team": "bigcorp"}
    world.send(usage("e-1", "1", user="ana", run="r-1", **of_bigcorp))
    world.send(usage("e-2", "1", user="ben", run="r-2", **of_bigcorp))

    entry = world.entry(usage("e-3", "1", user="carl", run="r-3", **of_bigcorp))

    assert entry.limits.refused_by is not None
    assert entry.limits.refused_by.cannot_count
    next_month = NOW + timedelta(days=30)
    again = usage("e-4", "1", user="carl", run="r-4", **of_bigcorp)
    assert world.outcomes(again, now=next_month) == ["debited"]


# Limits of several accounts


def test_a_limit_of_the_team_holds_over_the_accounts_of_its_members() -> None:
    world = LimitWorld(limit("team", "10"))

    assert world.outcomes(usage("e-1", "6")) == ["debited"]
    entry = world.entry(usage("e-2", "6", user="ben", run="run-2"))

    assert entry.drawn_microcredits == 4_000_000
    assert entry.limits.refused_by is not None
    assert entry.limits.refused_by.drawn_microcredits == 6_000_000
    assert (world.row(OF_TEAM), world.drawn(OF_TEAM), world.drawn(OF_TEAM, BEN)) == ("10", "6", "4")


def test_accounts_of_a_batch_are_committed_in_one_transaction() -> None:
    world = LimitWorld(limit("team", "10"))

    results = world.send_together(usage("e-1", "6"), usage("e-2", "6", user="ben", run="run-2"))

    assert [name_of(result) for result in results] == ["debited", "insufficient"]
    assert world.rows.limits[OF_TEAM].version == 1
    assert len(world.rows.limit_stream) == 1


def test_events_of_a_team_without_spanning_limits_write_one_row() -> None:
    world = LimitWorld(limit("member", "10"))

    world.send(usage("e-1", "6"))

    assert world.rows.limits == {}


def test_a_repeat_counts_once_over_several_accounts() -> None:
    world = LimitWorld(limit("team", "10"))
    world.send_together(usage("e-1", "3"), usage("e-2", "3", user="ben", run="run-2"))

    world.send_together(usage("e-1", "3"), usage("e-2", "3", user="ben", run="run-2"))

    assert world.row(OF_TEAM) == "6"


def test_a_reservation_counts_on_the_limits_row_until_it_expires_by_itself() -> None:
    world = LimitWorld(limit("team", "10"))
    world.send(requested("r-1", run="run-1", credits="8", reserve="estimate", ttl_seconds=3600))
    ben = requested("r-2", user="ben", run="run-2", credits="8", reserve="estimate")
    assert world.outcomes(ben) == ["insufficient"]

    # Ana's account has no commit meanwhile.
    later = NOW + HOUR + 5 * MINUTE
    again = requested("r-3", user="ben", run="run-3", credits="8", reserve="estimate")
    assert world.outcomes(again, now=later) == ["accepted"]


def test_settling_frees_the_room_on_the_limits_row() -> None:
    world = LimitWorld(limit("team", "10"))
    world.send(requested("r-1", run="run-1", credits="8", reserve="estimate"))
    world.send(usage("u-1", "2", run="run-1"), finished("f-1", run="run-1"))

    ben = requested("r-2", user="ben", run="run-2", credits="8", reserve="estimate")
    assert world.outcomes(ben) == ["accepted"]
    assert world.rows.limits[OF_TEAM].held_microcredits(NOW) == 8_000_000


def test_a_release_by_hand_frees_the_room_on_the_limits_row() -> None:
    world = LimitWorld(limit("team", "10"))
    world.send(requested("r-1", run="run-1", credits="8", reserve="estimate"))

    change = ReleaseChange(ANA, "run-1", "release-1", "stuck")
    commit_changes(world.rows, ANA, [change], now=NOW, pause=pause)

    world.check()
    assert world.rows.limits[OF_TEAM].held == ()


def test_a_grant_that_comes_after_an_expiry_leaves_the_limits_row_alone() -> None:
    world = LimitWorld(limit("team", "10"))
    world.send(requested("r-1", run="run-1", credits="8", reserve="estimate", ttl_seconds=3600))

    change = grant_change("g-2", credits="1")
    commit_changes(world.rows, ANA, [change], now=NOW + HOUR, pause=pause)

    assert world.rows.limits[OF_TEAM].version == 1
    ben = requested("r-2", user="ben", run="run-2", credits="8", reserve="estimate")
    assert world.outcomes(ben, now=NOW + HOUR + 5 * MINUTE) == ["accepted"]


# Whose limits span no accounts: the owner pays for everybody.
OWNER_PAYS = POLICY.model_copy(
    update={
        "version": "owner-pays",
        "rules": (POLICY.rules[0].model_copy(update={"payer": "owner"}), *POLICY.rules[1:]),
    }
)


def test_a_limit_that_begins_to_span_accounts_takes_over_what_an_account_has_counted() -> None:
    world = LimitWorld(limit("team", "10"), policy=OWNER_PAYS, payers=(OLGA, BEN))
    world.send(usage("e-1", "6", user="olga"))
    assert world.rows.limits == {}

    world.policy = POLICY
    world.send(usage("e-2", "1", user="olga", run="run-2"))

    assert world.row(OF_TEAM) == "7"
    assert world.outcomes(usage("e-3", "4", user="ben", run="run-3")) == ["insufficient"]


def test_a_limit_that_begins_to_span_accounts_takes_over_what_is_reserved() -> None:
    world = LimitWorld(limit("team", "10"), policy=OWNER_PAYS, payers=(OLGA, BEN))
    world.send(
        requested("r-1", user="olga", run="run-1", credits="6", reserve="estimate"),
    )
    world.policy = POLICY
    reserving = {"user": "ben", "credits": "3", "reserve": "estimate"}
    assert world.outcomes(requested("r-2", run="run-2", **reserving)) == ["accepted"]

    # Olga's six are not among the three on the limit's row, so she is left one.
    assert world.outcomes(usage("e-1", "2", user="olga", run="run-3")) == ["insufficient"]
    assert world.rows.limits[OF_TEAM].held_microcredits(NOW) == 9_000_000
    assert world.outcomes(finished("f-1", user="olga", run="run-1")) == ["finished"]

    assert world.row(OF_TEAM) == "1"
    assert world.rows.limits[OF_TEAM].held_microcredits(NOW) == 3_000_000


def test_a_limit_that_no_longer_spans_accounts_leaves_nothing_of_an_account_on_its_row() -> None:
    world = LimitWorld(limit("team", "10", "day"), payers=(OLGA, BEN))
    key = LimitKey("acme", "team", "acme", "day")
    world.send(
        requested("r-1", user="olga", run="run-1", credits="6", reserve="estimate", ttl_seconds=DAY)
    )
    world.policy, tomorrow = OWNER_PAYS, NOW + 14 * HOUR

    world.send(usage("e-1", "1", user="olga", run="run-2"), now=tomorrow)

    assert world.drawn(key, OLGA) == "1"
    assert (world.row(key), world.rows.limits[key].held) == ("0", ())


def test_a_limit_that_began_to_span_accounts_does_so_until_its_period_is_over() -> None:
    world = LimitWorld(limit("team", "10"), payers=(OLGA, BEN))
    world.send(usage("e-1", "6", user="olga"), usage("e-2", "3", user="ben", run="run-2"))

    world.policy = OWNER_PAYS

    assert world.outcomes(usage("e-3", "2", user="olga", run="run-3")) == ["insufficient"]
    assert world.row(OF_TEAM) == "10"


def test_a_month_ends_at_midnight_of_the_team_s_zone() -> None:
    assert period_ends_at("month", "Europe/Berlin", NOW) == datetime(2025, 11, 30, 23, tzinfo=UTC)
    december = datetime(2025, 12, 31, 12, tzinfo=UTC)
    assert period_ends_at("month", "UTC", december) == datetime(2026, 1, 1, tzinfo=UTC)
    # 21 November 2025 is a Friday.
    assert period_ends_at("week", "UTC", NOW) == datetime(2025, 11, 24, tzinfo=UTC)
    assert period_ends_at("day", "UTC", NOW) == datetime(2025, 11, 22, tzinfo=UTC)


def test_a_reservation_counts_under_no_limit_whose_count_is_over_and_cannot_begin_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("commit.limits", "ledger.accounts"):
        monkeypatch.setattr(f"agent_credits.{module}.COUNTS_MAX", 2)
    by_day = limit("member", "10", "day", action="warn")
    world = LimitWorld(by_day, payers=(ANA,))
    world.send(usage("e-1", "1", run="run-1"))
    tomorrow = NOW + timedelta(days=1)

    # Two others begin in the commit that would begin the first again.
    world.set_limits(limit("member", "10", "month"), limit("member", "10", "week"))
    two_others = world.changes(usage("e-2", "1", run="run-2"))[ANA]
    world.set_limits(by_day)
    reserves = world.changes(requested("r-1", run="run-3", credits="1", reserve="estimate"))[ANA]
    commit_changes(world.rows, ANA, [*two_others, *reserves], now=tomorrow, pause=pause)

    assert [held.limits for held in world.account().reservations] == [()]
    assert len(world.account().limit_counts) == 2


def test_what_ceased_to_count_does_not_count_again_for_a_clock_that_is_behind() -> None:
    world = LimitWorld(limit("team", "10"))
    world.send(requested("r-1", run="run-1", credits="4", reserve="estimate", ttl_seconds=3600))
    # Ben's worker is ahead, and finds the reservation's time over.
    ahead = NOW + HOUR + 5 * MINUTE
    world.send(usage("e-1", "1", user="ben", run="run-2"), now=ahead)

    world.send(finished("f-1", run="run-1"), now=NOW + 59 * MINUTE)

    assert world.rows.limits[OF_TEAM].held == ()
    assert world.row(OF_TEAM) == "1"
