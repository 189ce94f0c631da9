"""A team of 200 members, all active under one limit of the team, in virtual time.

What workers lose to one another depends on how long their requests take, and not on the machine. So
requests and computing take so long in virtual time. A run gives the same figures everywhere, so
they can be gated on.

A transaction is in two steps, as DynamoDB describes it. Between them no other transaction may move
any of its rows: one that tries is canceled with `TransactionConflict` and is not told where the row
stands.
"""

import itertools
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from agent_credits.aws.backoff import longest_wait
from agent_credits.billing.directory import Directory
from agent_credits.commit.rows import LostTogether
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity, Page, Receipt
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.values.principals import Principal
from tests.benchmarks.agent_credits_design import rows_of
from tests.benchmarks.cost_model import read_prices
from tests.benchmarks.stores import Network
from tests.benchmarks.workloads import (
    MEMBERS,
    TEAM_LIMIT,
    Batch,
    Workload,
    batches_of,
    uniform,
    with_limits,
)
from tests.dispositions import postponed, rejected
from tests.memory_rows import MemoryRows
from tests.unit.builders import NOW
from tests.virtual_time import VirtualTime

WORKERS = (1, 2, 4, 8)
# BatchSize of the template is the second.
EVENTS_PER_BATCH = (1, 10, 100)
CASES = tuple(itertools.product(EVENTS_PER_BATCH, WORKERS))
# What is gated on: batches that are not of one event alone.
QUICK_CASES = tuple(itertools.product(EVENTS_PER_BATCH[1:], (WORKERS[0], WORKERS[-1])))
SECONDS, SECONDS_QUICK = 10.0, 3.0
# Deciding an account's events and serializing its row, on the share of a processor that comes with
# the function's memory. It counts, because the row of the limit may move meanwhile.
COMPUTING_SECONDS = 0.0006
# A batch comes back as often as from the queue, after its visibility timeout.
COMES_BACK_AFTER_SECONDS = 2.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SpannedRate:
    """What workers ended in so many seconds; `transactions` and `lost` are attempts to commit.

    `commits` are of accounts: one transaction commits several. `came_back`: events that lost every
    race and were delivered again.
    """

    workers: int
    events_per_batch: int
    seconds: float
    events: int
    commits: int
    transactions: int
    lost: int
    came_back: int

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds

    @property
    def commits_per_second(self) -> float:
        return self.commits / self.seconds

    @property
    def share_lost(self) -> float:
        return self.lost / self.transactions if self.transactions else 0.0


class DistantRows(MemoryRows):
    """Rows that are a request away: a request takes effect in the middle of the time it takes."""

    def __init__(
        self, workload: Workload, clock: VirtualTime, network: Network, until: float
    ) -> None:
        super().__init__()
        near = rows_of(workload)
        self.policies, self.teams, self.accounts = near.policies, near.teams, near.accounts
        self._clock = clock
        self._until = until
        self._request = network.request_milliseconds / 1_000
        self._transaction = network.seconds("TransactWriteItems")
        self._in_transaction: set[Principal | LimitKey] = set()
        self.transactions = self.lost = 0

    def read_account(self, principal: Principal) -> Account | None:
        return self._after_a_request(lambda: MemoryRows.read_account(self, principal))

    def read_accounts_of(self, principals: Collection[Principal]) -> Mapping[Principal, Account]:
        return self._after_a_request(lambda: MemoryRows.read_accounts_of(self, principals))

    def read_limits(self, keys: Collection[LimitKey]) -> Mapping[LimitKey, LimitRow]:
        return self._after_a_request(lambda: MemoryRows.read_limits(self, keys))

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        if not identities:
            return {}
        return self._after_a_request(lambda: MemoryRows.read_receipts(self, identities))

    def read_run(self, run_id: str) -> Iterator[Receipt]:
        return self._after_a_request(lambda: MemoryRows.read_run(self, run_id))

    def put_page(self, page: Page) -> None:
        self._after_a_request(lambda: MemoryRows.put_page(self, page))

    def flush_and_read_receipts(
        self, pages: Collection[Page], identities: Collection[Identity]
    ) -> Mapping[Identity, Receipt]:
        def both() -> Mapping[Identity, Receipt]:
            for page in pages:
                MemoryRows.put_page(self, page)
            return MemoryRows.read_receipts(self, identities)

        return self._after_a_request(both)

    def compare_and_set(self, account: Account) -> Account | None:
        raise AssertionError(f"the commit of {account.principal} moves the row of the limit")

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        self._clock.sleep(COMPUTING_SECONDS * len(accounts) + self._request / 2)
        rows = {*(account.principal for account in accounts), *(row.key for row in limits)}
        if rows & self._in_transaction:
            lost: LostTogether | None = LostTogether(conflicts=True)
        elif self._has_moved(accounts, limits):
            lost = MemoryRows.compare_and_set_together(self, accounts, limits)
        else:
            self._in_transaction |= rows
            self._clock.sleep(self._transaction - self._request)
            self._in_transaction -= rows
            lost = MemoryRows.compare_and_set_together(self, accounts, limits)
            assert lost is None, "nothing moves a row that is in a transaction"
        self._clock.sleep(self._request / 2)
        if self._clock.now <= self._until:
            self.transactions += 1
            self.lost += lost is not None
        return lost

    def _has_moved(self, accounts: Sequence[Account], limits: Sequence[LimitRow]) -> bool:
        there = [(self.accounts.get(account.principal), account) for account in accounts]
        rows = [(self.limits.get(row.key), row) for row in limits]
        return any((old.version if old else 0) != new.version - 1 for old, new in (*there, *rows))

    def _after_a_request(self, act: Callable[[], Result]) -> Result:
        self._clock.sleep(self._request / 2)
        result = act()
        self._clock.sleep(self._request / 2)
        return result


class _Worker:
    """One execution environment, that takes one batch after another as long as there is time."""

    def __init__(
        self, rows: DistantRows, clock: VirtualTime, batches: Iterator[Batch], chance: random.Random
    ) -> None:
        self._clock = clock
        self._batches = batches
        self._chance = chance
        self._debits = Debits(rows, Directory(rows), self._pause)
        # What lost every race, and when it comes back.
        self._waiting: list[tuple[float, Delivery]] = []
        self._delivered = 0
        self.events = self.came_back = 0
        self.committed: set[tuple[Principal, int]] = set()

    def work(self, until: float) -> None:
        while True:
            deliveries = self._next_batch()
            batch = self._debits.debit(deliveries, now=NOW, time_is_left=lambda: True)
            assert not rejected(batch)
            if self._clock.now > until:
                return
            again = postponed(batch)
            comes_back_at = self._clock.now + COMES_BACK_AFTER_SECONDS
            self._waiting += [(comes_back_at, d) for d in deliveries if d.message_id in again]
            self.came_back += len(again)
            self.events += len(deliveries) - len(again)
            self.committed |= {(o.principal, o.version) for o in batch.outcomes}

    def _next_batch(self) -> list[Delivery]:
        """Return what has come back meanwhile, and a batch as large as any other in all."""
        bodies = next(self._batches)
        due = [delivery for at, delivery in self._waiting if at <= self._clock.now][: len(bodies)]
        self._waiting = [waiting for waiting in self._waiting if waiting[1] not in due]
        fresh = bodies[len(due) :]
        self._delivered += len(fresh)
        first = self._delivered - len(fresh)
        return [*due, *(Delivery(str(first + n), body) for n, body in enumerate(fresh))]

    def _pause(self, attempts_lost: int) -> None:
        self._clock.sleep(self._chance.uniform(0, longest_wait(attempts_lost)))


def spanned_rates(
    cases: Sequence[tuple[int, int]], seconds: float, begin: Callable[[str], None]
) -> list[SpannedRate]:
    assumptions = read_prices().assumptions
    network = Network(assumptions.request_milliseconds, assumptions.transaction_requests)
    rates = []
    for size, workers in cases:
        begin(f"{size} a batch, {workers} workers")
        rates.append(spanned_rate(workers, size, network, seconds))
    return rates


def spanned_rate(
    workers: int, events_per_batch: int, network: Network, seconds: float
) -> SpannedRate:
    """Let so many workers debit batches of random members, and count what they did."""
    clock = VirtualTime()
    workload = with_limits(uniform(0, warm_up=0, accounts=MEMBERS), TEAM_LIMIT)
    rows = DistantRows(workload, clock, network, seconds)
    crew = [
        _Worker(
            rows,
            clock,
            batches_of(workload.principals, events_per_batch, seed=1_000 + number),
            random.Random(number),
        )
        for number in range(workers)
    ]
    clock.run([partial(worker.work, seconds) for worker in crew])
    return SpannedRate(
        workers=workers,
        events_per_batch=events_per_batch,
        seconds=seconds,
        events=sum(worker.events for worker in crew),
        commits=sum(len(worker.committed) for worker in crew),
        transactions=rows.transactions,
        lost=rows.lost,
        came_back=sum(worker.came_back for worker in crew),
    )
