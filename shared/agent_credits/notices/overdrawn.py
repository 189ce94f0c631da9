"""The notice of a run that has used up its reservation: one per tree of runs, as it begins."""

from typing import Any, Final, assert_never

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Directive, Entry
from agent_credits.ledger.reservations import line_of
from agent_credits.notices.facts import account_text, fact_lines, facts, step_lines
from agent_credits.notices.notice import Notice
from agent_credits.values.credits import format_credits
from agent_credits.values.display import credits_text

EXTEND: Final = (
    "To let it go on within its budget: send agent_run.extended with the credits that it still "
    "needs."
)


def run_overdrawn(account: Account, entry: Entry) -> Notice:
    """Return the notice of the entry that first drew credits that nobody held."""
    run = entry.run
    if run is None:
        raise TypeError("only a run's entry can overdraw")
    run_id, facts_of = entry.identity.subject, entry.reservation
    directive = facts_of.directive or "continue"
    line = line_of(account.reservations, run_id)
    data: dict[str, Any] = {
        "run_id": run_id,
        "team_id": run.team_id,
        "principal": str(account.principal),
        "trigger": run.trigger_kind,
        "trigger_id": run.trigger_id,
        "directive": directive,
        "overdrawn_credits": format_credits(facts_of.overdrawn_microcredits),
    }
    if line and directive != "continue":
        data["grace_credits"] = format_credits(line[-1].terms.grace_microcredits)
    if line and line[-1].run_id != run_id:
        data["root_run_id"] = line[-1].run_id
    if run.project_id is not None:
        data["project_id"] = run.project_id
    if run.traceparent is not None:
        data["traceparent"] = run.traceparent
    steps = [_to_do(directive, run_id), EXTEND]
    account_name = account_text(account.principal, run.team_id)
    lines = [
        f"Run {run_id}, paid by {account_name}, has used up what was reserved for it.",
        f"It drew {credits_text(facts_of.overdrawn_microcredits)} that nobody had reserved.",
        "",
        *fact_lines(facts(data, "run_id", "root_run_id", "project_id", "trigger", "grace_credits")),
        "",
        *step_lines(steps),
    ]
    return Notice(
        type="agent_run.overdrawn",
        severity="info" if directive == "continue" else "warning",
        principal=account.principal,
        team_id=run.team_id,
        # A run whose reservation expired may reserve, and overdraw, again.
        key=f"{run_id}:{account.version}",
        subject=run_id,
        time=entry.recorded_at,
        retryable=False,
        data={**data, "fix": steps},
        email_subject=f"Run {run_id} has used up its reservation",
        email_text="\n".join(lines) + "\n",
    )


def _to_do(directive: Directive, run_id: str) -> str:
    match directive:
        case "continue":
            return f"Let run {run_id} finish: it may draw whatever nobody has reserved."
        case "pause":
            return f"Pause run {run_id} before its grace is used up, or extend it."
        case "stop":
            return f"Stop run {run_id} before its grace is used up, or extend it."
        case _:
            assert_never(directive)
