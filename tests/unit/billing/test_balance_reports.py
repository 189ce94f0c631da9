"""A team's balance report: its accounts, its sums, and its words."""

import json
from collections.abc import Sequence
from datetime import timedelta

import pytest

from agent_credits.aws.items import observation_item
from agent_credits.aws.stream_records import change_of
from agent_credits.billing.balance_reports import (
    ACCOUNTS_LISTED_MAX,
    LIMITS_LISTED_MAX,
    BalanceReport,
    Burning,
    balance_report,
)
from agent_credits.billing.limit_standings import CurrentLimit
from agent_credits.billing.limits import TeamLimit
from agent_credits.billing.payers import payers
from agent_credits.billing.spend_cap import Spending
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.burn import BurnByDay
from agent_credits.ledger.limits import LimitKey, LimitStanding, period_ends_at
from agent_credits.notices.announcements import Observed
from agent_credits.notices.balance_report import report_data, report_text
from agent_credits.values.credits import parse_credits
from agent_credits.values.principals import Principal
from tests.golden import assert_golden
from tests.unit.builders import ACME, ANA, BEN, BIGCORP_TEAM, NOW, OLGA, POLICY, grant, plan
from tests.unit.limit_world import limit

MONTH = NOW.strftime("%Y-%m")
SPENDING = Spending(month=MONTH, spent_cents=4_200)
TEAM = ACME.model_copy(update={"spend_cap_cents": 10_000, "spending": SPENDING})


def burning(
    principal: Principal = ANA,
    *,
    plan_credits: str | None = None,
    add_on: str | None = None,
    burned: dict[int, str] | None = None,
) -> Burning:
    """Return an account with so many credits, that burned so many so many days ago."""
    pool = "contract" if principal.kind == "team" else "add_on"
    account = Account(
        principal,
        grants=(grant("g-1", pool, add_on),) if add_on else (),
        plan=plan(plan_credits) if plan_credits else None,
    )
    by_day = BurnByDay()
    for back, credits_burned in (burned or {}).items():
        by_day[NOW.date() - timedelta(days=back)] = parse_credits(credits_burned)
    return Burning(account, by_day)


def report_of(
    *accounts: Burning, team: Team = TEAM, limits: Sequence[CurrentLimit] = ()
) -> BalanceReport:
    return balance_report(team, POLICY, accounts, NOW.date(), NOW, limits)


def drawn_of(limit: TeamLimit, of: str, drawn: str, held: str = "0") -> CurrentLimit:
    key = LimitKey("acme", limit.scope, of, limit.period)
    reserved = 0 if held == "0" else parse_credits(held)
    resets_at = period_ends_at(limit.period, TEAM.time_zone, NOW)
    is_hard = limit.action == "stop"
    standing = LimitStanding(
        key, limit.microcredits, is_hard, parse_credits(drawn), reserved, resets_at
    )
    return CurrentLimit(limit, standing)


def text_of(report: BalanceReport) -> str:
    return f"{json.dumps(report_data(report), indent=2)}\n\n{report_text(report)}"


def busy_team() -> BalanceReport:
    return report_of(
        burning(ANA, plan_credits="100", add_on="42.5", burned={1: "7", 2: "3.5", 20: "60"}),
        burning(BEN, burned={9: "400"}),
        burning(OLGA, plan_credits="100", burned={1: "100", 3: "250"}),
    )


def test_the_report_of_a_self_serve_team() -> None:
    assert_golden("balance_report/self_serve.txt", text_of(busy_team()))


def test_the_report_of_an_enterprise_team() -> None:
    contract = burning(Principal("team", "bigcorp"), add_on="100000", burned={1: "250", 6: "4650"})

    assert_golden("balance_report/enterprise.txt", text_of(report_of(contract, team=BIGCORP_TEAM)))


def test_the_report_of_a_team_without_accounts() -> None:
    assert_golden("balance_report/nobody.txt", text_of(report_of()))


def limited_team() -> BalanceReport:
    of_projects, of_members = limit("project", "500"), limit("member", "50", "day", action="warn")
    return report_of(
        burning(ANA, plan_credits="100", burned={1: "7"}),
        limits=[
            CurrentLimit(of_projects),
            drawn_of(of_projects, "web", "450", "20"),
            drawn_of(of_projects, "docs", "349.999999"),
            CurrentLimit(of_members),
            drawn_of(of_members, "ana", "62.5"),
        ],
    )


def test_the_report_of_a_team_that_has_nearly_used_its_limits() -> None:
    assert_golden("balance_report/limits.txt", text_of(limited_team()))


def test_limits_that_are_nearly_used_are_read_back_as_they_were_written() -> None:
    report = limited_team()

    assert change_of({"NewImage": observation_item(report, NOW)}) == Observed(report)


def test_a_limit_that_is_raised_for_a_while_is_not_reported() -> None:
    raised = limit("team", "100", raise_until=NOW + timedelta(minutes=1))

    assert report_of(limits=[drawn_of(raised, "acme", "100")]).limits == ()


def test_a_report_lists_the_fullest_of_many_limits() -> None:
    of_members = limit("member", "100")
    many = [drawn_of(of_members, f"u{n}", f"{70 + n}") for n in range(LIMITS_LISTED_MAX + 2)]

    report = report_of(limits=many)

    assert [one.id for one in report.limits[:2]] == ["u21", "u20"]
    assert (len(report.limits), report.limits_count) == (LIMITS_LISTED_MAX, len(many))
    assert "\n  and 2 more limits, with less used\n" in report_text(report)


def test_a_report_of_thousands_lists_the_busiest_accounts_and_sums_all() -> None:
    accounts = [
        burning(Principal("user", f"u{n:04d}"), add_on="1", burned={1: str(n + 1)})
        for n in range(2_000)
    ]

    report = report_of(*accounts)

    assert [str(a.principal) for a in report.accounts[:2]] == ["user:u1999", "user:u1998"]
    assert (len(report.accounts), report.accounts_count) == (ACCOUNTS_LISTED_MAX, 2_000)
    assert report.available_microcredits == parse_credits("2000")
    assert report.burned_microcredits == (parse_credits(str(2_000 * 2_001 // 2)),) * 3
    assert "And 1,950 more accounts, with less burn." in report_text(report)
    assert len(json.dumps(report_data(report))) < 100_000, "far from the 256 KB of a message"


def test_a_due_refill_counts_before_it_is_committed() -> None:
    (account,) = report_of(burning(plan_credits="100")).accounts

    assert account.available_microcredits == parse_credits("100")
    assert account.resets_at is not None


def test_an_expired_grant_holds_nothing() -> None:
    expired = grant("g-1", "add_on", "5", expires_at=NOW)

    (account,) = report_of(Burning(Account(ANA, grants=(expired,)), BurnByDay())).accounts

    assert account.available_microcredits == 0


def test_the_order_of_the_accounts_is_total_so_that_a_report_is_the_same_each_time() -> None:
    alike = [burning(principal, add_on="1") for principal in (BEN, OLGA, ANA)]

    report = report_of(*alike)

    assert [a.principal for a in report.accounts] == [ANA, BEN, OLGA]
    assert report == report_of(*reversed(alike))


def test_spending_of_last_month_does_not_count() -> None:
    earlier = Spending(month="2025-10", spent_cents=4_200)

    report = report_of(team=TEAM.model_copy(update={"spending": earlier}))

    assert (report.spending.month, report.spending.spent_cents) == (MONTH, 0)


def test_a_report_is_read_back_as_it_was_written() -> None:
    report = busy_team()

    assert change_of({"NewImage": observation_item(report, NOW)}) == Observed(report)


@pytest.mark.parametrize(
    ("team", "expected"),
    [
        (ACME, ["user:olga", "user:ana", "user:ben"]),
        (BIGCORP_TEAM, ["team:bigcorp"]),
    ],
    ids=["self-serve", "enterprise"],
)
def test_who_may_pay_for_a_teams_runs(team: Team, expected: list[str]) -> None:
    assert [str(principal) for principal in payers(team, POLICY, NOW)] == expected
