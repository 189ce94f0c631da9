"""The pure decision: an account, a batch of changes and a time give entries and the next account.

A change's outcome is the first of these that applies:

1. malformed    rejected before it gets here (`events.parse_message`)
2. conflicting  the id was recorded with another payload; nothing is applied
3. already recorded  a repeat; what was decided stays decided
4. rejected     it contradicts the reservations of the account: a run or a parent that has ended
5. waiting      the pools hold too little, and a reload that may cover it is under way
6. insufficient a limit refuses, the pools hold too little, or the run may draw no more
7. debited      or what else the change asks for: accepted, waived, finished, returned, granted
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from agent_credits.commit.beside import ALONE, NOTHING_BESIDE, Beside, NamesBeside
from agent_credits.commit.changes import (
    AlreadyRecorded,
    Change,
    Conflicting,
    GrantChange,
    Past,
    PlanChange,
    Recorded,
    ReleaseChange,
    ReloadDeclined,
    ReloadGranted,
    Result,
    RunChange,
    Unsure,
    Waiting,
)
from agent_credits.commit.decision_context import DecisionContext
from agent_credits.commit.limits import moved_limits, settled_counts
from agent_credits.commit.low_credits import with_low_credits
from agent_credits.commit.reload_outcomes import decline_reload, grant_reload
from agent_credits.commit.reload_requests import freeze, reload_where_low, with_reload_recorded
from agent_credits.commit.runs import apply_release_by_hand, apply_run
from agent_credits.commit.shared_pools import (
    billing_of_lender,
    lenders,
    moved_lenders,
    past_with_lenders,
    with_grants_lent,
    without_grants_lent,
)
from agent_credits.events.agent_runs import Rejection, RunFinished
from agent_credits.ledger.accounts import (
    ERRORED_RUNS_MAX,
    Account,
    ErroredRun,
    PlanSubscription,
    check_account,
    fills_page,
    held_grant_ids,
)
from agent_credits.ledger.conservation import check_commit
from agent_credits.ledger.entries import Entry, Identity
from agent_credits.ledger.expiry import bring_up_to
from agent_credits.ledger.grants import Grant
from agent_credits.ledger.shared_pools import is_shared_pool, lender_of
from agent_credits.values.principals import Principal

ERRORED_RUNS_REMEMBERED_FOR = timedelta(hours=24)


class Decision(Struct, frozen=True):
    """The account as it would be committed, and one result per change, in their order."""

    row_version: int
    account: Account
    results: tuple[Result, ...]
    # Runs whose late usage would have been waived for longer, had the row had room for them.
    errored_runs_forgotten: int = 0
    # The rows beside the account's own that the commit moves, in one transaction with it.
    moves: Beside = ALONE
    # Rows that the decision needs and that were not read. Read them, and decide again.
    lacks: NamesBeside = NOTHING_BESIDE

    @property
    def changes_account(self) -> bool:
        """Tell whether there is an entry to commit, even if only that of a reload."""
        return self.account.version > self.row_version


def decide(
    row: Account, changes: Sequence[Change], past: Past, now: datetime, beside: Beside = ALONE
) -> Decision:
    """Apply the changes in their order to the row as read; after a full page comes page n+1."""
    names, owed = names_beside(row, changes), _owed(DecisionContext(row, past, now), changes)
    lacks = beside.lacks(names.joined(NamesBeside(shared=owed)) if owed else names)
    if lacks:
        return Decision(row.version, row, (), lacks=lacks)
    current, context = beginning(row, past, now, beside)
    past, now, beside = context.past, context.now, context.beside
    known: dict[Identity, Entry] = {entry.identity: entry for entry in row.entries}
    known.update(past.recorded)
    results: list[Result] = []
    waiting: dict[Identity, Waiting] = {}
    for change in changes:
        before = known.get(change.identity)
        if change.identity in waiting:
            # The same event twice in one batch: the reload covers it once.
            results.append(waiting[change.identity])
        elif before is None:
            current, decided = _apply(current, change, context)
            if isinstance(decided, Waiting):
                waiting[change.identity] = decided
            if not isinstance(decided, Entry):
                results.append(decided)
                continue
            current = replace(current, entries=(*current.entries, decided))
            known[change.identity] = decided
            results.append(Recorded(decided))
        elif before.payload_hash == change.payload_hash:
            results.append(AlreadyRecorded(before))
        else:
            results.append(Conflicting(before))
    fresh = [c for c, r in zip(changes, results, strict=True) if isinstance(r, Recorded)]
    current = _with_reload(current, fresh, context)
    if not any(isinstance(result, Recorded) for result in results) and current.reload == row.reload:
        return Decision(row.version, row, tuple(results))
    remembered = _late_usage_waived(current, now)
    kept = remembered[-ERRORED_RUNS_MAX:]
    current = replace(current, errored_runs=kept)
    committed, teams_moved = _ready_to_commit(current, fresh, context)
    limits, missing = moved_limits(row, committed, _runs(fresh), beside, now)
    if missing:
        return Decision(row.version, row, (), lacks=NamesBeside(missing))
    moves = Beside(limits, teams_moved)
    return Decision(row.version, committed, tuple(results), len(remembered) - len(kept), moves)


def beginning(
    row: Account, past: Past, now: datetime, beside: Beside
) -> tuple[Account, DecisionContext]:
    """Return the account as its first change finds it, and what the changes are decided with.

    It is brought up to now and has the grants that its teams lend.
    """
    now = _not_before(row, beside, now)
    if beside.shared:
        teams = [team for team in beside.shared.values() if team is not None]
        up_to_now = {t.principal: bring_up_to(_with_room_on_page(t), now) for t in teams}
        beside = beside.with_moved(Beside(shared=up_to_now))
        past = past_with_lenders(past, beside)
    current = with_grants_lent(bring_up_to(_with_room_on_page(row), now), beside)
    return current, DecisionContext(row, past, now, beside)


def settled_lender(
    row: Account, moved: Account, borrowers: Sequence[RunChange], now: datetime
) -> Account:
    """Return a team's account as it is to be written, after all that a commit moved on it.

    `row`: as it was read. `borrowers`: the runs of the commit that may draw from its pools.
    """
    now = _not_before(moved, ALONE, now)
    runs = [RunChange(run.event, billing_of_lender(run.billing)) for run in borrowers]
    context = DecisionContext(row, Past(), now)
    return _committed(row, with_low_credits(moved, runs, _new_entries(row, moved), context))


def names_beside(row: Account, changes: Sequence[Change]) -> NamesBeside:
    """Return the rows that these changes of an account need beside its own."""
    runs = _runs(changes)
    spanning = [limit.key for run in runs for limit in run.billing.limits if limit.spans_accounts]
    # A limit that began to span accounts does so until its period is over.
    named = {limit.key for run in runs for limit in run.billing.limits}
    counted = [c.key for c in row.limit_counts if c.spans_accounts and c.key in named]
    ends = [change for change in changes if isinstance(change, RunChange | ReleaseChange)]
    teams = lenders(row, ends) if ends else frozenset[Principal]()
    if not spanning and not counted and not teams:
        return NOTHING_BESIDE
    return NamesBeside(frozenset((*spanning, *counted)), teams)


def _owed(context: DecisionContext, changes: Sequence[Change]) -> frozenset[Principal]:
    """Return the teams from whose pools those runs drew that give their draws back.

    The rule that bills the end of a run may no longer name any pool of the team.
    """
    return frozenset(
        lender_of(part.grant_id)[0]
        for run_id in runs_that_give_back(changes)
        for entry in context.entries_of_run(context.row, run_id)
        for part in entry.draws
        if is_shared_pool(part.pool)
    )


def runs_that_give_back(changes: Sequence[Change]) -> frozenset[str]:
    """Return the runs whose draws these changes return; decide only with the past of those."""
    return frozenset(
        change.event.subject
        for change in changes
        if isinstance(change, RunChange)
        and isinstance(change.event, RunFinished)
        and change.event.data.status == "error"
    )


def runs_in_doubt(decision: Decision) -> frozenset[str]:
    """Return the runs whose past must be known; decide again with it."""
    return frozenset(result.run_id for result in decision.results if isinstance(result, Unsure))


def lacks_credits(decision: Decision) -> bool:
    """Tell whether the pools are too short for any event, even of a run that failed before."""
    return any(
        isinstance(result, Recorded) and result.entry.outcome == "insufficient"
        for result in decision.results
    )


def runs_that_fail(decision: Decision) -> frozenset[str]:
    """Return the runs that fail by this decision; some may have failed long before.

    Decide again with their past, so that each run fails, and is announced, once.
    """
    return frozenset(
        result.entry.identity.subject
        for result in decision.results
        if isinstance(result, Recorded) and result.entry.fails_run
    )


def grants_to_look_up(
    account: Account,
    runs: Mapping[str, tuple[Entry, ...]],
    now: datetime,
    beside: Beside = ALONE,
) -> frozenset[str]:
    """Return the ids of the grants that these runs drew from and that left the row, or do now.

    What reservations hold of such grants may be drawn, and given back, in the same commit.
    """
    now = _not_before(account, beside, now)
    grants = with_grants_lent(account, beside).grants
    there = {grant.id for grant in grants if grant.is_live(now)}
    entries = [entry for past in runs.values() for entry in past]
    entries += [entry for entry in account.entries if entry.identity.subject in runs]
    drawn = {part.grant_id for entry in entries for part in entry.draws}
    reserved = {part.grant_id for held in account.reservations for part in held.parts}
    return frozenset((drawn | reserved) - there)


def _not_before(account: Account, beside: Beside, now: datetime) -> datetime:
    # Workers' clocks differ. On one row time never runs backwards, so that a worker whose clock is
    # behind cannot draw from a grant that was recorded as expired, or settle a reservation that no
    # longer counts on a limit's row.
    now = now.replace(microsecond=0)
    last = [entry.recorded_at for entry in account.entries[-1:]]
    moved = [row.moved_at for row in beside.limits.values() if row is not None]
    teams = [team for team in beside.shared.values() if team is not None]
    lent = [entry.recorded_at for team in teams for entry in team.entries[-1:]]
    return max([now, *last, *moved, *lent])


def _runs(changes: Sequence[Change]) -> list[RunChange]:
    return [change for change in changes if isinstance(change, RunChange)]


def runs_with_their_own_limit(changes: Sequence[Change]) -> frozenset[str]:
    """Return the runs of which all that they drew must be known; decide only with their past."""
    return frozenset(
        run.event.subject
        for run in _runs(changes)
        if any(limit.key.period == "run" for limit in run.billing.limits)
    )


def _with_room_on_page(row: Account) -> Account:
    if not row.page_is_full:
        return row
    return replace(row, page_number=row.page_number + 1, entries=(), page_is_full=False)


def _with_reload(account: Account, fresh: Sequence[Change], context: DecisionContext) -> Account:
    # Only fresh events count: a repeat, however late, must not buy anything.
    runs = _runs(fresh)
    for billing in dict.fromkeys(change.billing for change in runs):
        account = reload_where_low(account, billing, context)
    too_many = {e.identity for e in account.entries if e.decline == "too_many_reloads"}
    for change in runs:
        if change.identity in too_many:
            account = freeze(account, change.billing, context)
    return with_reload_recorded(account, context)


def _is_exhausted(account: Account, new_entries: Sequence[Entry]) -> bool:
    """A run has failed, and no credits have come since."""
    exhausted = account.is_exhausted
    for entry in new_entries:
        if entry.outcome == "insufficient":
            exhausted |= entry.exhausts_account
        elif entry.brings_credits:
            exhausted = False
    return exhausted


def _late_usage_waived(account: Account, now: datetime) -> tuple[ErroredRun, ...]:
    since = now - ERRORED_RUNS_REMEMBERED_FOR
    return tuple(run for run in account.errored_runs if run.ended_at > since)


def _ready_to_commit(
    account: Account, fresh: Sequence[Change], context: DecisionContext
) -> tuple[Account, dict[Principal, Account]]:
    """Return the account as it is to be written, and the teams' accounts that the commit moves."""
    account = bring_up_to(account, context.now)
    runs, entries = _runs(fresh), _new_entries(context.row, account)
    account = with_low_credits(account, runs, entries, context)
    account = settled_counts(account, runs, context)
    moved = moved_lenders(account, entries, context.beside, context.now)
    return _committed(context.row, without_grants_lent(account)), moved


def _new_entries(row: Account, account: Account) -> tuple[Entry, ...]:
    kept = len(row.entries) if account.page_number == row.page_number else 0
    return account.entries[kept:]


def _committed(row: Account, account: Account) -> Account:
    held, entries = held_grant_ids(account), _new_entries(row, account)
    committed = replace(
        account,
        version=account.version + 1,
        # An empty grant leaves the row; the ledger has it, in case a draw is given back to it.
        grants=tuple(g for g in account.grants if g.remaining_microcredits > 0 or g.id in held),
        is_exhausted=_is_exhausted(account, entries),
        page_is_full=fills_page(account.entries, len(account.reservations)),
    )
    check_account(committed)
    check_commit(row, committed, entries)
    return committed


def _apply(
    account: Account, change: Change, context: DecisionContext
) -> tuple[Account, Entry | Waiting | Unsure | Rejection]:
    match change:
        case RunChange():
            return apply_run(account, change, context)
        case ReleaseChange():
            return apply_release_by_hand(account, change, context)
        case GrantChange():
            return _grant(account, change, context.now)
        case PlanChange():
            return _change_plan(account, change, context.now)
        case ReloadGranted():
            return grant_reload(account, change, context.now)
        case ReloadDeclined():
            return decline_reload(account, change, context.now)
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
    entry = Entry.granted(change.identity, change.payload_hash, grant, now)
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
    entry = Entry.plan_changed(change.identity, change.payload_hash, change.plan_name, now)
    return replace(account, plan=plan), entry
