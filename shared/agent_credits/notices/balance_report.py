"""A balance report as machines and as people read it."""

from typing import Any

from agent_credits.billing.balance_reports import BalanceReport, ReportedAccount
from agent_credits.ledger.burn import RATE_DAYS, WINDOWS_DAYS
from agent_credits.notices.facts import facts
from agent_credits.notices.limit_words import limit_row_text, standing_to_json
from agent_credits.notices.notice import Notice, iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import (
    amount_text,
    count_text,
    credits_text,
    money_text,
    time_text,
)
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
        email_subject=f"Balances of team {report.team_id} on {report.day}",
        email_text=report_text(report),
    )


def report_data(report: BalanceReport) -> dict[str, Any]:
    """Return the report's facts; burn is of complete days before `day`."""
    return {
        "team_id": report.team_id,
        "day": report.day.isoformat(),
        "available_credits": format_credits(report.available_microcredits),
        **_reserved(report.reserved_microcredits),
        **_by_window(report.burned_microcredits),
        **report.spending.model_dump(),
        **_limits_data(report),
        "accounts_count": report.accounts_count,
        "accounts": [_account_data(account) for account in report.accounts],
    }


def report_text(report: BalanceReport) -> str:
    accounts = [line for account in report.accounts for line in _account_lines(account)]
    more = report.accounts_count - len(report.accounts)
    lines = [
        f"Team {report.team_id} holds {_held_text(report)}.",
        f"Burned: {_windows_text(report.burned_microcredits)}.",
        _spending_text(report),
        *_limit_lines(report),
        "",
        *(accounts or ["No account of this team has been opened yet."]),
        *([f"And {count_text(more, 'more account')}, with less burn."] if more else []),
        "",
        f"Burn counts complete UTC days before {report.day}. How long credits last assumes the",
        f"last {RATE_DAYS} days' rate continues, without refills and reloads.",
    ]
    return "\n".join(lines) + "\n"


def _spending_text(report: BalanceReport) -> str:
    spending = report.spending
    if not spending.spend_cap_cents:
        return "Purchases are off: the team's spend cap is 0."
    spent, reserved, cap = (
        money_text(cents, spending.currency)
        for cents in (spending.spent_cents, spending.reserved_cents, spending.spend_cap_cents)
    )
    month = f"{spending.month} (the team's time zone)"
    return f"Spent on credits in {month}: {spent} of {cap}, with {reserved} reserved."


def _limits_data(report: BalanceReport) -> dict[str, Any]:
    if not report.limits:
        return {}
    standings = (limit.standing(report.team_id) for limit in report.limits)
    return {
        "limits_count": report.limits_count,
        "limits": [standing_to_json(standing) for standing in standings],
    }


def _limit_lines(report: BalanceReport) -> list[str]:
    if not report.limits:
        return []
    limits = _limits_data(report)["limits"]
    more = report.limits_count - len(limits)
    return [
        "Limits that are nearly or wholly used:",
        *(f"  {limit_row_text(limit)}" for limit in limits),
        *([f"  and {count_text(more, 'more limit')}, with less used"] if more else []),
    ]


def _account_data(account: ReportedAccount) -> dict[str, Any]:
    return {
        "principal": str(account.principal),
        "available_credits": format_credits(account.available_microcredits),
        **_reserved(account.reserved_microcredits),
        "pools": [
            {
                "pool": p.pool,
                "available_credits": format_credits(p.available_microcredits),
                **_reserved(p.reserved_microcredits),
            }
            for p in account.pools
        ],
        **_by_window(account.burned_microcredits),
        "exhausted_on": account.exhausted_on and account.exhausted_on.isoformat(),
        "resets_at": iso(account.resets_at) if account.resets_at else None,
    }


def _account_lines(account: ReportedAccount) -> list[str]:
    (pools,) = facts(_account_data(account), "pools")
    return [
        f"{account.principal}: {_held_text(account)}",
        f"  pools: {pools.text}",
        f"  burned: {_windows_text(account.burned_microcredits)}",
        f"  {_how_long(account)}",
    ]


def _how_long(account: ReportedAccount) -> str:
    refill = f"; refills at {time_text(account.resets_at)}" if account.resets_at else ""
    if account.available_microcredits + account.reserved_microcredits == 0:
        return f"empty{refill}"
    if account.burned_microcredits[WINDOWS_DAYS.index(RATE_DAYS)] == 0:
        return f"no burn in {RATE_DAYS} days{refill}"
    if account.exhausted_on is None:
        return f"lasts for years{refill}"
    return f"lasts until {account.exhausted_on}{refill}"


def _held_text(held: BalanceReport | ReportedAccount) -> str:
    text = credits_text(held.available_microcredits)
    if held.reserved_microcredits:
        text += f", and {amount_text(held.reserved_microcredits)} reserved for runs in flight"
    return text


def _reserved(microcredits: int) -> dict[str, str]:
    return {"reserved_credits": format_credits(microcredits)} if microcredits else {}


def _by_window(burned: tuple[int, ...]) -> dict[str, str]:
    windows = zip(WINDOWS_DAYS, burned, strict=True)
    return {
        f"burned_{count_text(days, 'day').replace(' ', '_')}_credits": format_credits(net)
        for days, net in windows
    }


def _windows_text(burned: tuple[int, ...]) -> str:
    windows = zip(WINDOWS_DAYS, burned, strict=True)
    return ", ".join(f"{amount_text(net)} in {count_text(days, 'day')}" for days, net in windows)
