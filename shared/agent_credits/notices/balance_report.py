"""A balance report as machines and as people read it."""

from typing import Any

from agent_credits.billing.balance_reports import BalanceReport, ReportedAccount
from agent_credits.ledger.burn import RATE_DAYS, WINDOWS_DAYS
from agent_credits.notices.notice import Notice, format_money, iso
from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Principal


def balance_report_notice(report: BalanceReport) -> Notice:
    return Notice(
        type="balance_report",
        severity="info",
        principal=Principal("team", report.team_id),
        team_id=report.team_id,
        key=report.key,
        subject=report.team_id,
        time=report.time,
        retryable=False,
        data=report_data(report),
        email_subject=f"Balances of team {report.team_id}, {report.day}",
        email_text=report_text(report),
    )


def report_data(report: BalanceReport) -> dict[str, Any]:
    """Return the report's facts; what was burned is of so many complete days before `day`."""
    return {
        "team_id": report.team_id,
        "day": report.day.isoformat(),
        "available_credits": format_credits(report.available_microcredits),
        **_by_window(report.burned_microcredits),
        **report.spending.model_dump(),
        "accounts_count": report.accounts_count,
        "accounts": [_account_data(account) for account in report.accounts],
    }


def report_text(report: BalanceReport) -> str:
    accounts = [line for account in report.accounts for line in _account_lines(account)]
    more = report.accounts_count - len(report.accounts)
    spending = report.spending
    spent, reserved, cap = (
        format_money(cents, spending.currency)
        for cents in (spending.spent_cents, spending.reserved_cents, spending.spend_cap_cents)
    )
    lines = [
        f"Team {report.team_id} holds {format_credits(report.available_microcredits)} credits.",
        f"Burned: {_windows_text(report.burned_microcredits)}.",
        (
            f"Spent on credits in {spending.month}: {spent} of {cap}, and {reserved} reserved."
            if spending.spend_cap_cents
            else "No credits are bought for the team: its spend cap is 0."
        ),
        "",
        *(accounts or ["Nobody of the team has an account yet."]),
        *([f"And {more} more accounts, which burned less."] if more else []),
        "",
        f"Burn is counted over complete days (UTC) before {report.day}. How long credits last is",
        f"the rate of the last {RATE_DAYS} days gone on with, without refills and reloads.",
    ]
    return "\n".join(lines) + "\n"


def _account_data(account: ReportedAccount) -> dict[str, Any]:
    return {
        "principal": str(account.principal),
        "available_credits": format_credits(account.available_microcredits),
        "pools": [
            {"pool": p.pool, "available_credits": format_credits(p.available_microcredits)}
            for p in account.pools
        ],
        **_by_window(account.burned_microcredits),
        "exhausted_on": account.exhausted_on and account.exhausted_on.isoformat(),
        "resets_at": iso(account.resets_at) if account.resets_at else None,
    }


def _account_lines(account: ReportedAccount) -> list[str]:
    pools = ", ".join(f"{p.pool} {format_credits(p.available_microcredits)}" for p in account.pools)
    return [
        f"{account.principal}: {format_credits(account.available_microcredits)} ({pools})",
        f"  burned {_windows_text(account.burned_microcredits)}",
        f"  {_how_long(account)}",
    ]


def _how_long(account: ReportedAccount) -> str:
    refill = f"; refills at {iso(account.resets_at)}" if account.resets_at else ""
    if account.available_microcredits == 0:
        return f"empty{refill}"
    if account.burned_microcredits[WINDOWS_DAYS.index(RATE_DAYS)] == 0:
        return f"nothing burned in {RATE_DAYS} days{refill}"
    if account.exhausted_on is None:
        return f"lasts for years{refill}"
    return f"lasts until {account.exhausted_on}{refill}"


def _by_window(burned: tuple[int, ...]) -> dict[str, str]:
    windows = zip(WINDOWS_DAYS, burned, strict=True)
    return {f"burned_{_days(days)}_credits": format_credits(net) for days, net in windows}


def _days(days: int) -> str:
    return "1_day" if days == 1 else f"{days}_days"


def _windows_text(burned: tuple[int, ...]) -> str:
    windows = zip(WINDOWS_DAYS, burned, strict=True)
    return ", ".join(
        f"{format_credits(net)} in {_days(days).replace('_', ' ')}" for days, net in windows
    )
