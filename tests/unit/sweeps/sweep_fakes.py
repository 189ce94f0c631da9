"""Fakes for sweeps: a queue in memory, and a sweep that records the rows it visits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from agent_credits.ledger.accounts import Account
from agent_credits.sweeps.rows import Stretch, Unreadable
from agent_credits.sweeps.sweep import Step, Sweep, Swept, Visit, Visited, take_step, take_visit
from tests.memory_rows import MemoryRows


class Stopped(BaseException):
    """The function crashed in the middle of its work."""


class MemorySweepQueue:
    """A FIFO queue that drops repeats, as SQS does for five minutes."""

    def __init__(self) -> None:
        self.messages: list[Step | Visit] = []
        self.sent: list[Step | Visit] = []
        self.loses_the_next_answer = False
        self._seen: set[str] = set()

    def send(self, messages: Sequence[Step | Visit]) -> None:
        for message in messages:
            if message.deduplication not in self._seen:
                self._seen.add(message.deduplication)
                self.messages.append(message)
                self.sent.append(message)
        if self.loses_the_next_answer:
            self.loses_the_next_answer = False
            raise Stopped

    def forget_what_was_seen(self) -> None:
        """Five minutes pass."""
        self._seen.clear()


@dataclass
class NotingSweep:
    """Records the keys that it visits. It may crash at one of them, or not finish it."""

    rows: MemoryRows
    visited: list[str] = field(default_factory=list)
    stops_at: dict[str, int] = field(default_factory=dict)
    visits_needed: dict[str, int] = field(default_factory=dict)

    def read_stretch(self, after: str | None, rows_max: int) -> Stretch[Account]:
        return self.rows.read_accounts(after, rows_max)

    def read_row(self, key: str) -> Account | Unreadable | None:
        return self.rows.read_account_at(key)

    def visit(self, row: Account | Unreadable, *_: object) -> Visited:
        key = row.key if isinstance(row, Unreadable) else f"ACCOUNT#{row.principal}"
        if self.stops_at.get(key, 0) > 0:
            self.stops_at[key] -= 1
            raise Stopped
        self.visited.append(key)
        needed = self.visits_needed.get(key, 1)
        is_done = self.visited.count(key) >= needed
        return Visited(is_done, Counter(Seen=1), is_left_out=isinstance(row, Unreadable))


@dataclass
class Poller:
    """Do what Lambda does: deliver each message until it succeeds or its receives are used up."""

    sweep: Sweep[Account]
    queue: MemorySweepQueue
    now: datetime
    rows_per_step: int = 10**9
    receives_max: int = 5
    dead: list[Step | Visit] = field(default_factory=list)
    swept: list[Swept] = field(default_factory=list)

    def run(self, *, messages_max: int = 100_000) -> Counter[str]:
        """Work until nothing is left; return all that was counted."""
        for _ in range(messages_max):
            if not self.queue.messages:
                return sum((swept.counts for swept in self.swept), Counter())
            message = self.queue.messages.pop(0)
            self._deliver(message)
        raise AssertionError("a sweep comes to its end")

    def _deliver(self, message: Step | Visit) -> None:
        for attempt in range(1, self.receives_max + 1):
            try:
                self.swept.append(self._take(message, attempt))
            except Stopped:
                continue
            return
        self.dead.append(message)

    def _take(self, message: Step | Visit, attempt: int) -> Swept:
        if isinstance(message, Visit):
            return take_visit(self.sweep, self.queue, message, self.now)
        left = iter(range(self.rows_per_step - 1, 0, -1))
        return take_step(
            self.sweep,
            self.queue,
            message,
            attempt=attempt,
            now=self.now,
            time_is_left=lambda: next(left, 0) > 0,
        )
