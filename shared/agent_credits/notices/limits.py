"""The notices of limits: one is nearly or wholly used, or a team has raised some."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from agent_credits.billing.limits import TeamLimit
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account, held_under
from agent_credits.ledger.limits import LimitCount, LimitRow, LimitStanding
from agent_credits.notices.facts import fact_lines, facts, step_lines
from agent_credits.notices.limit_words import (
    limit_facts,
    limit_name,
    limit_row_text,
    raise_fix,
    reset_fix,
    standing_to_json,
)
from agent_credits.notices.notice import Notice, iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import count_text
from agent_credits.values.principals import Principal


def limit_of_account_warning(account: Account, count: LimitCount) -> Notice:
    """Return the warning of a limit whose runs are all billed to this account."""
    time = account.entries[-1].recorded_at
    # Each commit ends what has expired, so all that the row holds counts.
    reserved = sum(held_under(account, count.key).values())
    billed = {"principal": str(account.principal)}
    return _warning(count, account.principal, billed, reserved, time)


def limit_of_accounts_warning(row: LimitRow, time: datetime) -> Notice:
    """Return the warning of a limit whose runs are billed to several accounts."""
    team = Principal("team", row.key.team_id)
    return _warning(row, team, {}, row.held_microcredits(time), time)


def limits_raised(
    team: Team, raised: Sequence[tuple[TeamLimit, TeamLimit]], time: datetime
) -> Notice:
    """Return the notice of all limits that one change of the settings raised: before, and now."""
    limits = [_raised_to_json(team, before, now, time) for before, now in raised]
    which = (
        f"{limit_name(limits[0])} was {_verb(limits[0])}"
        if len(limits) == 1
        else f"{count_text(len(limits), 'limit')} were raised"
    )
    lines = [
        f"Team {team.team_id}: {which}.",
        "",
        *(f"- {limit_row_text(limit)}" for limit in limits),
        "",
        "Runs that failed at a limit are not retried. Start them again if you still need them.",
    ]
    return Notice(
        type="limit.raised",
        severity="info",
        principal=Principal("team", team.team_id),
        team_id=team.team_id,
        # Each change of the settings raises limits once.
        key=str(team.version),
        subject=team.team_id,
        time=time,
        # A run that failed at a limit can be started again.
        retryable=True,
        data={"team_id": team.team_id, "limits": limits},
        email_subject=f"Team {team.team_id}: {which}",
        email_text="\n".join(lines) + "\n",
    )


def _warning(
    count: LimitCount | LimitRow,
    principal: Principal,
    billed: dict[str, str],
    reserved_microcredits: int,
    time: datetime,
) -> Notice:
    """Return the warning of the highest percentage that was reached."""
    key, percent = count.key, count.notified_percent
    limit = standing_to_json(
        LimitStanding(
            key=key,
            limit_microcredits=count.limit_microcredits,
            stops=count.stops,
            drawn_microcredits=count.drawn_microcredits,
            held_microcredits=reserved_microcredits,
            resets_at=count.ends_at,
        )
    )
    is_reached = percent >= 100
    fix = _fixes(limit, key.team_id, is_reached=is_reached)
    data = {"team_id": key.team_id, **billed, "percent": percent, "limit": limit, "fix": fix}
    of_team = "" if key.scope == "team" else f" of team {key.team_id}"
    name = limit_name(limit)
    subject = f"{name[:1].upper()}{name[1:]}{of_team} is {limit['used_percent']}% used"
    lines = [
        f"{subject}.",
        _what_follows(stops=count.stops, is_reached=is_reached),
        "",
        *fact_lines([*facts(data, "team_id", "principal"), *limit_facts(data)]),
        "",
        *step_lines(fix),
    ]
    return Notice(
        type="limit.warning",
        severity="critical" if is_reached else "warning",
        principal=principal,
        team_id=key.team_id,
        key=_key(count),
        subject=":".join((key.scope, key.id, key.period)),
        time=time,
        retryable=False,
        data=data,
        email_subject=subject,
        email_text="\n".join(lines) + "\n",
    )


def _key(count: LimitCount | LimitRow) -> str:
    """Return what makes a warning count once: the limit as it is, its period and the percentage."""
    key, limit = count.key, str(count.limit_microcredits)
    percent, ends_at = str(count.notified_percent), iso(count.ends_at)
    # A team whose kind changes has a count on its own account and one over those of its users.
    spans = ("accounts",) if isinstance(count, LimitRow) else ()
    # No part can hold a space, so the space separates them.
    return " ".join((key.team_id, key.scope, key.id, key.period, ends_at, limit, percent, *spans))


def _what_follows(*, stops: bool, is_reached: bool) -> str:
    if not stops:
        return "This limit only warns. Runs continue as long as there are credits."
    if is_reached:
        return "Runs that it counts fail until it is raised or resets, even where credits are left."
    return "Once it is used up, the runs that it counts fail, even where credits are left."


def _fixes(limit: Mapping[str, Any], team_id: str, *, is_reached: bool) -> list[str]:
    if is_reached and limit["action"] == "stop":
        return [raise_fix(limit, team_id), *reset_fix(limit)]
    admin = f"An admin of team {team_id}"
    if is_reached:
        return [f'{admin}: raise {limit_name(limit)}, or set its action to "stop" to stop runs.']
    return [f"{admin}: raise {limit_name(limit)} if more credits are needed before it resets."]


def _raised_to_json(
    team: Team, before: TeamLimit, now: TeamLimit, time: datetime
) -> dict[str, Any]:
    data: dict[str, Any] = {
        "scope": now.scope,
        # None: it holds for each project, member or run.
        "id": team.team_id if now.scope == "team" else now.id,
        "period": now.period,
        "limit_credits": format_credits(now.microcredits),
    }
    if now.microcredits > before.microcredits:
        data["previous_credits"] = format_credits(before.microcredits)
    if now.raise_until is not None and now.raise_until > time:
        data["lifted_until"] = iso(now.raise_until)
    return data


def _verb(limit: Mapping[str, Any]) -> str:
    return "raised" if "previous_credits" in limit else "lifted for a while"
