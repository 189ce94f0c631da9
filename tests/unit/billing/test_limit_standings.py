"""Where limits stand at a time, by the accounts' rows and by the rows of limits that span them."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent_credits.billing import limit_standings
from agent_credits.billing.limit_standings import (
    CurrentLimits,
    accounts_that_count,
    current_limits,
)
from agent_credits.billing.limits import TeamLimit
from agent_credits.billing.teams import EVERYONE, Team
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Draw
from agent_credits.ledger.limits import (
    LimitCount,
    LimitKey,
    LimitPeriod,
    LimitRow,
    LimitScope,
)
from agent_credits.ledger.reservations import Reservation, ReservationTerms
from agent_credits.values.credits import format_credits, parse_credits
from agent_credits.values.principals import Principal
from tests.unit.builders import ACME, ANA, BEN, BIGCORP, BIGCORP_TEAM, MINUTE, NOW, POLICY, grant

# Of the zones of the two teams: NOW is the 21st of November, a Friday.
MONTH_ENDS = datetime(2025, 11, 30, 23, 0, tzinfo=UTC)
MONTH_ENDS_IN_NEW_YORK = datetime(2025, 12, 1, 5, 0, tzinfo=UTC)
DAY_ENDS = datetime(2025, 11, 21, 23, 0, tzinfo=UTC)

Shown = tuple[str, str | None, str | None, str | None]


class LimitRowsFake:
    """The rows of limits, and the keys that were asked for."""

    def __init__(self, *rows: LimitRow) -> None:
        self._rows = {row.key: row for row in rows}
        self.asked: list[LimitKey] = []

    def read_limits(self, keys: Collection[LimitKey]) -> Mapping[LimitKey, LimitRow]:
        self.asked += keys
        return {key: self._rows[key] for key in keys if key in self._rows}


def limit(
    scope: LimitScope,
    period: LimitPeriod = "month",
    credits: str = "100",  # noqa: A002
    id: str | None = None,  # noqa: A002
    **fields: Any,
) -> TeamLimit:
    microcredits = 0 if credits == "0" else parse_credits(credits)
    document = {"scope": scope, "id": id, "period": period, "microcredits": microcredits}
    return TeamLimit.model_validate(document | fields)


def count(
    scope: LimitScope,
    of: str,
    drawn: str,
    ends_at: datetime = MONTH_ENDS,
    *,
    team: Team = ACME,
    period: LimitPeriod = "month",
    spans: bool = False,
) -> LimitCount:
    key = LimitKey(team.team_id, scope, of, period)
    return LimitCount(key, ends_at, drawn_microcredits=parse_credits(drawn), spans_accounts=spans)


def row_of(
    key: LimitKey,
    drawn: str,
    held: tuple[tuple[datetime, int], ...] = (),
    ends_at: datetime = MONTH_ENDS,
) -> LimitRow:
    return LimitRow(
        key=key,
        ends_at=ends_at,
        version=1,
        drawn_microcredits=parse_credits(drawn),
        held=held,
    )


def held_by(run_id: str, credits: str, *keys: LimitKey, ttl: timedelta = MINUTE) -> Reservation:  # noqa: A002
    held = parse_credits(credits)
    return Reservation(
        run_id,
        parent_run_id=None,
        expires_at=NOW + ttl,
        terms=ReservationTerms(),
        parts=(Draw("contract", "g-1", held),),
        reserved_microcredits=held,
        limits=keys,
    )


def with_limits(team: Team, *limits: TeamLimit) -> Team:
    return team.model_copy(update={"limits": limits})


def shown(current: CurrentLimits) -> list[Shown]:
    """Return what each limit limits, what is drawn and what is reserved under it."""
    return [
        (
            f"{one.declared.scope} per {one.declared.period}",
            one.id,
            format_credits(one.standing.drawn_microcredits) if one.standing else None,
            format_credits(one.standing.held_microcredits) if one.standing else None,
        )
        for one in current.limits
    ]


def current(
    team: Team,
    *accounts: Account,
    rows: LimitRowsFake | None = None,
    now: datetime = NOW,
) -> CurrentLimits:
    return current_limits(rows or LimitRowsFake(), team, POLICY, accounts, now)


def of_team(credits: str, team: Team = ACME, **fields: Any) -> tuple[Team, LimitKey]:  # noqa: A002
    key = LimitKey(team.team_id, "team", team.team_id, "month")
    return with_limits(team, limit("team", credits=credits, **fields)), key


def test_a_limit_that_spans_accounts_stands_where_its_row_says() -> None:
    team, key = of_team("100")
    held = ((NOW + 5 * MINUTE, parse_credits("7")), (NOW, parse_credits("50")))
    row = row_of(key, "64.5", held)
    ana = Account(ANA, limit_counts=(count("team", "acme", "60", spans=True),))

    (one,) = current(team, ana, rows=LimitRowsFake(row)).limits

    assert one.standing is not None
    assert one.standing.drawn_microcredits == parse_credits("64.5")
    assert one.standing.held_microcredits == parse_credits("7")
    assert one.standing.room_microcredits == parse_credits("28.5")
    assert one.standing.resets_at == MONTH_ENDS
    assert one.standing.used_percent == 64


def test_a_limit_of_a_team_that_pays_stands_where_the_account_says_and_reads_no_row() -> None:
    team, key = of_team("100", BIGCORP_TEAM)
    counted = count("team", "bigcorp", "40", MONTH_ENDS_IN_NEW_YORK, team=BIGCORP_TEAM)
    account = Account(
        BIGCORP,
        grants=(grant("g-1", "contract", "60"),),
        limit_counts=(counted,),
        reservations=(
            held_by("run-1", "10", key),
            held_by("run-2", "5"),
            held_by("run-3", "30", key, ttl=-MINUTE),
        ),
    )
    rows = LimitRowsFake()

    (one,) = current(team, account, rows=rows).limits

    assert one.standing is not None
    assert one.standing.drawn_microcredits == parse_credits("40")
    assert one.standing.held_microcredits == parse_credits("10")
    assert one.standing.resets_at == MONTH_ENDS_IN_NEW_YORK
    assert rows.asked == []


def test_what_nobody_drew_under_yet_stands_at_zero_until_the_period_of_the_zone_ends() -> None:
    team, _ = of_team("100", BIGCORP_TEAM)

    (one,) = current(team).limits

    assert one.standing is not None
    assert (one.standing.drawn_microcredits, one.standing.used_percent) == (0, 0)
    assert one.standing.resets_at == MONTH_ENDS_IN_NEW_YORK


@pytest.mark.parametrize("spans", [True, False], ids=["a limit's row", "an account's count"])
def test_a_period_that_is_over_counts_nothing(spans: bool) -> None:
    team, key = of_team("100", ACME if spans else BIGCORP_TEAM)
    row = row_of(key, "64", ends_at=NOW)
    account = Account(BIGCORP, limit_counts=(LimitCount(key, NOW, parse_credits("64")),))

    (one,) = current(team, account, rows=LimitRowsFake(row)).limits

    assert one.standing is not None
    assert one.standing.drawn_microcredits == 0
    assert one.standing.resets_at is not None
    assert one.standing.resets_at > NOW


def test_a_period_that_began_in_another_zone_ends_when_it_ended_there() -> None:
    team, key = of_team("100", BIGCORP_TEAM)
    counted = LimitCount(key, MONTH_ENDS, parse_credits("64"))

    (one,) = current(team, Account(BIGCORP, limit_counts=(counted,))).limits

    assert one.standing is not None
    assert (one.standing.drawn_microcredits, one.standing.resets_at) == (
        parse_credits("64"),
        MONTH_ENDS,
    )


def test_the_limit_of_each_is_followed_by_those_that_count_the_fullest_first() -> None:
    team = with_limits(
        ACME,
        limit("member", "day", "50"),
        limit("member", "day", "500", id="olga"),
        limit("project"),
        limit("run", "run"),
        limit("project", "run", id="web"),
    )
    ana = Account(
        ANA,
        limit_counts=(
            count("member", "ana", "40", DAY_ENDS, period="day"),
            count("project", "web", "3", spans=True),
            count("project", "api", "1", spans=True),
        ),
    )
    ben = Account(BEN, limit_counts=(count("member", "ben", "45", DAY_ENDS, period="day"),))
    web = row_of(LimitKey("acme", "project", "web", "month"), "3")
    api = row_of(LimitKey("acme", "project", "api", "month"), "20")

    assert shown(current(team, ana, ben, rows=LimitRowsFake(web, api))) == [
        ("project per month", None, None, None),
        ("project per month", "api", "20", "0"),
        ("project per month", "web", "3", "0"),
        ("project per run", "web", None, None),
        ("member per day", None, None, None),
        ("member per day", "ben", "45", "0"),
        ("member per day", "ana", "40", "0"),
        ("member per day", "olga", "0", "0"),
        ("run per run", None, None, None),
    ]


def test_a_limit_of_ones_own_replaces_that_of_each() -> None:
    team = with_limits(ACME, limit("member"), limit("member", credits="10", id="ana"))
    ana = Account(ANA, limit_counts=(count("member", "ana", "9"),))

    own = [one for one in current(team, ana).limits if one.id == "ana"]

    assert [one.standing and one.standing.used_percent for one in own] == [90]


def test_what_was_counted_under_a_limit_that_is_gone_is_not_shown() -> None:
    ana = Account(
        ANA,
        limit_counts=(
            count("member", "ana", "9"),
            count("member", "ana", "9", team=BIGCORP_TEAM),
        ),
    )

    assert current(ACME, ana) == CurrentLimits()
    assert shown(current(with_limits(ACME, limit("member", "week")), ana)) == [
        ("member per week", None, None, None)
    ]


def test_what_a_reservation_holds_counts_in_the_next_period_as_well() -> None:
    team = with_limits(ACME, limit("member"))
    counted = count("member", "ana", "9", NOW - MINUTE)
    account = Account(
        ANA,
        grants=(grant("g-1", "contract", "60"),),
        limit_counts=(counted,),
        reservations=(held_by("run-1", "10", counted.key),),
    )

    assert shown(current(team, account))[1:] == [("member per month", "ana", "0", "10")]


def test_a_limit_that_began_to_span_accounts_does_so_until_its_period_is_over() -> None:
    team, key = of_team("100", BIGCORP_TEAM)
    row = row_of(key, "80")
    shared = LimitCount(key, MONTH_ENDS, parse_credits("30"), spans_accounts=True)
    account = Account(BIGCORP, limit_counts=(shared,))

    drawn = [
        shown(current(team, account, rows=LimitRowsFake(row), now=now))[0][2]
        for now in (NOW, MONTH_ENDS)
    ]

    assert drawn == ["80", "0"]


def test_of_too_many_rows_those_that_drew_most_are_read_and_the_others_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limit_standings, "LIMIT_ROWS_READ_MAX", 2)
    team = with_limits(ACME, limit("project"), limit("project", id="named"))
    projects = (("web", "3"), ("api", "9"), ("docs", "1"))
    counts = tuple(count("project", of, drawn, spans=True) for of, drawn in projects)
    rows = LimitRowsFake()

    found = current(team, Account(ANA, limit_counts=counts), rows=rows)

    assert [key.id for key in rows.asked] == ["named", "api"]
    assert found.left_out == 2


def test_a_limit_of_zero_is_used_up_and_warns_of_nothing() -> None:
    team, _ = of_team("0")

    (one,) = current(team).limits

    assert one.standing is not None
    assert one.standing.used_percent == 100
    assert not one.is_passed
    assert not one.warns(NOW)


@pytest.mark.parametrize(
    ("drawn", "fields", "warns"),
    [
        ("69.999999", {}, False),
        ("70", {}, True),
        ("70", {"raise_until": NOW + MINUTE}, False),
        ("70", {"raise_until": NOW}, True),
        ("70", {"warn_at": (80, 90)}, False),
        ("99", {"warn_at": ()}, False),
        ("100", {"warn_at": ()}, True),
    ],
)
def test_a_limit_warns_from_the_lowest_of_its_percentages_on(
    drawn: str, fields: dict[str, Any], warns: bool
) -> None:
    team, key = of_team("100", **fields)
    rows = LimitRowsFake(row_of(key, drawn))

    (one,) = current(team, rows=rows).limits

    assert one.warns(NOW) == warns


def test_a_limit_is_passed_by_what_is_drawn_and_reserved_together() -> None:
    team, key = of_team("100")
    held = ((NOW + MINUTE, parse_credits("40")),)
    standing = {
        drawn: current(team, rows=LimitRowsFake(row_of(key, drawn, held))).limits[0]
        for drawn in ("60", "60.000001")
    }

    assert [one.is_passed for one in standing.values()] == [False, True]


@pytest.mark.parametrize(
    ("team", "expected"),
    [
        (ACME, ["olga", "ana", "ben", "zoe"]),
        (BIGCORP_TEAM, ["bigcorp"]),
    ],
    ids=["self-serve", "enterprise"],
)
def test_who_left_may_have_drawn_under_a_limit_that_spans_accounts(
    team: Team, expected: list[str]
) -> None:
    former = tuple((who, NOW - MINUTE) for who in ("ana", "zoe", EVERYONE))
    team = team.model_copy(update={"former_members": former})

    assert ids(accounts_that_count(team, POLICY, NOW)) == expected


def ids(principals: Iterable[Principal]) -> list[str]:
    return [principal.id for principal in principals]
