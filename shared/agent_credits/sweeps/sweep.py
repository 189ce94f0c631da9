"""A sweep: one pass over all rows of a kind, in bounded steps, each of them one message.

    {"sweep": "reconciliation"}                                begins one: schedule or operator
    {"sweep": …, "day": …, "number": 7, "after": "ACCOUNT#…"}  step 7: the rows behind that key
    {"sweep": …, "day": …, "key": "ACCOUNT#…", "part": 2}      a single row: a visit

A step visits rows while there is time, then sends the next step, then is done. Whatever crashes,
a step comes again as a whole, so visiting a row again the same day must do nothing new. Nobody
remembers how far a sweep has come but the message that is under way: there is nothing to clean up.

A row that takes longer than a step may take gets visits of its own, one after the other. And a step
that keeps failing is taken apart: each of its rows becomes a visit, and the sweep continues. What
then keeps failing is one message that names one row, and it ends in the dead-letter queue.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Literal, Protocol

from msgspec import Struct, field
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from agent_credits.sweeps.rows import Row, Stretch, Unreadable
from agent_credits.values.errors import require

SweepName = Literal["reconciliation", "expiring_credits", "balance_reports"]

# The rows of a table that one step reads at most; they fit one answer of the database.
ROWS_PER_STEP_MAX = 500
# A step that failed so often is taken apart.
STEP_ATTEMPTS_MAX = 2
# Far more than the longest ledger takes; what comes here does not get further.
VISITS_PER_ROW_MAX = 100_000


class Step(BaseModel):
    """Visit the rows behind `after`, from the first one on where it is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sweep: SweepName
    day: date
    number: int = Field(ge=0)
    after: str | None = None

    @property
    def group(self) -> str:
        return self.sweep

    @property
    def deduplication(self) -> str:
        # Of two steps with one number, after a crash between sending and being done, the second is
        # dropped, also where a new row made its end another one: a sweep never forks.
        return f"{self.sweep} {self.day} step {self.number}"


class Visit(BaseModel):
    """Visit one row; `part` counts the visits that it has had on this sweep."""

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
    """Return the body of the message that begins a sweep."""
    return _Beginning(sweep=sweep).model_dump_json()


def parse_sweep_message(body: str, sent_at: datetime) -> Step | Visit:
    """Read a message; a sweep's day is the one on which its first message was sent.

    Raises ValueError for a body that is none of the three.
    """
    message = _MESSAGE.validate_json(body)
    if isinstance(message, _Beginning):
        return Step(sweep=message.sweep, day=sent_at.date(), number=0)
    return message


class Visited(Struct, frozen=True):
    """What came of a visit: whether the row is done with for this day, and what to count.

    A row that `is_left_out` could not be served at all; the log names it.
    """

    is_done: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    is_left_out: bool = False


class Sweep(Protocol[Row]):
    """What a sweep reads, and does to each row; another kind of sweep is another of these."""

    def read_stretch(self, after: str | None, rows_max: int) -> Stretch[Row]: ...

    def read_row(self, key: str) -> Row | Unreadable | None: ...

    def visit(self, row: Row | Unreadable, day: date, now: datetime) -> Visited:
        """Do a bounded amount of work; of what was done on the same day already, nothing again."""
        ...


class SweepQueue(Protocol):
    def send(self, messages: Sequence[Step | Visit]) -> None:
        """Send them; of those alike in `deduplication`, within minutes, only the first stays."""
        ...


class Swept(Struct, frozen=True):
    """What one message did: rows visited, what they count, visits that rows were given.

    `left_out` are the keys of rows that could not be served.
    `next` is the step that was sent, None where there is none: at the sweep's end, or of a visit.
    """

    rows: int
    counts: Counter[str]
    visits: int = 0
    left_out: tuple[str, ...] = ()
    next: Step | None = None

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
    """Visit rows while there is time, one at least, and send the next step.

    Whatever a visit raises is raised: the step then comes again, as its next `attempt`.
    """
    stretch = sweep.read_stretch(step.after, ROWS_PER_STEP_MAX)
    if attempt > STEP_ATTEMPTS_MAX:
        return _take_apart(queue, step, stretch)
    counts: Counter[str] = Counter()
    visited, unfinished, end = 0, list[Step | Visit](), stretch.end
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
    following = _following(step, end)
    queue.send([*unfinished, *following])
    return Swept(visited, counts, len(unfinished), tuple(left_out), *following)


def take_visit(sweep: Sweep[Row], queue: SweepQueue, visit: Visit, now: datetime) -> Swept:
    """Visit a row, and send its next visit where this one was not enough."""
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


def _take_apart(queue: SweepQueue, step: Step, stretch: Stretch[Row]) -> Swept:
    visits = [Visit(sweep=step.sweep, day=step.day, key=key, part=0) for key, _ in stretch.rows]
    following = _following(step, stretch.end)
    queue.send([*visits, *following])
    return Swept(0, Counter(), len(visits), (), *following)


def _following(step: Step, end: str | None) -> list[Step]:
    if end is None:
        return []
    return [step.model_copy(update={"number": step.number + 1, "after": end})]
