"""`GET /v1/runs/{run_id}`: what became of a run, event by event, on whichever accounts it bills."""

from datetime import datetime

from agent_credits.api.entries import EntryAnswer, TriggerAnswer, entry_answer
from agent_credits.api.fields import Answer, Credits, TimeOut
from agent_credits.api.recorded_runs import RecordedRun
from agent_credits.api.reservations import ReservationState, state_of
from agent_credits.ledger.entries import Directive
from agent_credits.ledger.reservations import reservation_of


class RunAnswer(Answer):
    """Entries are oldest first. `drawn_credits` is net of what was returned.

    `failed`: whether one of its events found too little. `directive`: the last one that was said.
    """

    run_id: str
    team_id: str | None
    trigger: TriggerAnswer | None
    project_id: str | None
    principals: list[str]
    failed: bool
    directive: Directive
    drawn_credits: Credits
    shortfall_credits: Credits
    as_of: TimeOut
    entries: list[EntryAnswer]
    reservation: ReservationState | None


def run_answer(run: RecordedRun, now: datetime) -> RunAnswer:
    context, entries = run.context, [found.entry for found in run.entries]
    drawn = sum(
        -entry.drawn_microcredits if entry.outcome == "returned" else entry.drawn_microcredits
        for entry in entries
    )
    held = next(
        (
            found
            for account in run.accounts.values()
            if (found := reservation_of(account.reservations, run.run_id)) is not None
        ),
        None,
    )
    failed = any(entry.fails_run for entry in entries)
    said = [entry.reservation.directive for entry in entries if entry.reservation.directive]
    directive: Directive = said[-1] if said else "stop" if failed else "continue"
    return RunAnswer(
        run_id=run.run_id,
        team_id=context.team_id if context else None,
        trigger=TriggerAnswer(kind=context.trigger_kind, id=context.trigger_id)
        if context
        else None,
        project_id=context.project_id if context else None,
        principals=sorted({str(found.principal) for found in run.entries}),
        failed=failed,
        directive=held.directive if held is not None else directive,
        drawn_credits=drawn,
        shortfall_credits=sum(entry.shortfall_microcredits for entry in entries),
        as_of=now,
        entries=[
            entry_answer(found.entry, str(found.principal), found.page_number)
            for found in run.entries
        ],
        reservation=state_of(held, now) if held is not None else None,
    )
