"""A sweep: one pass over all rows of a kind in bounded steps, each of which is one message.

    {"sweep": "reconciliation"}                                starts one: schedule or operator
    {"sweep": …, "day": …, "number": 7, "after": "ACCOUNT#…"}  step 7: the rows after that key
    {"sweep": …, "day": …, "key": "ACCOUNT#…", "part": 2}      a visit of a single row

A step visits rows while there is time, and then sends the next step. After a crash the whole step
is delivered again, so a second visit of a row on the same day must do nothing new. Only the message
under way holds the position of a sweep, so there is nothing to clean up.

A row that needs more time than a step has gets visits of its own, one after the other. A step that
keeps failing is split: each of its rows becomes a visit, and the sweep continues. What then still
fails is a message that names one row, and it ends in the dead-letter queue.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Protocol

from msgspec import Struct, field
from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from agent_credits.sweeps.last_sweep import LastSweep, SweepName
from agent_credits.sweeps.rows import Row, Stretch, Unreadable
from agent_credits.values.errors import require

# A step reads at most this many rows of the table. They fit into one answer of the database.
ROWS_PER_STEP_MAX = 500
# A step that failed this often is split.
STEP_ATTEMPTS_MAX = 2
# Far more than the longest ledger needs. A row that has this many visits makes no progress.
VISITS_PER_ROW_MAX = 100_000


class Totals(BaseModel):
    """What the steps of a sweep did so far. The next step's message carries it, so no row does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = 0
    visits: int = 0
    counts: dict[str, int] = Field(default_factory=dict)


class Step(BaseModel):
    """Visit the rows after the key `after`, or from the first row on if it is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sweep: SweepName
    day: date
    number: int = Field(ge=0)
    after: str | None = None
    so_far: Totals = Totals()

    @property
    def group(self) -> str:
        return self.sweep

    @property
    def deduplication(self) -> str:
        # A crash after sending repeats a step, which sends its next step again, perhaps with
        # another `after` and other totals. The number makes the second one a repeat, so a sweep
        # never forks.
        return f"{self.sweep} {self.day} step {self.number}"


class Visit(BaseModel):
    """Visit one row. `part` counts its visits in this sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sweep: SweepName
    day: date
    key: str
    part: int = Field(ge=0)

    @property
    def group(self) -> str:
        return f"{self.sweep} {self.key}"

    @property
    def deduplication(self) -> str:
        return f"{self.sweep} {self.day} visit {self.part} of {self.key}"


class _Beginning(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sweep: SweepName


_MESSAGE: TypeAdapter[_Beginning | Step | Visit] = TypeAdapter(_Beginning | Step | Visit)


def beginning(sweep: SweepName) -> str:
    """Return the body of the message that starts a sweep."""
    return _Beginning(sweep=sweep).model_dump_json()


def parse_sweep_message(body: str, sent_at: datetime) -> Step | Visit:
    """Read a message. A sweep's day is the day on which its first message was sent.

    Raises ValueError for any other body.
    """
    message = _MESSAGE.validate_json(body)
    if isinstance(message, _Beginning):
        return Step(sweep=message.sweep, day=sent_at.date(), number=0)
    return message


class Visited(Struct, frozen=True):
    """The result of a visit: whether the row is done for this day, and what to count.

    A row that `is_left_out` could not be processed at all; the log names it.
    """

    is_done: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    is_left_out: bool = False


class Sweep(Protocol[Row]):
    """What a kind of sweep reads, and does with each row."""

    def read_stretch(self, after: str | None, rows_max: int) -> Stretch[Row]: ...

    def read_row(self, key: str) -> Row | Unreadable | None: ...

    def visit(self, row: Row | Unreadable, day: date, now: datetime) -> Visited:
        """Do a bounded amount of work, and nothing that was already done on the same day."""
        ...


class SweepQueue(Protocol):
    def send(self, messages: Sequence[Step | Visit]) -> None:
        """Send the messages. Within minutes, only the first of each `deduplication` is kept."""
        ...


class Swept(Struct, frozen=True):
    """The result of one message: the rows visited, what to count, and the visits it sent.

    `left_out`: the keys of rows that could not be processed.
    `next`: the next step that was sent; None after the last step and after a visit.
    `ended`: how the sweep ended, after its last step.
    """

    rows: int
    counts: Counter[str]
    visits: int = 0
    left_out: tuple[str, ...] = ()
    next: Step | None = None
    ended: LastSweep | None = None

    @property
    def log_fields(self) -> dict[str, int | bool | tuple[str, ...]]:
        return {
            **self.counts,
            "rows": self.rows,
            "visits": self.visits,
            "is_last": self.next is None,
            "left_out": self.left_out,
        }


def take_step(
    sweep: Sweep[Row],
    queue: SweepQueue,
    step: Step,
    *,
    attempt: int,
    now: datetime,
    time_is_left: Callable[[], bool],
) -> Swept:
    """Visit rows while there is time, at least one, and send the next step.

    An error of a visit is raised: the step is then delivered again as its next `attempt`.
    """
    stretch = sweep.read_stretch(step.after, ROWS_PER_STEP_MAX)
    if attempt > STEP_ATTEMPTS_MAX:
        return _split(queue, step, stretch, now)
    counts: Counter[str] = Counter()
    visited, unfinished, end = 0, list[Visit](), stretch.end
    left_out: list[str] = []
    for key, row in stretch.rows:
        if visited and not time_is_left():
            break
        outcome = sweep.visit(row, step.day, now)
        counts += outcome.counts
        visited += 1
        if outcome.is_left_out:
            left_out.append(key)
        if not outcome.is_done:
            unfinished.append(Visit(sweep=step.sweep, day=step.day, key=key, part=1))
        end = key if visited < len(stretch.rows) else stretch.end
    return _handed_on(
        queue, step, end, Swept(visited, counts, len(unfinished), tuple(left_out)), unfinished, now
    )


def take_visit(sweep: Sweep[Row], queue: SweepQueue, visit: Visit, now: datetime) -> Swept:
    """Visit a row, and send its next visit if this one did not finish."""
    require(visit.part < VISITS_PER_ROW_MAX, "a row's visits come to an end")
    row = sweep.read_row(visit.key)
    if row is None:
        return Swept(0, Counter())
    outcome = sweep.visit(row, visit.day, now)
    if not outcome.is_done:
        queue.send([visit.model_copy(update={"part": visit.part + 1})])
    return Swept(
        rows=1,
        counts=outcome.counts,
        visits=0 if outcome.is_done else 1,
        left_out=(visit.key,) if outcome.is_left_out else (),
    )


def _split(queue: SweepQueue, step: Step, stretch: Stretch[Row], now: datetime) -> Swept:
    visits = [Visit(sweep=step.sweep, day=step.day, key=key, part=0) for key, _ in stretch.rows]
    return _handed_on(queue, step, stretch.end, Swept(0, Counter(), len(visits)), visits, now)


def _handed_on(
    queue: SweepQueue,
    step: Step,
    end: str | None,
    swept: Swept,
    visits: Sequence[Visit],
    now: datetime,
) -> Swept:
    """Send the visits and the step after `end`, or say how the sweep ended if there is none."""
    totals = Totals(
        rows=step.so_far.rows + swept.rows,
        visits=step.so_far.visits + len(visits),
        counts=Counter(step.so_far.counts) + swept.counts,
    )
    if end is None:
        queue.send(visits)
        ended = LastSweep(step.sweep, step.day, now, totals.rows, totals.visits, totals.counts)
        return replace(swept, ended=ended)
    following = step.model_copy(update={"number": step.number + 1, "after": end, "so_far": totals})
    queue.send([*visits, following])
    return replace(swept, next=following)
