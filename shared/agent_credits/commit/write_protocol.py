"""The write protocol: the one path on which an account changes.

    1 read the row       (or start from the row that this worker committed last)
    2 read the receipts  of the batch's identities, after the row; at the same time
      flush the page     if it is full: insert the page and its receipts unless they exist
    3 decide             each change that has no receipt and is not on the page; a pure function
    4 compare-and-set    the row; a lost race returns the current row: go to 2

Why it is exact: a change committed at a version up to v is on the page of v, or has a receipt
before v+1 exists, because every writer flushes before 4. And the writer that wins at v has read the
row at v, and the receipts after it. Reading the receipts before the row would miss a page that is
flushed in between. The two halves of 2 need no order: the entries that are flushed are on the row,
so their receipts are not looked up. A worker with many accounts does 1 and 2 for all of them
together, before each commit begins: see `read_ahead`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from agent_credits.commit.beside import ALONE, Beside
from agent_credits.commit.changes import Change, Past, Result, Unsure, Waiting
from agent_credits.commit.decide import (
    Decision,
    decide,
    grants_to_look_up,
    lacks_credits,
    runs_in_doubt,
    runs_that_fail,
    runs_that_give_back,
    runs_with_their_own_limit,
)
from agent_credits.commit.read_ahead import Ahead, flushes_ahead, not_on_page
from agent_credits.commit.rows import Rows, entries_of
from agent_credits.events.agent_runs import Rejection
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity, Receipt, origin_identity
from agent_credits.ledger.grants import Grant
from agent_credits.ledger.shared_pools import is_shared_grant, lender_of, lent
from agent_credits.values.errors import (
    AccountMissing,
    Contended,
    InvariantViolated,
    MoreRowsNeeded,
    require,
)
from agent_credits.values.principals import Principal

# Each lost attempt means that another writer committed, so the account made progress.
ATTEMPTS_MAX = 10

# The most changes in one commit. With identifiers of usual length, the row stays far below its
# ceiling; with longer ones, the batch is halved until the row fits.
CHANGES_PER_COMMIT_MAX = 200

# Bills the changes again by settings read at this moment.
Rebill = Callable[[Sequence[Change], datetime], Sequence[Change]]

# Called with the number of attempts lost so far; waits for a random time. One that may not wait any
# longer raises `Contended`.
Pause = Callable[[int], None]


class Committed(Struct, frozen=True):
    """The row after the commit, one result per change, and how many attempts failed."""

    account: Account
    results: tuple[Result, ...]
    retries: int
    errored_runs_forgotten: int = 0


class _Attempt(Struct, frozen=True):
    """The start of an attempt: the row as it was read, and the changes as they were billed.

    `rebill` is None after its call. `is_warm`: the row was cached by this worker, not read.
    `receipts` is None unless they were read ahead.
    """

    row: Account
    changes: Sequence[Change]
    rebill: Rebill | None
    is_warm: bool = False
    receipts: Mapping[Identity, Receipt | None] | None = None

    def on(self, newer: Account) -> "_Attempt":
        """Return the attempt that starts from a row which was just read."""
        return replace(self, row=newer, is_warm=False, receipts=None)


class _Superseded(Struct, frozen=True):
    """The attempt committed nothing: another writer's row is newer. `next` starts from it."""

    next: _Attempt
    lost_race: bool


def commit(
    rows: Rows,
    principal: Principal,
    changes: Sequence[Change],
    *,
    now: datetime,
    pause: Pause,
    warm: Account | None = None,
    ahead: Ahead | None = None,
    opens_account: bool = False,
    before_failing: Rebill | None = None,
    attempts_max: int = ATTEMPTS_MAX,
) -> Committed:
    """Record a batch of at most `CHANGES_PER_COMMIT_MAX` changes of one account, all or none.

    Raises `AccountMissing`, unless the batch opens the account, `Contended` after `attempts_max`
    lost races, `AccountTooLarge` if the changes do not fit one row, `MoreRowsNeeded` if they move
    rows beside the account's own, and what `rows` raises.
    `before_failing` is called once, if a run would fail, to bill by settings that are not cached.
    `ahead` is what was read for these very changes; without it, `warm` is the row to start from.
    """
    require(0 < len(changes) <= CHANGES_PER_COMMIT_MAX, "a commit holds a bounded batch")
    if ahead is not None:
        attempt = _Attempt(ahead.row, changes, before_failing, ahead.is_warm, ahead.receipts)
    else:
        row = warm or rows.read_account(principal)
        if row is None:
            if not opens_account:
                raise AccountMissing(f"{principal} has no account")
            row = Account(principal)
        attempt = _Attempt(row, changes, before_failing, is_warm=warm is not None)
    for number in range(attempts_max):
        tried = _try(rows, attempt, now)
        if isinstance(tried, Decision):
            return Committed(tried.account, tried.results, number, tried.errored_runs_forgotten)
        attempt = tried.next
        if tried.lost_race and number + 1 < attempts_max:
            pause(number + 1)
    raise Contended(f"{principal}: lost {attempts_max} races in a row", attempts_max)


def _try(rows: Rows, attempt: _Attempt, now: datetime) -> Decision | _Superseded:
    """Read, decide and write once; a returned decision is committed, or changes nothing."""
    row = attempt.row
    wanted = not_on_page(row, attempt.changes)
    is_flushed = flushes_ahead(row, wanted)
    receipts: Mapping[Identity, Receipt]
    if attempt.receipts is not None:
        # Otherwise a repeat would look new.
        require(attempt.receipts.keys() >= set(wanted), "all changes were looked up ahead")
        receipts = {i: receipt for i, receipt in attempt.receipts.items() if receipt}
    elif is_flushed:
        receipts = rows.flush_and_read_receipts([row.page], wanted)
    else:
        receipts = rows.read_receipts(wanted)
    try:
        decision = decide_with_ledger(rows, row, attempt.changes, receipts, now)
        if attempt.rebill is not None and lacks_credits(decision):
            rebilled = attempt.rebill(attempt.changes, now)
            attempt = replace(attempt, changes=rebilled, rebill=None)
            decision = decide_with_ledger(rows, row, rebilled, receipts, now)
    except InvariantViolated:
        # The ledger was read after the row, so it may include commits that the row does not, and
        # the two may disagree. It is a bug only if the row is still the newest.
        newer = rows.read_account(row.principal)
        if newer is None or newer.version == row.version:
            raise
        return _Superseded(attempt.on(newer), lost_race=False)
    if decision.lacks:
        raise MoreRowsNeeded(f"{row.principal}: the changes move rows beside the account's own")
    if not decision.changes_account:
        if must_be_newest(decision, is_warm=attempt.is_warm):
            # Without a write, this worker would not notice that its row is stale: that the reload
            # was granted long ago, or that the run or its parent has reserved meanwhile.
            newer = rows.read_account(row.principal) or row
            if newer.version != row.version:
                return _Superseded(attempt.on(newer), lost_race=False)
        return decision
    require(decision.account.version == row.version + 1, "a commit adds one to `version`")
    if row.page_is_full and not is_flushed:
        rows.put_page(row.page)
    newer = rows.compare_and_set(decision.account)
    if newer is None:
        return decision
    return _Superseded(attempt.on(newer), lost_race=True)


def decide_with_ledger(
    rows: Rows,
    row: Account,
    changes: Sequence[Change],
    receipts: Mapping[Identity, Receipt],
    now: datetime,
    beside: Beside = ALONE,
) -> Decision:
    """Read what else the decision needs of the ledger, after reading the row, and decide."""
    decision, _ = decide_with_past(rows, row, changes, receipts, now, beside)
    return decision


def decide_with_past(
    rows: Rows,
    row: Account,
    changes: Sequence[Change],
    receipts: Mapping[Identity, Receipt],
    now: datetime,
    beside: Beside,
) -> tuple[Decision, Past]:
    """Decide likewise, and return what was read of the ledger as well."""
    recorded = {identity: receipt.entry for identity, receipt in receipts.items()}
    fresh = [change for change in changes if change.identity not in recorded]
    needed = runs_that_give_back(fresh) | runs_with_their_own_limit(fresh)
    past = _with_runs(rows, row, Past(recorded=recorded), needed, now, beside)
    decision = decide(row, changes, past, now, beside)
    # Each round reads the past of at least one more run, and a change names at most two: its own
    # and its parent. Nearly always one round is enough.
    for _ in range(2 * len(changes)):
        lacking = (runs_that_fail(decision) | runs_in_doubt(decision)) - past.runs.keys()
        if not lacking:
            break
        past = _with_runs(rows, row, past, lacking, now, beside)
        decision = decide(row, changes, past, now, beside)
    return decision, past


def must_be_newest(decision: Decision, *, is_warm: bool) -> bool:
    """Tell whether what was decided, without a write, would be wrong if the row were stale.

    What contradicts a reservation was decided with the ledger as well, which was read after the
    row: it may include that the run reserved, when the row does not hold the reservation yet.
    """
    if any(isinstance(result, Unsure | Rejection) for result in decision.results):
        return True
    return is_warm and any(isinstance(result, Waiting) for result in decision.results)


def _origin(principal: Principal, grant_id: str) -> Identity:
    """Return the identity of the entry that made a grant, on this account or on a team's."""
    if is_shared_grant(grant_id):
        return origin_identity(*lender_of(grant_id))
    return origin_identity(principal, grant_id)


def _as_called_here(grant: Grant, grant_id: str) -> Grant:
    return lent(lender_of(grant_id)[0].id, grant) if is_shared_grant(grant_id) else grant


def _with_runs(
    rows: Rows, row: Account, past: Past, run_ids: Collection[str], now: datetime, beside: Beside
) -> Past:
    if not run_ids:
        return past
    receipts_of = {run: tuple(rows.read_run(run)) for run in sorted(run_ids)}
    runs = {run: entries_of(found, row.principal) for run, found in receipts_of.items()}
    elsewhere = frozenset(run for run, found in receipts_of.items() if len(found) > len(runs[run]))
    grant_ids = grants_to_look_up(row, runs, now, beside)
    origins = {_origin(row.principal, grant_id): grant_id for grant_id in sorted(grant_ids)}
    receipts = rows.read_receipts([*origins])
    grants = {
        origins[identity]: _as_called_here(receipt.entry.grant, origins[identity])
        for identity, receipt in receipts.items()
        if receipt.entry.grant
    }
    return Past(
        past.recorded,
        {**past.runs, **runs},
        {**past.grants, **grants},
        past.elsewhere | elsewhere,
    )
