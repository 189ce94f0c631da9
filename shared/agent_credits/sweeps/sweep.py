"""A walk: one pass over all rows of a kind, in bounded steps, each of them one message.

    {"walk": "reconciliation"}                              begins one: the schedule, or an operator
    {"walk": …, "day": …, "number": 7, "after": "ACCOUNT#…"}  step 7: the rows behind that key
    {"walk": …, "day": …, "key": "ACCOUNT#…", "part": 2}      a single row: a visit

A step visits rows while there is time, then sends the next step, then is done. Whatever crashes,
a step comes again as a whole, so visiting a row again the same day must do nothing new. Nobody
remembers how far a walk has come but the message that is under way: there is nothing to clean up.

A row that takes longer than a step may take gets visits of its own, one after the other. And a step
that keeps failing is taken apart: each of its rows becomes a visit, and the walk goes on. What then
fails again and again is one message that names one row, and ends in the dead-letter queue.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Literal, Protocol

from msgspec import Struct, field
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from agent_credits.sweeps.rows import Row, Stretch, Unreadable
from agent_credits.values.errors import require

WalkName = Literal["reconciliation", "expiring_credits", "balance_reports"]

# The rows of a table that one step reads at most; they fit one answer of the database.
ROWS_PER_STEP_MAX = 500
# A step that failed so often is taken apart.
STEP_ATTEMPTS_MAX = 2
# Far more than the longest ledger takes; what comes here does not get further.
VISITS_PER_ROW_MAX = 100_000


class Step(BaseModel):
    """Visit the rows behind `after`, from the first one on where it is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    walk: WalkName
    day: date
    number: int = Field(ge=0)
    after: str | None = None

    @property
    def group(self) -> str:
        return self.walk

    @property
    def deduplication(self) -> str:
        # Of two steps with one number, after a crash between sending and being done, the second is
        # dropped, also where a new row made its end another one: a walk never forks.
        return f"{self.walk} {self.day} step {self.number}"


class Visit(BaseModel):
    """Visit one row; `part` counts the visits that it has had on this walk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    walk: WalkName
    day: date
    key: str
    part: int = Field(ge=0)

    @property
    def group(self) -> str:
        return f"{self.walk} {self.key}"

    @property
    def deduplication(self) -> str:
        return f"{self.walk} {self.day} visit {self.part} of {self.key}"


class _Beginning(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    walk: WalkName


_MESSAGE: TypeAdapter[_Beginning | Step | Visit] = TypeAdapter(_Beginning | Step | Visit)


def beginning(walk: WalkName) -> str:
    """Return the body of the message that begins a walk."""
    return _Beginning(walk=walk).model_dump_json()


def parse_walk_message(body: str, sent_at: datetime) -> Step | Visit:
    """Read a message; a walk's day is the one on which its first message was sent.

    Raises ValueError for a body that is none of the three.
    """
    message = _MESSAGE.validate_json(body)
    if isinstance(message, _Beginning):
        return Step(walk=message.walk, day=sent_at.date(), number=0)
    return message


class Visited(Struct, frozen=True):
    """What came of a visit: whether the row is done with for this day, and what to count.

    A row that `is_left_out` could not be served at all; the log names it.
    """

    is_done: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    is_left_out: bool = False


class Walk(Protocol[Row]):
    """What a walk reads, and does to each row; another kind of walk is another of these."""

    def read_stretch(self, after: str | None, rows_max: int) -> Stretch[Row]: ...

    def read_row(self, key: str) -> Row | Unreadable | None: ...

    def visit(self, row: Row | Unreadable, day: date, now: datetime) -> Visited:
        """Do a bounded amount of work; of what was done on the same day already, nothing again."""
        ...


class WalkQueue(Protocol):
    def send(self, messages: Sequence[Step | Visit]) -> None:
        """Send them; of those alike in `deduplication`, within minutes, only the first stays."""
        ...


class Walked(Struct, frozen=True):
    """What one message did: rows visited, what they count, visits that rows were given.

    `left_out` are the keys of rows that could not be served.
    `next` is the step that was sent, None where there is none: at the walk's end, or of a visit.
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
    walk: Walk[Row],
    queue: WalkQueue,
    step: Step,
    *,
    attempt: int,
    now: datetime,
    time_is_left: Callable[[], bool],
) -> Walked:
    """Visit rows while there is time, one at least, and send the next step.

    Whatever a visit raises is raised: the step then comes again, as its next `attempt`.
    """
    stretch = walk.read_stretch(step.after, ROWS_PER_STEP_MAX)
    if attempt > STEP_ATTEMPTS_MAX:
        return _take_apart(queue, step, stretch)
    counts: Counter[str] = Counter()
    visited, unfinished, end = 0, list[Step | Visit](), stretch.end
    left_out: list[str] = []
    for key, row in stretch.rows:
        if visited and not time_is_left():
            break
        outcome = walk.visit(row, step.day, now)
        counts += outcome.counts
        visited += 1
        if outcome.is_left_out:
            left_out.append(key)
        if not outcome.is_done:
            unfinished.append(Visit(walk=step.walk, day=step.day, key=key, part=1))
        end = key if visited < len(stretch.rows) else stretch.end
    following = _following(step, end)
    queue.send([*unfinished, *following])
    return Walked(visited, counts, len(unfinished), tuple(left_out), *following)


def take_visit(walk: Walk[Row], queue: WalkQueue, visit: Visit, now: datetime) -> Walked:
    """Visit a row, and send its next visit where this one was not enough."""
    require(visit.part < VISITS_PER_ROW_MAX, "a row's visits come to an end")
    row = walk.read_row(visit.key)
    if row is None:
        return Walked(0, Counter())
    outcome = walk.visit(row, visit.day, now)
    if not outcome.is_done:
        queue.send([visit.model_copy(update={"part": visit.part + 1})])
    return Walked(
        rows=1,
        counts=outcome.counts,
        visits=0 if outcome.is_done else 1,
        left_out=(visit.key,) if outcome.is_left_out else (),
    )


def _take_apart(queue: WalkQueue, step: Step, stretch: Stretch[Row]) -> Walked:
    visits = [Visit(walk=step.walk, day=step.day, key=key, part=0) for key, _ in stretch.rows]
    following = _following(step, stretch.end)
    queue.send([*visits, *following])
    return Walked(0, Counter(), len(visits), (), *following)


def _following(step: Step, end: str | None) -> list[Step]:
    if end is None:
        return []
    return [step.model_copy(update={"number": step.number + 1, "after": end})]
