"""Every interleaving of two workers that commit three events: the real `commit`, step by step.

Explored breadth first: each event is delivered up to twice, to any worker, alone or with another; a
worker may crash before and after each of its calls and in the middle of a flush, and starts its
next batch from the row that it committed last. What the rows answered so far is all that a commit
knows, so a worker's state is that sequence of answers, and its next step is found by replaying it.
"""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from unittest import mock

from agent_credits.commit.changes import AlreadyRecorded, Change, Recorded
from agent_credits.commit.read_ahead import read_ahead
from agent_credits.commit.write_protocol import Committed, commit
from agent_credits.ledger import accounts
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity, Page, Receipt
from agent_credits.values.principals import Principal
from tests.simulation.exploration import explored
from tests.unit.builders import ANA, NOW, finished, grant, pause, run_changes, usage

DELIVERIES_MAX = 2
STATES_MAX = 3_000_000

INITIAL_CREDITS = 100_000_000


class Asked(BaseException):
    """Stops a replay at the first call that has no answer yet."""

    def __init__(self, name: str, argument: Any) -> None:
        self.name = name
        self.argument = argument


class Answered:
    """Rows that answer from a recorded sequence, and stop the commit where it ends."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = iter(answers)

    def _next(self, name: str, argument: Any) -> Any:
        for answer in self._answers:
            return answer
        raise Asked(name, argument)

    def read_account(self, principal: Any) -> Account | None:
        return self._next("read_account", principal)

    def read_accounts_of(self, principals: Collection[Principal]) -> Mapping[Principal, Account]:
        (principal,) = principals
        return {principal: self._next("read_account", principal)}

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        if not identities:
            return {}
        receipts = self._next("read_receipts", tuple(identities))
        return {receipt.entry.identity: receipt for receipt in receipts}

    def read_run(self, run_id: str) -> tuple[Receipt, ...]:
        return self._next("read_run", run_id)

    def compare_and_set(self, account: Account) -> Account | None:
        return self._next("compare_and_set", account)

    def put_page(self, page: Page) -> None:
        self._next("put_page", page)

    def flush_and_read_receipts(
        self, pages: Collection[Page], identities: Collection[Identity]
    ) -> Mapping[Identity, Receipt]:
        (page,) = pages
        receipts = self._next("flush_and_read_receipts", (page, tuple(identities)))
        return {receipt.entry.identity: receipt for receipt in receipts}


class Worker(NamedTuple):
    """Numbers stand for interned values, so that a state is small and quick to compare."""

    warm: int = -1
    batch: tuple[int, ...] = ()
    answers: int = -1
    unput: int = -1
    # What was read while the page is being put, once it was.
    found: int = -1
    snapshot: int = -1
    # Which of the model's clocks it went by when the batch came.
    clock: int = 0
    is_old: bool = False


class State(NamedTuple):
    row: int
    ledger: int
    deliveries: tuple[int, ...]
    acknowledged: frozenset[int]
    workers: tuple[Worker, ...]


@dataclass(frozen=True)
class Mutant:
    """One way in which the rows, or the order of the calls, can be wrong."""

    receipts_before_row: bool = False
    flush: bool = True
    receipts_with_page: bool = True
    version_condition: bool = True


CORRECT = Mutant()


class Model:
    def __init__(
        self,
        changes: Sequence[Change],
        *,
        entries_full: int,
        mutant: Mutant = CORRECT,
        overlaps: bool = True,
        clocks: tuple[datetime, ...] = (NOW,),
        deliveries: tuple[int, ...] | None = None,
        reads_ahead: bool = False,
    ) -> None:
        """Receipts are read while a page is put, or before it is where they do not overlap.

        `reads_ahead`: rows and receipts are read as for a batch of many accounts.
        """
        self._changes = changes
        self._clocks = clocks
        # How often each event is delivered.
        self._deliveries_max = deliveries or (DELIVERIES_MAX,) * len(changes)
        self._entries_full = entries_full
        self._mutant = mutant
        self._overlaps = overlaps
        self._reads_ahead = reads_ahead
        self._values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}
        self._steps: dict[tuple[int, tuple[int, ...], int, int], Any] = {}
        self._verdicts: dict[tuple[int, int], frozenset[int]] = {}
        self._puts: dict[tuple[int, int], list[tuple[int, int]]] = {}
        first = Account(ANA, version=1, grants=(grant("g-1", credits="100"),))
        self._first = State(
            row=self._intern(first),
            ledger=self._intern(frozenset()),
            deliveries=(0,) * len(changes),
            acknowledged=frozenset(),
            workers=(Worker(), Worker()),
        )

    def explore(self) -> int:
        """Return how many states there are; raises AssertionError at the first that is wrong."""
        with mock.patch.object(accounts, "PAGE_ENTRIES_FULL", self._entries_full):
            return explored(self._first, self._successors, self._check, STATES_MAX)

    def _successors(self, state: State) -> Iterator[State]:
        for number, worker in enumerate(state.workers):
            if worker.batch:
                yield self._with(state, number, Worker(is_old=worker.is_old))  # It crashes.
                yield from self._steps_of(state, number, worker)
            else:
                yield from self._deliveries_to(state, number, worker)

    def _deliveries_to(self, state: State, number: int, worker: Worker) -> Iterator[State]:
        held = {event for other in state.workers for event in other.batch}
        events = [
            event
            for event, count in enumerate(state.deliveries)
            if count < self._deliveries_max[event] and event not in held
        ]
        pairs = [(a, b) for a in events for b in events if a < b]
        for batch in [*((event,) for event in events), *pairs]:
            counts = tuple(count + (event in batch) for event, count in enumerate(state.deliveries))
            for clock in range(len(self._clocks)):
                busy = worker._replace(
                    batch=batch,
                    answers=self._intern(()),
                    snapshot=self._snapshot(state),
                    clock=clock,
                )
                yield self._with(state, number, busy)._replace(deliveries=counts)

    def _steps_of(self, state: State, number: int, worker: Worker) -> Iterator[State]:
        step = self._next_step(worker)
        if worker.unput >= 0:
            assert isinstance(step, Asked), "a worker that flushes is asked for no more"
            yield from self._flush_on(state, number, worker, step)
            return
        if isinstance(step, Committed):
            done = Worker(warm=self._intern(step.account), is_old=worker.is_old)
            recorded = {
                event
                for event, result in zip(worker.batch, step.results, strict=True)
                if isinstance(result, Recorded | AlreadyRecorded)
            }
            acknowledged = state.acknowledged | recorded
            yield self._with(state, number, done)._replace(acknowledged=acknowledged)
            return
        match step.name:
            case "read_account":
                yield self._answered(state, number, worker, self._values[state.row])
            case "read_receipts":
                found = self._receipts_of(state, worker, step.argument)
                yield self._answered(state, number, worker, found)
            case "flush_and_read_receipts":
                page, _ = step.argument
                items = self._items_of(page)
                yield self._with(state, number, worker._replace(unput=self._intern(items)))
            case "read_run":
                run_id = step.argument
                found = self._receipts(state, worker, lambda r: r.entry.identity.subject == run_id)
                yield self._answered(state, number, worker, found)
            case "put_page":
                items = self._items_of(step.argument)
                yield self._with(state, number, worker._replace(unput=self._intern(items)))
            case "compare_and_set":
                yield from self._compare_and_set(state, number, worker, step.argument)

    def _compare_and_set(
        self, state: State, number: int, worker: Worker, account: Account
    ) -> Iterator[State]:
        there: Account = self._values[state.row]
        worker = worker._replace(snapshot=self._snapshot(state))
        if self._mutant.version_condition and there.version != account.version - 1:
            yield self._answered(state, number, worker, there)
            return
        written = state._replace(row=self._intern(account))
        yield self._answered(written, number, worker, None)
        # The answer is lost, and the SDK, trying again, is told of the row that it wrote itself.
        if self._mutant.version_condition:
            yield self._answered(written, number, worker, account)

    def _items_of(self, page: Page) -> frozenset[Page | Receipt]:
        if not self._mutant.flush:
            return frozenset()
        receipts = [Receipt(page.principal, page.number, entry) for entry in page.entries]
        return frozenset([page, *(receipts if self._mutant.receipts_with_page else ())])

    def _flush_on(self, state: State, number: int, worker: Worker, step: Asked) -> Iterator[State]:
        """Put one more item or, where that goes on at once with it, read the receipts."""
        items: frozenset[Page | Receipt] = self._values[worker.unput]
        reads = step.name == "flush_and_read_receipts"
        if reads and worker.found < 0:
            _, identities = step.argument
            found = self._intern(self._receipts_of(state, worker, identities))
            yield self._with(state, number, worker._replace(found=found))
            if not self._overlaps:
                return
        elif not items:
            answer = self._values[worker.found] if reads else None
            yield self._answered(state, number, worker._replace(unput=-1, found=-1), answer)
        yield from self._put_one(state, number, worker, items)

    def _put_one(
        self, state: State, number: int, worker: Worker, items: frozenset[Page | Receipt]
    ) -> Iterator[State]:
        puts = self._puts.get((worker.unput, state.ledger))
        if puts is None:
            puts = self._puts[worker.unput, state.ledger] = [*self._putting(items, state.ledger)]
        warm, batch, answers, _, found, snapshot, clock, is_old = worker
        for unput, ledger in puts:
            left = Worker(warm, batch, answers, unput, found, snapshot, clock, is_old)
            yield self._with(state, number, left, ledger)

    def _putting(
        self, items: frozenset[Page | Receipt], ledger_number: int
    ) -> Iterator[tuple[int, int]]:
        """Yield what is left to put, and the ledger, after each of the items was put."""
        ledger: frozenset[Page | Receipt] = self._values[ledger_number]
        for item in items:
            same_key = [i for i in ledger if _key(i) == _key(item)]
            assert all(i == item for i in same_key), "a recorded entry never changes"
            yield self._intern(items - {item}), self._intern(ledger | {item})

    def _receipts_of(
        self, state: State, worker: Worker, identities: Collection[Identity]
    ) -> tuple[Receipt, ...]:
        wanted = set(identities)
        return self._receipts(state, worker, lambda r: r.entry.identity in wanted)

    def _receipts(self, state: State, worker: Worker, wanted: Any) -> tuple[Receipt, ...]:
        number = worker.snapshot if self._mutant.receipts_before_row else state.ledger
        ledger: frozenset[Page | Receipt] = self._values[number]
        found = [item for item in ledger if isinstance(item, Receipt) and wanted(item)]
        return tuple(sorted(found, key=lambda r: r.entry.identity.id))

    def _next_step(self, worker: Worker) -> Committed | Asked:
        key = (worker.warm, worker.batch, worker.answers, worker.clock)
        if key not in self._steps:
            self._steps[key] = self._replay(worker)
        return self._steps[key]

    def _replay(self, worker: Worker) -> Committed | Asked:
        rows = Answered([self._values[number] for number in self._values[worker.answers]])
        changes = [self._changes[event] for event in worker.batch]
        warm = self._values[worker.warm] if worker.warm >= 0 else None
        now, ahead = self._clocks[worker.clock], None
        try:
            if self._reads_ahead:
                ahead = read_ahead(rows, {ANA: changes}, {ANA: warm} if warm else {})[ANA]
            return commit(rows, ANA, changes, now=now, pause=pause, warm=warm, ahead=ahead)
        except Asked as asked:
            return asked

    def _answered(self, state: State, number: int, worker: Worker, answer: Any) -> State:
        answers = (*self._values[worker.answers], self._intern(answer))
        return self._with(state, number, worker._replace(answers=self._intern(answers)))

    def _with(self, state: State, number: int, worker: Worker, ledger: int = -1) -> State:
        # Made field by field, as `_replace` takes several times as long.
        row, ledger_before, deliveries, acknowledged, (first, second) = state
        return State(
            row,
            ledger if ledger >= 0 else ledger_before,
            deliveries,
            acknowledged,
            (first, worker) if number else (worker, second),
        )

    def _snapshot(self, state: State) -> int:
        return state.ledger if self._mutant.receipts_before_row else -1

    def _intern(self, value: Hashable) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self._values)
            self._values.append(value)
        return number

    def _check(self, state: State) -> None:
        key = (state.row, state.ledger)
        if key not in self._verdicts:
            self._verdicts[key] = self._recorded(
                self._values[state.row], self._values[state.ledger]
            )
        assert state.acknowledged <= self._verdicts[key], "acknowledged implies recorded"

    def _recorded(self, row: Account, ledger: frozenset[Page | Receipt]) -> frozenset[int]:
        """Return which events are recorded, after checking that each was applied once."""
        entries = {i.entry.identity: i.entry for i in ledger if isinstance(i, Receipt)}
        entries |= {entry.identity: entry for entry in row.entries}
        drawn = sum(
            entry.drawn_microcredits * (-1 if entry.outcome == "returned" else 1)
            for entry in entries.values()
        )
        held = sum(g.remaining_microcredits for g in row.grants)
        assert held == INITIAL_CREDITS - drawn, "the row holds what the entries leave"
        return frozenset(n for n, change in enumerate(self._changes) if change.identity in entries)


def _key(item: Page | Receipt) -> Hashable:
    return item.number if isinstance(item, Page) else item.entry.identity


USAGE = run_changes(usage("e1", "1"), usage("e2", "2"), usage("e3", "4", run="run-2"))
GIVES_BACK = run_changes(usage("e1", "1"), finished("e2", "error"), usage("e3", "4", run="run-2"))
