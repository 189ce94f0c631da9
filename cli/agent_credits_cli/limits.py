"""Limits as commands show them: where they stand now, and what an entry says of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from rich.table import Table

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.limit_standings import (
    CurrentLimit,
    CurrentLimits,
    LimitRows,
    accounts_that_count,
    current_limits,
    limits_of_payer,
)
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.limits import COUNTS_MAX, LimitCount, LimitFacts, LimitKey, LimitStanding
from agent_credits.notices.limit_words import current_limit_to_json, standing_to_json
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import amount_text, credits_text, time_text
from agent_credits.values.principals import Principal
from agent_credits_cli.tables import table


class CountingRows(LimitRows, Protocol):
    """The rows that count what is drawn under limits."""

    def read_accounts_of(
        self, principals: Collection[Principal]
    ) -> Mapping[Principal, Account]: ...


# Of more, `limits` shows all.
LISTED_MAX: Final = 20


def limits_of_team(
    rows: CountingRows, team: Team, policy: BillingPolicy, now: datetime
) -> CurrentLimits:
    """Return where the team's limits stand, by the rows of all accounts that may count them."""
    principals = accounts_that_count(team, policy, now) if team.limits else []
    accounts = rows.read_accounts_of(principals).values()
    return current_limits(rows, team, policy, accounts, now)


def limits_table(
    limits: Sequence[CurrentLimit],
    now: datetime,
    title: str | None = None,
    used_here: Sequence[int] | None = None,
) -> Table:
    """Return limits and where each stands, with `used_here` of one account if given."""
    here_heading = [] if used_here is None else [">used here"]
    any_raised = any(limit.is_lifted(now) for limit in limits)
    listing = table(
        *("scope", "id", "period", ">limit", ">used", ">%", *here_heading, ">reserved", ">left"),
        *("action", "resets at", *(["raised until"] if any_raised else [])),
        title=title,
    )
    for number, limit in enumerate(limits):
        declared, raised_until = limit.declared, limit.declared.raise_until
        used, percent, reserved, left, resets_at = _standing_cells(limit)
        here = [] if used_here is None else [amount_text(used_here[number])]
        raised = time_text(raised_until) if raised_until and limit.is_lifted(now) else ""
        listing.add_row(
            *(declared.scope, limit.id or "each", declared.period),
            *(amount_text(declared.microcredits), used, percent, *here, reserved, left),
            *(declared.action, resets_at, *([raised] if any_raised else [])),
        )
    return listing


def _standing_cells(limit: CurrentLimit) -> tuple[str, str, str, str, str]:
    standing = limit.standing
    if standing is None:
        return "", "", "", "", ""
    return (
        amount_text(standing.drawn_microcredits),
        str(standing.used_percent),
        amount_text(standing.held_microcredits),
        amount_text(standing.room_microcredits),
        time_text(standing.resets_at) if standing.resets_at else "",
    )


def limits_of_account(
    rows: DynamoDBRows, account: Account, now: datetime
) -> list[tuple[LimitCount, CurrentLimit]]:
    """Return what the account counts, each with where the limit stands.

    A limit's row also holds what other accounts drew. One team is read for each that the account
    counts for.
    """
    found: list[tuple[LimitCount, CurrentLimit]] = []
    for team_id in sorted({count.key.team_id for count in account.limit_counts}):
        team = rows.read_team(team_id)
        policy = rows.read_policy(team.tenure_at(now).policy_version) if team else None
        if team is None or policy is None:
            continue
        counts = {count.key: count for count in account.limit_counts}
        for limit in limits_of_payer(rows, team, policy, account, now):
            count = counts.get(limit.standing.key) if limit.standing else None
            if count is not None:
                found.append((count, limit))
    return found


def account_limits_table(
    counted: Sequence[tuple[LimitCount, CurrentLimit]], now: datetime
) -> Table:
    """Return the limits that the account counts, and what it drew of each itself."""
    used_here = [_used_here(count, now) for count, _ in counted]
    return limits_table([limit for _, limit in counted], now, "limits", used_here)


def account_limit_to_json(
    counted: LimitCount, limit: CurrentLimit, now: datetime
) -> dict[str, Any]:
    return {
        "team_id": counted.key.team_id,
        **current_limit_to_json(limit),
        "used_by_account_credits": format_credits(_used_here(counted, now)),
    }


def _used_here(counted: LimitCount, now: datetime) -> int:
    return counted.drawn_microcredits if counted.is_current(now) else 0


def lines_about_limits(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield where each limit of the run stood before the event that one of them refused."""
    for standing in entry.limits.standings:
        is_refusing = standing is entry.limits.refused_by
        yield "refused by" if is_refusing else "limit", _standing_text(standing)


def _standing_text(standing: LimitStanding) -> str:
    """Return where a limit stands: project web per month: 480 of 500 credits used, 20 left."""
    if standing.cannot_count:
        return f"{standing.key}: not counted, because its account counts {COUNTS_MAX} limits"
    used, limit = amount_text(standing.drawn_microcredits), standing.limit_microcredits
    parts = [f"{used} of {credits_text(limit)} used"]
    if standing.held_microcredits:
        parts.append(f"{amount_text(standing.held_microcredits)} reserved")
    parts.append(f"{amount_text(standing.room_microcredits)} left")
    if standing.resets_at is not None:
        parts.append(f"resets at {time_text(standing.resets_at)}")
    if not standing.stops:
        parts.append("only warns")
    return f"{standing.key}: {', '.join(parts)}"


def limit_facts_to_json(facts: LimitFacts) -> dict[str, Any]:
    """Return what an entry records of limits; the standing that refused comes first."""
    return {
        "counted": [
            {
                **_key_to_json(counted.key),
                "credits": format_credits(counted.microcredits),
                "ends_at": iso(counted.ends_at),
            }
            for counted in facts.counted
        ],
        "standings": [standing_to_json(standing) for standing in facts.standings],
    }


def _key_to_json(key: LimitKey) -> Mapping[str, str]:
    return {"scope": key.scope, "id": key.id, "period": key.period}
