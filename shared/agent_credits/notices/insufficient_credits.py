"""The notice of a run that failed for lack of credits: one per run, at once, never in a digest."""

from datetime import datetime
from typing import Any, Final, Literal, assert_never

from agent_credits.ledger.accounts import Account, total_microcredits
from agent_credits.ledger.entries import Directive, Entry, PoolBalance
from agent_credits.ledger.expiry import resets_at
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.ledger.shared_pools import is_shared_pool
from agent_credits.notices.facts import Fact, fact_lines, facts, step_lines
from agent_credits.notices.limit_refusals import (
    limits_after,
    refusal_fixes,
    refusal_text,
    retry_of,
)
from agent_credits.notices.limit_words import limit_facts, limit_row_text, standing_to_json
from agent_credits.notices.notice import Notice, iso
from agent_credits.notices.problem import insufficient_credits_problem
from agent_credits.notices.reload_declines import reload_fix
from agent_credits.values.credits import format_credits
from agent_credits.values.display import credits_text, time_text
from agent_credits.values.principals import Payer, Principal

# What the run's events decided stays decided, so the same events would fail it again.
RETRY: Final = (
    "To retry: start the run again once there are credits, as a new run with new event IDs. This "
    "run stays failed."
)


_RETRIES: Final[dict[Directive, str]] = {
    "continue": "Let the run go on: what it uses is recorded, and drawn where there are credits.",
    "pause": "A run that was extended goes on under its own ID. What it used stays used.",
    "stop": RETRY,
}
_TASK_STATES: Final[dict[Directive, str]] = {
    "continue": "RUNNING",
    "pause": "PAUSED",
    "stop": "FAILED",
}
_VERBS: Final[dict[Directive, str]] = {
    "continue": "is short of credits",
    "pause": "is to pause",
    "stop": "failed",
}

Cause = (
    DeclineCause
    | Literal["pools_exhausted", "reservation_exhausted", "credits_reserved", "limit_reached"]
)


def insufficient_credits(account: Account, entry: Entry, problem_type_base_url: str) -> Notice:
    """Return the notice of an entry that failed its run."""
    run = entry.run
    if run is None:
        raise TypeError("only a run's entry can fail a run")
    refill = resets_at(account, entry.recorded_at)
    pools = _pools_after(entry)
    run_id, directive = entry.identity.subject, entry.reservation.directive or "stop"
    cause = _cause(entry, pools)
    limits = limits_after(account, entry)
    if limits:
        fix = refusal_fixes(limits[0], run.team_id)
    else:
        fix = _reservation_fixes(entry, cause)
        if cause != "reservation_exhausted":
            shares = any(is_shared_pool(pool.pool) for pool in pools)
            fix += fixes(account, run.payer, run.team_id, refill, entry.decline, shares=shares)
    fix.append(retry_of(limits[0]) if limits and directive == "stop" else _RETRIES[directive])
    data: dict[str, Any] = {
        "run_id": run_id,
        "team_id": run.team_id,
        "principal": str(account.principal),
        "trigger": run.trigger_kind,
        "trigger_id": run.trigger_id,
        "task_state": _TASK_STATES[directive],
        "directive": directive,
        "shortfall_credits": format_credits(entry.shortfall_microcredits),
        "pools": pools_to_json(pools),
        "cause": cause,
        # Where a limit refuses, no reload could help, and none was considered.
        "auto_reload": {"state": "not_needed" if limits else reload_state(entry.decline)},
        "resets_at": iso(refill) if refill else None,
        "fix": fix,
        "problem": insufficient_credits_problem(problem_type_base_url),
    }
    if limits:
        in_json = [standing_to_json(limit) for limit in limits]
        data |= {"limit": in_json[0], "limits": in_json}
    reserved = _reserved_after(entry)
    if reserved:
        data["reserved_credits"] = format_credits(reserved)
    if entry.reservation.parent_run_id is not None:
        data["parent_run_id"] = entry.reservation.parent_run_id
    if run.project_id is not None:
        data["project_id"] = run.project_id
    if run.traceparent is not None:
        data["traceparent"] = run.traceparent
    lacks = _lacks(cause, pools)
    why = refusal_text(limits[0]) if limits else f"the account that pays for it {lacks}"
    return Notice(
        type="insufficient_credits",
        severity="critical",
        principal=account.principal,
        team_id=run.team_id,
        key=run_id,
        subject=run_id,
        time=entry.recorded_at,
        retryable=False,
        data=data,
        email_subject=(
            f"Run {run_id} {_VERBS[directive]}: {why if limits else f'{account.principal} {lacks}'}"
        ),
        email_text=_email_text(account.principal, run.payer, directive, why, data),
    )


def _cause(entry: Entry, pools_after: tuple[PoolBalance, ...]) -> Cause:
    """Return why the run lacks credits, as far as the account decided it.

    `limit_reached`: whatever the pools hold, the run may not draw it.
    `reservation_exhausted`: the pools have credits, but the run may not draw them.
    `credits_reserved`: what other runs reserved would have covered it.
    """
    if entry.limits.refused_by is not None:
        return "limit_reached"
    if entry.decline is not None:
        return entry.decline
    if entry.reservation.parent_run_id is not None:
        # Whatever the pools hold, a child reserves from its parent.
        return "reservation_exhausted"
    if entry.type == "agent_run.usage" and total_microcredits(pools_after):
        return "reservation_exhausted"
    if entry.amount_microcredits > 0 and entry.lacks_only_what_is_reserved:
        return "credits_reserved"
    return "pools_exhausted"


def _lacks(cause: Cause, pools_after: tuple[PoolBalance, ...]) -> str:
    match cause:
        case "reservation_exhausted":
            return "has credits, but none that this run may draw"
        case "credits_reserved":
            return "has reserved its credits for other runs"
        case _:
            left = total_microcredits(pools_after)
            return "has too few credits" if left else "is out of credits"


def _reservation_fixes(entry: Entry, cause: Cause) -> list[str]:
    run_id, facts_of = entry.identity.subject, entry.reservation
    if cause == "reservation_exhausted" and facts_of.parent_run_id is not None:
        return [
            (
                f"The platform: extend run {facts_of.parent_run_id}, whose reservation this run "
                "is part of, or ask for less."
            )
        ]
    if cause == "reservation_exhausted":
        return [
            (
                f"The platform: send agent_run.extended for run {run_id} with the credits that it "
                "still needs."
            )
        ]
    if cause == "credits_reserved":
        reserved = credits_text(facts_of.reserved_before_microcredits)
        return [
            (
                f"The platform: wait until other runs finish. What they leave of the {reserved} "
                "reserved for them comes back."
            )
        ]
    return []


def reload_state(decline: DeclineCause | None) -> str:
    match decline:
        case None | "auto_reload_off":
            return "off"
        case "suspended":
            return "suspended"
        case "too_many_reloads":
            return "frozen"
        case _:
            return "declined"


def fixes(
    account: Account,
    payer: Payer,
    team_id: str,
    refill: datetime | None,
    decline: DeclineCause | None,
    *,
    shares: bool = False,
) -> list[str]:
    """Return what can be done, by whom, most direct first; it depends on who was billed.

    `shares`: whether the runs draw a pool that their team shares.
    """
    if shares and payer == "team":
        return [_shared_fix(team_id)]
    purchase = _purchase_fix(account.principal, payer, team_id)
    if decline is not None and decline != "auto_reload_off":
        steps = [*reload_fix(decline, team_id), purchase]
    elif payer == "team":
        # An enterprise buys by contract, so it is not advised to start reloading by card.
        steps = [purchase]
    else:
        steps = [purchase, *reload_fix("auto_reload_off", team_id)]
    if shares:
        steps.append(_shared_fix(team_id))
    if refill is not None:
        steps.append(f"Or wait: the plan refills this account on {time_text(refill)}.")
    return steps


def _purchase_fix(principal: Principal, payer: Payer, team_id: str) -> str:
    match payer:
        case "user":
            return f"{principal.id}: purchase add-on credits for your own account."
        case "owner":
            return (
                f"The owner of team {team_id}, {principal.id}: purchase add-on credits. The "
                "owner's pools pay for the team's unattended runs."
            )
        case "team":
            return (
                f"An admin of team {team_id}: contact your account manager to add credits to the "
                "contract."
            )
        case _:
            assert_never(payer)


def _shared_fix(team_id: str) -> str:
    return f"An admin of team {team_id}: add credits to the pool that the team shares."


def pools_to_json(pools: tuple[PoolBalance, ...]) -> list[dict[str, str]]:
    """Return what is left in each pool, as a notice's data holds it."""
    return [
        {"pool": p.pool, "remaining_credits": format_credits(p.available_microcredits)}
        for p in pools
    ]


def _reserved_after(entry: Entry) -> int:
    facts_of = entry.reservation
    moved = sum(move.microcredits for move in facts_of.moves)
    return facts_of.reserved_before_microcredits + moved


def _pools_after(entry: Entry) -> tuple[PoolBalance, ...]:
    # What came out of a reservation was not in the pools.
    of_pools = {draw.grant_id: (draw.pool, draw.microcredits) for draw in entry.draws}
    for move in entry.reservation.moves:
        if move.grant_id in of_pools:
            pool, microcredits = of_pools[move.grant_id]
            of_pools[move.grant_id] = (pool, microcredits + move.microcredits)
    taken: dict[str, int] = {}
    for pool, microcredits in of_pools.values():
        taken[pool] = taken.get(pool, 0) + microcredits
    return tuple(
        PoolBalance(p.pool, p.available_microcredits - taken.get(p.pool, 0))
        for p in entry.pools_before
    )


def _email_text(
    principal: Principal, payer: Payer, directive: Directive, why: str, data: dict[str, Any]
) -> str:
    limits = data.get("limits", [])
    how_credits_come = () if limits else ("auto_reload", "resets_at")
    lines = [
        f"Run {data['run_id']} of team {data['team_id']} {_VERBS[directive]}: {why}.",
        "",
        *fact_lines(
            [
                *facts(data, "run_id", "parent_run_id", "trigger", "project_id"),
                Fact("Account", f"{principal}, {_payer_in_words(payer)}"),
                *facts(data, "pools", "reserved_credits", "shortfall_credits", *how_credits_come),
                *limit_facts(data),
            ]
        ),
        "",
    ]
    if len(limits) > 1:
        lines += ["All limits of this run:", *(f"- {limit_row_text(x)}" for x in limits), ""]
    lines += step_lines(data["fix"])
    what = _still_failing(data)
    if directive == "stop" and what:
        lines += [
            "",
            (
                f"Until then, retrying will not help: every run that {what} fails and sends its "
                "own notice."
            ),
        ]
    return "\n".join(lines) + "\n"


def _still_failing(data: dict[str, Any]) -> str | None:
    """Return which further runs fail for the same reason, if any do."""
    if "limit" in data:
        return "needs more than the limit leaves" if data["limit"]["period"] != "run" else None
    return None if data["cause"] == "reservation_exhausted" else "these pools do not cover"


def _payer_in_words(payer: Payer) -> str:
    match payer:
        case "user":
            return "the user who started the run"
        case "owner":
            return "the team's owner, who pays for unattended runs"
        case "team":
            return "whose contract pays for every run of the team"
        case _:
            assert_never(payer)
