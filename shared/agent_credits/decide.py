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
    ErroredRun,
    PlanSubscription,
    available_microcredits,
    check_account,
    pool_balances,
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
from agent_credits.errors import InvariantViolated, require
from agent_credits.events import (
    AgentRunEvent,
    RunFinished,
    RunRequested,
    RunStatus,
    RunUsage,
    ScheduleTrigger,
    TeamApiKeyTrigger,
    UserTrigger,
)
from agent_credits.grants import Grant
from agent_credits.lapse import bring_up_to
from agent_credits.ledger import Draw, Entry, Identity, RunContext
from agent_credits.waterfall import draw

ERRORED_RUNS_REMEMBERED_FOR = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Decision:
    """The account as it would be committed, and one result per change, in their order."""

    account: Account
    results: tuple[Result, ...]

    @property
    def changes_account(self) -> bool:
        return any(isinstance(result, Recorded) for result in self.results)


@dataclass(frozen=True, slots=True)
class _Situation:
    """What all changes of a batch are decided with: the row as read, its past, the time."""

    row: Account
    past: Past
    now: datetime


def decide(row: Account, changes: Sequence[Change], past: Past, now: datetime) -> Decision:
    """Apply the changes in their order to the row as read; after a full page comes page n+1."""
    now = _not_before_last_entry(row, now)
    situation = _Situation(row, past, now)
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


def _apply(account: Account, change: Change, situation: _Situation) -> tuple[Account, Entry]:
    match change:
        case RunChange():
            return _apply_run(account, change, situation)
        case GrantChange():
            return _grant(account, change, situation.now)
        case PlanChange():
            return _change_plan(account, change, situation.now)
        case _:
            assert_never(change)


def _apply_run(account: Account, change: RunChange, situation: _Situation) -> tuple[Account, Entry]:
    match change.event:
        case RunRequested() as event:
            return _request(account, change, event.data.credits or 0, situation)
        case RunUsage() as event:
            return _use(account, change, event.data.credits, situation)
        case RunFinished() as event:
            return _finish(account, change, event.data.status, situation)
        case _:
            assert_never(change.event)


def _request(
    account: Account, change: RunChange, estimate: int, situation: _Situation
) -> tuple[Account, Entry]:
    available = available_microcredits(account, change.billing.pools, situation.now)
    entry = _run_entry(change, situation.now, estimate)
    # Without an estimate the run needs any credits at all: one microcredit.
    if available >= max(estimate, 1):
        return account, replace(entry, outcome="accepted")
    short = replace(entry, shortfall_microcredits=max(estimate - available, 0))
    return account, _insufficient(account, short, change, situation)


def _use(
    account: Account, change: RunChange, amount: int, situation: _Situation
) -> tuple[Account, Entry]:
    entry = _run_entry(change, situation.now, amount)
    if any(run.run_id == change.event.subject for run in account.errored_runs):
        return account, replace(entry, outcome="waived")
    drawn = draw(account.grants, change.billing.pools, amount, situation.now)
    entry = replace(
        entry,
        outcome="debited",
        draws=drawn.draws,
        shortfall_microcredits=drawn.shortfall_microcredits,
    )
    if entry.shortfall_microcredits > 0:
        entry = _insufficient(account, entry, change, situation)
    return replace(account, grants=drawn.grants), entry


def _insufficient(
    account: Account, entry: Entry, change: RunChange, situation: _Situation
) -> Entry:
    run = _entries_of_run(account, situation, change.event.subject)
    return replace(
        entry,
        outcome="insufficient",
        pools_before=pool_balances(account, change.billing.pools, situation.now),
        fails_run=not any(earlier.outcome == "insufficient" for earlier in run),
    )


def _finish(
    account: Account, change: RunChange, status: RunStatus, situation: _Situation
) -> tuple[Account, Entry]:
    entry = _run_entry(change, situation.now, 0)
    run_id = change.event.subject
    if status != "error":
        return account, replace(entry, outcome="finished")
    returns = _draws_to_return(_entries_of_run(account, situation, run_id))
    grants = account.grants
    for part in returns:
        origin = _origin(account, situation, part.grant_id)
        grants = _given_back(grants, part, origin, change.billing.grace, situation.now)
    entry = replace(
        entry,
        outcome="returned",
        amount_microcredits=sum(part.microcredits for part in returns),
        draws=returns,
    )
    runs = tuple(run for run in account.errored_runs if run.run_id != run_id)
    errored = (*runs, ErroredRun(run_id, situation.now))
    return replace(account, grants=grants, errored_runs=errored), entry


def _entries_of_run(account: Account, situation: _Situation, run_id: str) -> tuple[Entry, ...]:
    # An entry may be on the page and have its receipt already; it counts once.
    entries = {entry.identity: entry for entry in situation.past.runs.get(run_id, ())}
    for entry in (*situation.row.entries, *account.entries):
        if entry.identity.realm == "RUN" and entry.identity.subject == run_id:
            entries[entry.identity] = entry
    return tuple(entries.values())


def _draws_to_return(entries: Sequence[Entry]) -> tuple[Draw, ...]:
    """Return what the run took from each grant and has not been given back yet."""
    net: dict[tuple[str, str], int] = {}
    for entry in entries:
        sign = -1 if entry.outcome == "returned" else 1
        for part in entry.draws:
            key = (part.pool, part.grant_id)
            net[key] = net.get(key, 0) + sign * part.microcredits
    require(all(left >= 0 for left in net.values()), "no draw is given back twice")
    return tuple(Draw(pool, grant_id, left) for (pool, grant_id), left in net.items() if left > 0)


def _origin(account: Account, situation: _Situation, grant_id: str) -> Grant:
    """Return the grant as the row holds it, as the page or the ledger recorded it otherwise."""
    recorded = (entry.grant for entry in (*situation.row.entries, *account.entries))
    candidates = (*account.grants, *(grant for grant in recorded if grant is not None))
    held = next((grant for grant in candidates if grant.id == grant_id), None)
    origin = held or situation.past.grants.get(grant_id)
    if origin is None:
        raise InvariantViolated("every draw's grant is on the row or in the ledger")
    return origin


def _given_back(
    grants: tuple[Grant, ...], part: Draw, origin: Grant, grace: timedelta, now: datetime
) -> tuple[Grant, ...]:
    """Put credits back into the very grant; one that expired meanwhile gets a grace period."""
    held = next((grant for grant in grants if grant.id == part.grant_id), None)
    if held is not None:
        left = held.remaining_microcredits + part.microcredits
        filled = replace(held, remaining_microcredits=left)
        return tuple(filled if grant is held else grant for grant in grants)
    expires_at = origin.expires_at if origin.is_live(now) else now + grace
    revived = replace(origin, remaining_microcredits=part.microcredits, expires_at=expires_at)
    return (*grants, revived)


def _grant(account: Account, change: GrantChange, now: datetime) -> tuple[Account, Entry]:
    grant = Grant(
        id=change.grant_id,
        pool=change.pool,
        amount_microcredits=change.microcredits,
        remaining_microcredits=change.microcredits,
        granted_at=now,
        expires_at=change.expires_at,
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


def _run_entry(change: RunChange, now: datetime, amount_microcredits: int) -> Entry:
    event, billing = change.event, change.billing
    return Entry(
        identity=event.identity,
        payload_hash=event.payload_hash,
        type=event.type,
        outcome="finished",
        recorded_at=now,
        amount_microcredits=amount_microcredits,
        run=RunContext(
            team_id=event.data.team_id,
            trigger_kind=event.data.trigger.kind,
            trigger_id=_trigger_id(event),
            project_id=event.data.project_id,
            event_time=event.time,
            payer=billing.payer,
            policy_version=billing.policy_version,
            traceparent=event.traceparent,
        ),
    )


def _trigger_id(event: AgentRunEvent) -> str:
    trigger = event.data.trigger
    match trigger:
        case UserTrigger():
            return trigger.user_id
        case TeamApiKeyTrigger():
            return trigger.key_id
        case ScheduleTrigger():
            return trigger.schedule_id
        case _:
            assert_never(trigger)
