"""`GET /v1/teams/{team_id}/report`: what a team's accounts hold and burn, and how long that lasts.

It is the daily report, made now. What was counted of the ledger is stored, so that the next report
counts only what is new, whoever asks for it.
"""

from datetime import date, datetime

from agent_credits.api.fields import Answer, Credits, TimeOut
from agent_credits.api.problems import Refused
from agent_credits.api.teams import SpendingAnswer
from agent_credits.billing.balance_reports import BalanceReport
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team
from agent_credits.ledger.burn import WINDOWS_DAYS
from agent_credits.sweeps.balance_report_sweep import BalanceReportSweep, ReportRows


class BurnAnswer(Answer):
    """Credits that were burned on so many complete UTC days before the report's day."""

    days: int
    credits: Credits


class ReportedPoolAnswer(Answer):
    pool: str
    available_credits: Credits
    reserved_credits: Credits


class ReportedAccountAnswer(Answer):
    """`exhausted_on`: the day on which the credits end at the rate of the last seven days."""

    principal: str
    pools: list[ReportedPoolAnswer]
    burned: list[BurnAnswer]
    exhausted_on: date | None
    resets_at: TimeOut | None


class ReportAnswer(Answer):
    """`accounts`: those that burned most; the sums cover all `accounts_count` of them."""

    team_id: str
    day: date
    as_of: TimeOut
    available_credits: Credits
    reserved_credits: Credits
    burned: list[BurnAnswer]
    spending: SpendingAnswer
    accounts_count: int
    accounts: list[ReportedAccountAnswer]


def read_report(
    rows: ReportRows, team: Team, policy: BillingPolicy | None, now: datetime
) -> ReportAnswer:
    """Return the team's report of today. Raises `Refused` while there is more to count."""
    if policy is None:
        raise Refused("undecided", "the team's policy is missing")
    report = BalanceReportSweep(rows).report(team, policy, now.date(), now)
    if report is None:
        raise Refused(
            "undecided",
            "the team's ledgers are being counted; repeat the request to go on",
            headers={"Retry-After": "1"},
        )
    return _answer(report, team)


def _answer(report: BalanceReport, team: Team) -> ReportAnswer:
    spending = report.spending
    return ReportAnswer(
        team_id=report.team_id,
        day=report.day,
        as_of=report.time,
        available_credits=report.available_microcredits,
        reserved_credits=report.reserved_microcredits,
        burned=_burned(report.burned_microcredits),
        spending=SpendingAnswer(
            month=spending.month,
            currency=spending.currency,
            spend_cap_cents=spending.spend_cap_cents,
            spent_cents=spending.spent_cents,
            reserved_cents=spending.reserved_cents,
            head_room_cents=team.spending.head_room(spending.spend_cap_cents, spending.month),
        ),
        accounts_count=report.accounts_count,
        accounts=[
            ReportedAccountAnswer(
                principal=str(account.principal),
                pools=[
                    ReportedPoolAnswer(
                        pool=p.pool,
                        available_credits=p.available_microcredits,
                        reserved_credits=p.reserved_microcredits,
                    )
                    for p in account.pools
                ],
                burned=_burned(account.burned_microcredits),
                exhausted_on=account.exhausted_on,
                resets_at=account.resets_at,
            )
            for account in report.accounts
        ],
    )


def _burned(microcredits: tuple[int, ...]) -> list[BurnAnswer]:
    return [
        BurnAnswer(days=days, credits=burned)
        for days, burned in zip(WINDOWS_DAYS, microcredits, strict=True)
    ]
