"""The notices of limits, word for word, how often each is sent, and of what they are derived."""

import base64
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from agent_credits.aws.items import Item, account_item, limit_row_item, team_item
from agent_credits.aws.stream_records import change_of
from agent_credits.billing.limits import TeamLimit
from agent_credits.ledger.limits import LimitKey, LimitStanding
from agent_credits.notices.announcements import NoticeSettings, notices_of
from agent_credits.notices.limit_refusals import refusal_fixes, refusal_text
from agent_credits.notices.notice import Notice
from agent_credits.notices.problem import insufficient_credits_problem
from agent_credits.values.credits import parse_credits
from agent_credits.values.principals import Principal
from tests.golden import assert_golden, data_and_email_of, email_of
from tests.unit.builders import (
    BEN,
    BIGCORP,
    BIGCORP_TEAM,
    NOW,
    finished,
    requested,
    usage,
)
from tests.unit.limit_world import LimitWorld, limit, team_with
from tests.unit.reservation_world import extended, policy

SETTINGS = NoticeSettings(problem_type_base_url="")
DAY = timedelta(days=1)
RESERVING = policy(reserve="none", default_estimate_microcredits=0)


def as_delivered(old: Item | None, new: Item, at: datetime = NOW) -> dict[str, Any]:
    """Return a record of the change stream as it is in a Lambda event, where all is JSON."""
    record = {
        **({"OldImage": old} if old else {}),
        "NewImage": new,
        "ApproximateCreationDateTime": int(at.timestamp()),
    }
    text = json.dumps(record, default=lambda b: base64.b64encode(b).decode())
    return dict(json.loads(text))


def announced(old: Item | None, new: Item) -> list[Notice]:
    return notices_of(change_of(as_delivered(old, new)), SETTINGS)


def notices_of_type(world: LimitWorld, notice_type: str) -> list[Notice]:
    """Return the notices of every commit, derived from the images of its rows alone."""
    accounts, limits = world.rows.stream, world.rows.limit_stream
    images = [
        *((old and account_item(old), account_item(new)) for old, new in accounts),
        *((old and limit_row_item(old), limit_row_item(new)) for old, new in limits),
    ]
    found = [notice for old, new in images for notice in announced(old, new)]
    return [notice for notice in found if notice.type == notice_type]


def warnings(world: LimitWorld) -> list[Notice]:
    return notices_of_type(world, "limit.warning")


def percents(world: LimitWorld) -> list[int]:
    return [notice.data["percent"] for notice in warnings(world)]


def warning(world: LimitWorld) -> Notice:
    (notice,) = warnings(world)
    return notice


def failure(world: LimitWorld) -> Notice:
    (notice,) = notices_of_type(world, "insufficient_credits")
    return notice


def member_at(credits: str, **fields: Any) -> LimitWorld:  # noqa: A002
    """Ana, who may draw 100 credits a month, has drawn so many."""
    world = LimitWorld(limit("member", "100", **fields))
    world.send(usage("e-1", credits))
    return world


def team_of_two() -> LimitWorld:
    """Two members, who pay themselves, drew 95 of the 100 credits a week of their team."""
    world = LimitWorld(limit("team", "100", "week"))
    world.send(usage("e-1", "45"), usage("e-2", "50", user="ben", run="run-2"))
    return world


def of_several_limits() -> LimitWorld:
    """A run that its member's limit stops, while its team's and its own have room."""
    world = LimitWorld(
        limit("team", "1000", "day", action="warn"),
        limit("member", "100"),
        limit("run", "80", "run"),
    )
    world.send(usage("e-1", "60", project_id="web"))
    world.send(usage("e-2", "50", run="run-42", project_id="web"))
    return world


def of_a_limit_of_each_run() -> LimitWorld:
    world = LimitWorld(limit("run", "80", "run"))
    world.send(usage("e-1", "85.5"))
    return world


def of_a_reserved_limit(wanted: str = "30") -> LimitWorld:
    """A request finds 20 credits under a limit of 100, because two others hold the rest."""
    world = LimitWorld(limit("member", "100"), policy=RESERVING)
    world.send(
        requested("r-1", run="run-1", credits="40", reserve="estimate"),
        requested("r-2", run="run-2", credits="40", reserve="estimate"),
        requested("r-3", run="run-3", credits=wanted, reserve="estimate"),
    )
    return world


def raised_by(before: Sequence[TeamLimit], now: Sequence[TeamLimit]) -> list[Notice]:
    """Return the notices of a team that changes its limits from the first to the second."""
    old, new = team_with(*before, version=7), team_with(*now, version=8)
    return announced(team_item(old), team_item(new))


def some_raised() -> Notice:
    (notice,) = raised_by(
        [limit("team", "1000"), limit("member", "100"), limit("project", "50", "day", id="web")],
        [
            limit("team", "1500"),
            limit("member", "100", raise_until=NOW + DAY),
            limit("project", "50", "day", id="web"),
        ],
    )
    return notice


def test_a_warning_below_the_limit() -> None:
    notice = warning(member_at("72"))

    assert (notice.severity, notice.team_id, str(notice.principal)) == (
        "warning",
        "acme",
        "user:ana",
    )
    assert_golden("limits/warning_70.txt", data_and_email_of(notice))


def test_a_warning_that_the_limit_is_reached_is_critical() -> None:
    notice = warning(member_at("100"))

    assert notice.severity == "critical"
    assert_golden("limits/warning_100.txt", data_and_email_of(notice))


def test_a_limit_that_only_warns_does_not_say_that_runs_fail() -> None:
    world = member_at("130", action="warn")

    assert notices_of_type(world, "insufficient_credits") == []
    assert_golden("limits/only_warns.txt", data_and_email_of(warning(world)))


def test_a_limit_over_several_accounts_may_only_warn() -> None:
    world = LimitWorld(limit("team", "100", action="warn"))
    world.send(usage("e-1", "130"))

    notice = warning(world)

    assert notice.data["limit"]["action"] == "warn"
    assert "This limit only warns." in notice.email_text


def test_a_limit_over_several_accounts_is_announced_for_the_team_and_once() -> None:
    notice = warning(team_of_two())

    assert str(notice.principal) == "team:acme"
    assert_golden("limits/of_two_accounts.txt", data_and_email_of(notice))


def test_a_warning_shows_what_reservations_hold() -> None:
    on_account = LimitWorld(limit("member", "100"), policy=RESERVING)
    spanning = LimitWorld(limit("team", "100"), policy=RESERVING)
    for world in (on_account, spanning):
        world.send(
            usage("e-1", "70"), requested("r-1", run="run-2", credits="25", reserve="estimate")
        )

        limit_data = warning(world).data["limit"]
        assert (limit_data["used_credits"], limit_data["reserved_credits"]) == ("70", "25")
        assert "Reserved under it: 25 credits" in warning(world).email_text


def test_usage_that_crosses_several_levels_is_announced_once() -> None:
    assert percents(member_at("95")) == [90]


@pytest.mark.parametrize("scope", ["member", "team"])
def test_each_level_is_announced_once_in_a_period(scope: str) -> None:
    world = LimitWorld(limit(scope, "100"))

    for number in range(20):
        world.send(usage(f"e-{number}", "5.5", run=f"run-{number}"))

    assert percents(world) == [70, 90, 100]
    assert [n.severity for n in warnings(world)] == ["warning", "warning", "critical"]


@pytest.mark.parametrize("scope", ["member", "team"])
def test_the_next_period_is_announced_again_under_new_ids(scope: str) -> None:
    world = LimitWorld(limit(scope, "100"))
    world.send(usage("e-1", "75"))

    world.send(usage("e-2", "75", run="run-2"), now=NOW + 20 * DAY)

    assert percents(world) == [70, 70]
    assert len({notice.id for notice in warnings(world)}) == 2


def test_what_goes_back_and_is_drawn_again_is_not_announced_again() -> None:
    world = member_at("75")
    world.send(finished("e-2", status="error"))

    world.send(usage("e-3", "75", run="run-2"))

    assert percents(world) == [70]


def test_the_same_user_in_two_teams_has_warnings_of_two_ids() -> None:
    world = member_at("75")
    world.team = world.team.model_copy(update={"team_id": "beta"})

    world.send(usage("e-2", "75", run="run-2", team="beta"))

    assert [notice.team_id for notice in warnings(world)] == ["acme", "beta"]
    assert len({notice.id for notice in warnings(world)}) == 2


@pytest.mark.parametrize("make", [lambda: member_at("95"), team_of_two], ids=["account", "row"])
def test_a_redelivered_record_gives_the_same_warning(make: Any) -> None:
    world = make()

    assert warnings(world) == warnings(world)
    assert warning(world).id == warning(world).id


def test_an_account_whose_first_commit_reaches_a_limit_is_announced_too() -> None:
    world = member_at("75")
    _, new = world.rows.stream[-1]

    (notice,) = announced(None, account_item(new))

    assert notice.data["percent"] == 70


def test_a_limits_row_has_the_time_at_which_it_was_written() -> None:
    old, new = team_of_two().rows.limit_stream[-1]
    assert old is not None
    later = NOW + 3 * DAY

    change = change_of(as_delivered(limit_row_item(old), limit_row_item(new), later))
    (notice,) = notices_of(change, SETTINGS)

    assert notice.time == later


def test_an_enterprise_gets_the_warning_on_its_own_account() -> None:
    world = LimitWorld(
        limit("project", "100", "day", id="web"),
        team=BIGCORP_TEAM,
        payers=(BIGCORP,),
        pool="contract",
    )
    world.send(usage("e-1", "100", team="bigcorp", project_id="web"))

    notice = warning(world)

    assert str(notice.principal) == "team:bigcorp"
    assert notice.email_subject == "The daily limit of project web of team bigcorp is 100% used"


def test_a_team_whose_kind_changes_has_warnings_of_two_ids() -> None:
    # Its users pay for themselves at first, and the team does from then on.
    of_users = LimitWorld(limit("team", "100", "week"))
    of_users.send(usage("e-1", "95"))
    enterprise = BIGCORP_TEAM.model_copy(update={"team_id": "acme"})
    of_team = LimitWorld(
        limit("team", "100", "week"),
        team=enterprise,
        payers=(Principal("team", "acme"),),
        pool="contract",
    )
    of_team.send(usage("e-2", "95"))

    one, other = warning(of_users), warning(of_team)

    assert one.principal == other.principal
    assert one.id != other.id


def test_the_notice_of_raised_limits() -> None:
    notice = some_raised()

    assert (notice.type, notice.severity, notice.retryable) == ("limit.raised", "info", True)
    assert_golden("limits/raised.txt", data_and_email_of(notice))


@pytest.mark.parametrize(
    ("now", "subject"),
    [
        (limit("member", "200"), "Team acme: the monthly limit of each member was raised"),
        (
            limit("member", "100", raise_until=NOW + DAY),
            "Team acme: the monthly limit of each member was lifted for a while",
        ),
    ],
    ids=["raised", "lifted"],
)
def test_one_limit_is_named_in_the_subject(now: TeamLimit, subject: str) -> None:
    (notice,) = raised_by([limit("member", "100")], [now])

    assert notice.email_subject == subject


@pytest.mark.parametrize(
    "now",
    [
        [limit("member", "100")],
        [limit("member", "99")],
        [limit("member", "100", raise_until=NOW)],
        [limit("member", "100"), limit("member", "500", "day")],
        [limit("member", "100"), limit("member", "50", id="ana")],
        [],
    ],
    ids=["same", "lowered", "lifted in the past", "a new one", "lower for one", "removed"],
)
def test_what_raises_no_limit_is_not_announced(now: list[TeamLimit]) -> None:
    assert raised_by([limit("member", "100")], now) == []


def test_a_limit_of_one_member_above_that_of_each_is_a_raise() -> None:
    (notice,) = raised_by(
        [limit("member", "100")], [limit("member", "100"), limit("member", "200", id="ana")]
    )

    assert [(x["id"], x["previous_credits"]) for x in notice.data["limits"]] == [("ana", "100")]


def test_a_limit_that_was_lifted_in_the_past_is_not_called_lifted() -> None:
    (notice,) = raised_by([limit("team", "1")], [limit("team", "2", raise_until=NOW)])

    (shown,) = notice.data["limits"]
    assert "lifted_until" not in shown


def test_a_limit_that_stays_lifted_is_announced_once() -> None:
    lifted = limit("member", "100", raise_until=NOW + DAY)

    assert raised_by([lifted], [lifted]) == []


def test_each_raise_has_an_id_of_its_own() -> None:
    before, after = team_with(limit("team", "1")), team_with(limit("team", "2"))
    ids = {
        notice.id
        for version in (2, 4)
        for notice in announced(
            team_item(before), team_item(after.model_copy(update={"version": version}))
        )
    }

    assert len(ids) == 2


def test_a_new_team_raises_nothing() -> None:
    assert announced(None, team_item(team_with(limit("team", "1")))) == []


def test_a_run_that_a_limit_stops_names_that_limit_and_all_others() -> None:
    assert_golden("limits/stopped.txt", data_and_email_of(failure(of_several_limits())))


def test_a_run_at_the_limit_of_each_run_may_be_followed_by_another() -> None:
    notice = failure(of_a_limit_of_each_run())

    assert "retrying will not help" not in notice.email_text
    assert_golden("limits/stopped_at_its_own.txt", data_and_email_of(notice))


def test_a_request_that_finds_the_rest_of_the_limit_reserved() -> None:
    notice = failure(of_a_reserved_limit())

    assert_golden("limits/reserved.txt", data_and_email_of(notice))


def test_a_request_that_finds_all_of_the_limit_reserved() -> None:
    world = of_a_reserved_limit(wanted="20")

    world.send(requested("r-4", run="run-4"))

    assert failure(world).email_subject == (
        "Run run-4 failed: the monthly limit of member ana leaves nothing beside what is reserved"
    )


def test_usage_past_its_reservation_shows_the_limit_as_it_stands_afterwards() -> None:
    world = LimitWorld(limit("member", "100"), policy=RESERVING)
    world.send(usage("e-1", "60", run="run-0"))
    world.send(
        requested("r-1", run="run-1", credits="10", reserve="estimate"),
        requested("r-2", run="run-2", credits="5", reserve="estimate"),
    )

    world.send(usage("e-2", "50", run="run-1"))

    shown = failure(world).data["limit"]
    assert (shown["used_credits"], shown["reserved_credits"]) == ("95", "5")
    assert failure(world).data["shortfall_credits"] == "15"


def test_a_reservation_that_does_not_count_under_the_limit_leaves_what_it_reserves() -> None:
    world = LimitWorld(policy=RESERVING)
    world.send(requested("r-1", run="run-1", credits="50", reserve="estimate"))
    world.set_limits(limit("member", "100"))
    world.send(requested("r-2", run="run-2", credits="90", reserve="estimate"))

    world.send(usage("e-1", "50", run="run-1"))

    shown = failure(world).data["limit"]
    assert (shown["used_credits"], shown["reserved_credits"]) == ("10", "90")


def test_a_reservation_that_ended_in_the_same_commit_is_no_longer_shown() -> None:
    world = LimitWorld(limit("member", "100"), policy=RESERVING)
    world.send(requested("r-1", credits="60", reserve="estimate"))

    world.send(usage("e-1", "150"), finished("e-2"))

    shown = failure(world).data["limit"]
    assert (shown["used_credits"], shown["reserved_credits"]) == ("100", "0")


def test_a_reservation_from_before_the_limit_takes_nothing_from_what_is_shown() -> None:
    world = LimitWorld(policy=RESERVING)
    world.send(requested("r-1", credits="60", reserve="estimate"))
    world.set_limits(limit("member", "100"))

    world.send(usage("e-1", "150"), finished("e-2"))

    assert failure(world).data["limit"]["reserved_credits"] == "0"


def test_usage_at_the_limit_of_its_run_shows_what_is_left_of_its_own_reservation() -> None:
    world = LimitWorld(limit("run", "80", "run"), policy=RESERVING)
    world.send(requested("r-1", credits="50", reserve="estimate"))

    world.send(usage("e-1", "90"))

    shown = failure(world).data["limit"]
    assert (shown["used_credits"], shown["reserved_credits"]) == ("80", "0")


def test_a_run_that_cannot_be_extended_past_its_own_limit_need_not_wait_for_others() -> None:
    world = LimitWorld(limit("run", "80", "run"), policy=RESERVING)
    world.send(requested("r-1", credits="60", reserve="estimate"))

    world.send(extended("x-1", credits="40"))

    notice = failure(world)
    assert notice.data["limit"]["reserved_credits"] == "60"
    assert not any("other runs" in step for step in notice.data["fix"])


def test_a_run_that_is_to_pause_at_a_limit_goes_on_under_its_own_id() -> None:
    grace = {"overrun": "pause", "grace_microcredits": parse_credits("100")}
    pausing = policy(reserve="none", default_estimate_microcredits=0, **grace)
    world = LimitWorld(limit("member", "60"), policy=pausing)
    world.send(requested("r-1", credits="50", reserve="estimate"))

    world.send(usage("e-1", "70"))

    notice = failure(world)
    assert notice.data["task_state"] == "PAUSED"
    reached = "the monthly limit of member ana is reached"
    assert notice.email_subject == f"Run run-1 is to pause: {reached}"
    assert "goes on under its own ID" in notice.data["fix"][-1]


@pytest.mark.parametrize(
    "make",
    [of_several_limits, of_a_limit_of_each_run, of_a_reserved_limit],
    ids=lambda f: f.__name__,
)
def test_a_limit_that_refuses_claims_nothing_of_the_pools_and_sells_nothing(make: Any) -> None:
    notice = failure(make())

    text = email_of(notice) + json.dumps(notice.data["fix"])
    for wrong in ("out of credits", "too few credits", "urchase", "auto-reload", "Auto-reload"):
        assert wrong not in text
    assert notice.data["cause"] == "limit_reached"
    assert notice.data["auto_reload"] == {"state": "not_needed"}
    assert notice.data["problem"] == insufficient_credits_problem("")


def test_a_limit_that_spans_accounts_is_shown_with_what_all_of_them_drew() -> None:
    world = LimitWorld(limit("team", "100"))
    world.send(usage("e-1", "70", user="ben"))

    world.send(usage("e-2", "40", run="run-2"))

    assert failure(world).data["limit"]["used_credits"] == "100"
    assert failure(world).data["shortfall_credits"] == "10"
    assert world.available(BEN) == "430"


def test_a_limit_that_the_account_cannot_count_says_what_to_remove() -> None:
    key = LimitKey("acme", "project", "web", "day")
    standing = LimitStanding(key, 100, True, 0, 0, cannot_count=True)

    assert refusal_text(standing) == (
        "the daily limit of project web is one more than the account can count"
    )
    assert refusal_fixes(standing, "acme") == [
        (
            "An admin of team acme: remove limits that are not needed. An account counts at most "
            "500 of them in their periods."
        )
    ]
