"""The notice of a run that failed for lack of credits: once per run, at once, never folded."""

from datetime import datetime
from typing import assert_never

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, PoolBalance, RunContext
from agent_credits.ledger.expiry import resets_at
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.notices.notice import Notice, iso
from agent_credits.notices.problem import insufficient_credits_problem
from agent_credits.notices.reload_declines import decline_in_words, reload_fix
from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Payer


def insufficient_credits(account: Account, entry: Entry, problem_type_base_url: str) -> Notice:
    """Return the notice of an entry that failed its run."""
    run = entry.run
    if run is None:
        raise TypeError("only a run's entry can fail a run")
    refill = resets_at(account, entry.recorded_at)
    fix = fixes(account, run.payer, run.team_id, refill, entry.decline)
    pools = _pools_after(entry)
    run_id = entry.identity.subject
    data = {
        "run_id": run_id,
        "team_id": run.team_id,
        "principal": str(account.principal),
        "trigger": run.trigger_kind,
        "task_state": "FAILED",
        "shortfall_credits": format_credits(entry.shortfall_microcredits),
        "pools": pools_to_json(pools),
        "cause": entry.decline or "pools_exhausted",
        "auto_reload": {"state": reload_state(entry.decline)},
        "resets_at": iso(refill) if refill else None,
        "fix": fix,
        "problem": insufficient_credits_problem(problem_type_base_url),
    }
    if run.project_id is not None:
        data["project_id"] = run.project_id
    if run.traceparent is not None:
        data["traceparent"] = run.traceparent
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
        email_subject=f"Run {run_id} failed: {account.principal} is out of credits",
        email_text=_email_text(account, entry, run, pools, fix, refill),
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
    match payer:
        case "user":
            steps = [f"{account.principal.id}: purchase add-on credits for your own account."]
        case "owner":
            steps = [
                (
                    f"The owner of team {team_id}, {account.principal.id}: purchase add-on "
                    "credits; unattended runs are paid from the owner's pools."
                )
            ]
        case "team":
            return [
                (
                    f"An admin of team {team_id}: contact your account manager to extend the "
                    "contract's credits."
                )
            ]
        case _:
            assert_never(payer)
    if decline is not None:
        steps = [*reload_fix(decline, team_id), *steps]
    if refill is not None:
        steps.append(f"Or wait: the plan's credits refill at {iso(refill)}.")
    return steps


def _pools_after(entry: Entry) -> tuple[PoolBalance, ...]:
    taken: dict[str, int] = {}
    for draw in entry.draws:
        taken[draw.pool] = taken.get(draw.pool, 0) + draw.microcredits
    return tuple(
        PoolBalance(p.pool, p.available_microcredits - taken.get(p.pool, 0))
        for p in entry.pools_before
    )


def _email_text(
    account: Account,
    entry: Entry,
    run: RunContext,
    pools: tuple[PoolBalance, ...],
    fix: list[str],
    refill: datetime | None,
) -> str:
    trigger = {
        "user": f"started by user {run.trigger_id}",
        "team_api_key": f"started by team API key {run.trigger_id}",
        "schedule": f"started by schedule {run.trigger_id}",
    }[run.trigger_kind]
    lines = [
        (
            f"Run {entry.identity.subject} of team {run.team_id} failed: the account that pays for "
            "it is out of credits."
        ),
        "",
        f"Run:       {entry.identity.subject}, {trigger}",
        *([f"Project:   {run.project_id}"] if run.project_id else []),
        f"Billed:    {account.principal}, {_payer_in_words(run.payer)}",
        f"Pools:     {pools_text(pools)}",
        *(
            [f"Short by:  {format_credits(entry.shortfall_microcredits)} credits"]
            if entry.shortfall_microcredits
            else []
        ),
        f"Reload:    {reload_text(entry.decline)}",
        f"Resets at: {resets_text(refill)}",
        "",
        "What to do now:",
        *(f"- {step}" for step in fix),
        "",
        (
            "Until then retrying will not help: every run that these pools do not cover fails "
            "as well, each with a notice of its own."
        ),
    ]
    return "\n".join(lines) + "\n"


def _payer_in_words(payer: Payer) -> str:
    match payer:
        case "user":
            return "who started the run"
        case "owner":
            return "the team's owner, who pays for unattended runs"
        case "team":
            return "whose contract pays for every run of the team"
        case _:
            assert_never(payer)


def reload_text(decline: DeclineCause | None) -> str:
    """Return why no reload helps."""
    if decline in (None, "auto_reload_off"):
        return "none; auto-reload is off"
    return f"none; {decline_in_words(decline)} ({decline})"


def pools_text(pools: tuple[PoolBalance, ...]) -> str:
    """Return what is left in each pool; an empty one is called empty."""
    return ", ".join(
        f"{p.pool} {format_credits(p.available_microcredits)} left"
        if p.available_microcredits
        else f"{p.pool} empty"
        for p in pools
    )


def pools_to_json(pools: tuple[PoolBalance, ...]) -> list[dict[str, str]]:
    """Return what is left in each pool, as it stands in a notice's data."""
    return [
        {"pool": p.pool, "remaining_credits": format_credits(p.available_microcredits)}
        for p in pools
    ]


def resets_text(refill: datetime | None) -> str:
    """Return until when waiting would help."""
    return iso(refill) if refill else "never; this account has no plan that refills"
