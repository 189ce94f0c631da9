"""The notice of a run that failed for lack of credits: one per run, at once, never in a digest."""

from datetime import datetime
from typing import Any, Final, assert_never

from agent_credits.ledger.accounts import Account, total_microcredits
from agent_credits.ledger.entries import Entry, PoolBalance
from agent_credits.ledger.expiry import resets_at
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.notices.facts import Fact, fact_lines, facts, step_lines
from agent_credits.notices.notice import Notice, iso
from agent_credits.notices.problem import insufficient_credits_problem
from agent_credits.notices.reload_declines import reload_fix
from agent_credits.values.credits import format_credits
from agent_credits.values.display import time_text
from agent_credits.values.principals import Payer, Principal

# What the run's events decided stays decided, so the same events would fail it again.
RETRY: Final = (
    "To retry: start the run again once there are credits, as a new run with new event IDs. This "
    "run stays failed."
)


def insufficient_credits(account: Account, entry: Entry, problem_type_base_url: str) -> Notice:
    """Return the notice of an entry that failed its run."""
    run = entry.run
    if run is None:
        raise TypeError("only a run's entry can fail a run")
    refill = resets_at(account, entry.recorded_at)
    pools = _pools_after(entry)
    run_id = entry.identity.subject
    data = {
        "run_id": run_id,
        "team_id": run.team_id,
        "principal": str(account.principal),
        "trigger": run.trigger_kind,
        "trigger_id": run.trigger_id,
        "task_state": "FAILED",
        "shortfall_credits": format_credits(entry.shortfall_microcredits),
        "pools": pools_to_json(pools),
        "cause": entry.decline or "pools_exhausted",
        "auto_reload": {"state": reload_state(entry.decline)},
        "resets_at": iso(refill) if refill else None,
        "fix": [*fixes(account, run.payer, run.team_id, refill, entry.decline), RETRY],
        "problem": insufficient_credits_problem(problem_type_base_url),
    }
    if run.project_id is not None:
        data["project_id"] = run.project_id
    if run.traceparent is not None:
        data["traceparent"] = run.traceparent
    lacks = "has too few credits" if total_microcredits(pools) else "is out of credits"
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
        email_subject=f"Run {run_id} failed: {account.principal} {lacks}",
        email_text=_email_text(account.principal, run.payer, lacks, data),
    )


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
) -> list[str]:
    """Return what can be done, by whom, most direct first; it depends on who was billed."""
    purchase = _purchase_fix(account.principal, payer, team_id)
    if decline is not None and decline != "auto_reload_off":
        steps = [*reload_fix(decline, team_id), purchase]
    elif payer == "team":
        # An enterprise buys by contract, so it is not advised to start reloading by card.
        steps = [purchase]
    else:
        steps = [purchase, *reload_fix("auto_reload_off", team_id)]
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


def pools_to_json(pools: tuple[PoolBalance, ...]) -> list[dict[str, str]]:
    """Return what is left in each pool, as a notice's data holds it."""
    return [
        {"pool": p.pool, "remaining_credits": format_credits(p.available_microcredits)}
        for p in pools
    ]


def _pools_after(entry: Entry) -> tuple[PoolBalance, ...]:
    taken: dict[str, int] = {}
    for draw in entry.draws:
        taken[draw.pool] = taken.get(draw.pool, 0) + draw.microcredits
    return tuple(
        PoolBalance(p.pool, p.available_microcredits - taken.get(p.pool, 0))
        for p in entry.pools_before
    )


def _email_text(principal: Principal, payer: Payer, lacks: str, data: dict[str, Any]) -> str:
    run = f"Run {data['run_id']} of team {data['team_id']}"
    lines = [
        f"{run} failed: the account that pays for it {lacks}.",
        "",
        *fact_lines(
            [
                *facts(data, "run_id", "trigger", "project_id"),
                Fact("Account", f"{principal}, {_payer_in_words(payer)}"),
                *facts(data, "pools", "shortfall_credits", "auto_reload", "resets_at"),
            ]
        ),
        "",
        *step_lines(data["fix"]),
        "",
        (
            "Until then, retrying will not help: every run that these pools do not cover fails and "
            "sends its own notice."
        ),
    ]
    return "\n".join(lines) + "\n"


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
