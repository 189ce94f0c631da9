"""Sweeps between the commits of simulated histories: the healthy never drift, the forged do."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial

import pytest
from msgspec.structs import replace

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import PAGES_MAX, Page
from agent_credits.ledger.grants import Grant
from agent_credits.ledger.limits import LimitRow
from agent_credits.notices.observations import DriftFound, Observation
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.reconciliation_sweep import ReconciliationSweep
from agent_credits.sweeps.rows import Stretch, Unreadable
from agent_credits.sweeps.sweep import Step, Visit, take_step, take_visit
from agent_credits.values.errors import AgentCreditsError, RowsUnavailable
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows
from tests.simulation.history import History, _page_size_restored
from tests.simulation.workers import Parts, StackWorker, WorkerRows
from tests.unit.sweeps.sweep_fakes import MemorySweepQueue, Poller

# The runs of those from 500 on reserve.
SEEDS = range(494, 506)
# Few enough for histories of some dozen entries to need several visits.
ENTRIES_PER_VISIT = 6
BEGINS_PER_TURN = 0.05


class SweepRows(WorkerRows):
    """What a sweep reads and puts; each call a step, between which others commit."""

    def read_pages(
        self, principal: Principal, first: int = 1, last: int = PAGES_MAX
    ) -> Iterator[Page]:
        for number in range(first, last + 1):
            read = partial(self._rows.read_pages, principal, number, number)
            yield from self._read(f"read page {number} of {principal}", lambda r=read: list(r()))

    def read_accounts_and_limits(
        self, after: str | None, rows_max: int
    ) -> Stretch[Account | LimitRow]:
        read = partial(self._rows.read_accounts_and_limits, after, rows_max)
        return self._read("read accounts and limits", read)

    def read_account_or_limit_at(self, key: str) -> Account | LimitRow | Unreadable | None:
        return self._read(f"read {key}", lambda: self._rows.read_account_or_limit_at(key))

    def read_checkpoint(self, principal: Principal) -> Checkpoint | None:
        what = f"read checkpoint of {principal}"
        return self._read(what, lambda: self._rows.read_checkpoint(principal))

    def put_checkpoint(self, checkpoint: Checkpoint) -> None:
        what = f"put checkpoint {checkpoint.page_number} of {checkpoint.principal}"
        put = partial(self._rows.put_checkpoint, checkpoint)
        self._worker.call("write", what, put, RowsUnavailable)

    def put_observation(self, observation: Observation, now: datetime) -> bool:
        put = partial(self._rows.put_observation, observation, now)
        return self._worker.call("write", f"observe {observation.kind}", put, RowsUnavailable)


class SweepWorker(StackWorker):
    """functions/sweep, and the queue and schedule before it."""

    history: "SweptHistory"

    def boot(self) -> None:
        super().boot()
        self.sweep = ReconciliationSweep(SweepRows(self), ENTRIES_PER_VISIT)

    def has_work(self) -> bool:
        return False

    def next_invocation(self) -> Callable[[], None] | None:
        if not self.scheduler.faults.enabled:
            return None
        queue = self.history.sweeps
        if not queue.messages and self.scheduler.random.random() < BEGINS_PER_TURN:
            queue.forget_what_was_seen()
            queue.send([Step(sweep="reconciliation", day=self.scheduler.now.date(), number=0)])
        if not queue.messages:
            return None
        return partial(self._take, queue.messages.pop(0))

    def _take(self, message: Step | Visit) -> None:
        queue, began = self.history.sweeps, len(self.history.rows.changes)
        try:
            if isinstance(message, Visit):
                swept = take_visit(self.sweep, queue, message, self.clock())
            else:
                swept = take_step(
                    self.sweep,
                    queue,
                    message,
                    attempt=1,
                    now=self.clock(),
                    time_is_left=lambda: self.scheduler.random.random() < 0.5,
                )
        except AgentCreditsError as error:
            self.scheduler.note(self.name, f"is told {type(error).__name__}")
            queue.messages.append(message)
            return
        self.history.swept += swept.counts
        self.history.committed_meanwhile += len(self.history.rows.changes) > began


class SweptHistory(History):
    """A history in which every account is held against its ledger all the while."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, Parts())
        self.sweeps = MemorySweepQueue()
        self.swept: Counter[str] = Counter()
        self.committed_meanwhile = 0
        self.workers += [SweepWorker(self, f"sweep {number}") for number in range(2)]

    def rows_at_rest(self) -> MemoryRows:
        """Return what is stored in the end, checkpoints too, where nobody looks on."""
        rows = MemoryRows()
        rows.accounts, rows.pages, rows.receipts = (
            dict(self.rows.accounts),
            dict(self.rows.pages),
            dict(self.rows.receipts),
        )
        rows.policies, rows.checkpoints = self.rows.policies, self.rows.checkpoints
        rows.teams, rows.limits = self.rows.teams, self.rows.limits
        return rows


def sweep_over(rows: MemoryRows, now: datetime) -> Counter[str]:
    queue = MemorySweepQueue()
    queue.send([Step(sweep="reconciliation", day=now.date(), number=0)])
    return Poller(ReconciliationSweep(rows, ENTRIES_PER_VISIT), queue, now).run()


def run(seed: int) -> SweptHistory:
    history = SweptHistory(seed)
    with _page_size_restored():
        history.run()
    return history


def test_a_sweep_between_commits_never_takes_a_healthy_account_for_drifted() -> None:
    swept: Counter[str] = Counter()
    committed_meanwhile = 0

    for seed in SEEDS:
        history = run(seed)
        accounts, limits = len(history.rows.accounts), len(history.rows.limits)
        at_rest = sweep_over(history.rows_at_rest(), history.scheduler.now)
        healthy = Counter(AccountsReconciled=accounts, LimitsReconciled=limits)
        assert at_rest == healthy, f"seed {seed}"
        swept += history.swept
        committed_meanwhile += history.committed_meanwhile

    assert swept["AccountsReconciled"] > 10 * len(SEEDS)
    assert swept["LimitsReconciled"] > len(SEEDS)
    # Else the above would be said of accounts that nobody touched.
    assert committed_meanwhile > len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_drift_that_is_planted_in_a_history_is_found(seed: int) -> None:
    history = run(seed)
    rows, now = history.rows_at_rest(), history.scheduler.now
    principal, account = max(rows.accounts.items(), key=lambda a: a[1].page_number)
    forged = Grant("forged", "add_on", 1, 1, now, None, "purchase")
    rows.accounts[principal] = replace(account, grants=(*account.grants, forged))

    counts = sweep_over(rows, now)

    assert counts["AccountsDrifted"] == 1
    (drift,) = rows.observation_stream
    assert isinstance(drift, DriftFound)
    assert drift.principal == principal
