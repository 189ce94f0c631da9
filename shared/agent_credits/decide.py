"""The pure decision: an account, a batch of changes and a time give entries and the next account.

A change's outcome is the first of these that applies:

1. malformed    refused before it gets here (`events.parse_message`)
2. conflicting  the id was recorded with another payload; nothing is applied
3. already recorded  a repeat; what was decided stays decided
4. insufficient the pools hold too little
5. debited      (or accepted, waived, finished, returned, granted: what the change asks for)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from agent_credits.accounts import (
    ERRORED_RUNS_MAX,
    Account,
    PlanSubscription,
    check_account,
)
from agent_credits.changes import (
    AlreadyRecorded,
    Change,
    Conflicting,
    GrantChange,
    Past,
    PlanChange,
    Recorded,
    Result,
    RunChange,
)
from agent_credits.events import RunFinished
from agent_credits.grants import Grant
from agent_credits.lapse import bring_up_to
from agent_credits.ledger import Entry, Identity
from agent_credits.runs import apply_run
from agent_credits.situation import Situation

ERRORED_RUNS_REMEMBERED_FOR = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Decision:
    """The account as it would be committed, and one result per change, in their order."""

    account: Account
    results: tuple[Result, ...]

    @property
    def changes_account(self) -> bool:
        return any(isinstance(result, Recorded) for result in self.results)


def decide(row: Account, changes: Sequence[Change], past: Past, now: datetime) -> Decision:
    """Apply the changes in their order to the row as read; after a full page comes page n+1."""
    now = _not_before_last_entry(row, now)
    situation = Situation(row, past, now)
    current = bring_up_to(_with_room_on_page(row), now)
    known: dict[Identity, Entry] = {entry.identity: entry for entry in row.entries}
    known.update(past.recorded)
    results: list[Result] = []
    for change in changes:
        before = known.get(change.identity)
        if before is None:
            current, entry = _apply(current, change, situation)
            current = replace(current, entries=(*current.entries, entry))
            known[change.identity] = entry
            results.append(Recorded(entry))
        elif before.payload_hash == change.payload_hash:
            results.append(AlreadyRecorded(before))
        else:
            results.append(Conflicting(before))
    decision = Decision(_ready_to_commit(current, now), tuple(results))
    return decision if decision.changes_account else Decision(row, decision.results)


def runs_that_give_back(changes: Sequence[Change]) -> frozenset[str]:
    """Return the runs whose draws these changes return; decide only with the past of those."""
    return frozenset(
        change.event.subject
        for change in changes
        if isinstance(change, RunChange)
        and isinstance(change.event, RunFinished)
        and change.event.data.status == "error"
    )


def runs_that_fail(decision: Decision) -> frozenset[str]:
    """Return the runs that fail by this decision; one of them may have failed long before.

    Decide again with their past, so that a run fails, and is announced, once.
    """
    return frozenset(
        result.entry.identity.subject
        for result in decision.results
        if isinstance(result, Recorded) and result.entry.fails_run
    )


def grants_to_look_up(account: Account, runs: Mapping[str, tuple[Entry, ...]]) -> frozenset[str]:
    """Return the ids of grants that these runs drew from and the row no longer holds."""
    held = {grant.id for grant in account.grants}
    entries = [entry for past in runs.values() for entry in past]
    entries += [entry for entry in account.entries if entry.identity.subject in runs]
    drawn = {part.grant_id for entry in entries for part in entry.draws}
    return frozenset(drawn - held)


def _not_before_last_entry(account: Account, now: datetime) -> datetime:
    # Workers' clocks differ. On one account time never runs backwards, so that a grant that was
    # recorded as expired cannot be drawn by a worker whose clock is behind.
    now = now.replace(microsecond=0)
    return max(now, account.entries[-1].recorded_at) if account.entries else now


def _with_room_on_page(row: Account) -> Account:
    if not row.page_is_full:
        return row
    return replace(row, page_number=row.page_number + 1, entries=())


def _ready_to_commit(account: Account, now: datetime) -> Account:
    account = bring_up_to(account, now)
    remembered = tuple(
        run for run in account.errored_runs if run.ended_at > now - ERRORED_RUNS_REMEMBERED_FOR
    )
    committed = replace(
        account,
        version=account.version + 1,
        # A dry grant is kept off the row; the ledger knows it, should a draw come back to it.
        grants=tuple(grant for grant in account.grants if grant.remaining_microcredits > 0),
        errored_runs=remembered[-ERRORED_RUNS_MAX:],
    )
    check_account(committed)
    return committed


def _apply(account: Account, change: Change, situation: Situation) -> tuple[Account, Entry]:
    match change:
        case RunChange():
            return apply_run(account, change, situation)
        case GrantChange():
            return _grant(account, change, situation.now)
        case PlanChange():
            return _change_plan(account, change, situation.now)
        case _:
            assert_never(change)


def _grant(account: Account, change: GrantChange, now: datetime) -> tuple[Account, Entry]:
    grant = Grant(
        id=change.grant_id,
        pool=change.pool,
        amount_microcredits=change.microcredits,
        remaining_microcredits=change.microcredits,
        granted_at=now,
        expires_at=change.expires_at and change.expires_at.replace(microsecond=0),
        cause=change.cause,
    )
    entry = Entry(
        identity=change.identity,
        payload_hash=change.payload_hash,
        type="credits.granted",
        outcome="granted",
        recorded_at=now,
        amount_microcredits=change.microcredits,
        grant=grant,
    )
    return replace(account, grants=(*account.grants, grant)), entry


def _change_plan(account: Account, change: PlanChange, now: datetime) -> tuple[Account, Entry]:
    refilled_from = account.plan.refilled_from if account.plan else None
    plan = PlanSubscription(
        name=change.plan_name,
        pool=change.pool,
        microcredits=change.microcredits,
        anchor=change.anchor,
        refilled_from=refilled_from,
    )
    entry = Entry(
        identity=change.identity,
        payload_hash=change.payload_hash,
        type="plan.changed",
        outcome="changed",
        recorded_at=now,
        amount_microcredits=0,
        plan_name=change.plan_name,
    )
    return replace(account, plan=plan), entry
