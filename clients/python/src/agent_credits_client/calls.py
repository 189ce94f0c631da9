"""One call to the API: when it is made again, and when the caller hears that there is no answer.

Nothing here waits or sends. A flow yields what is to be done next, and the synchronous client and
the asynchronous one do it, each in its own way. So both decide alike, by the same lines.
"""

import json
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Generic, Protocol, TypeVar

from agent_credits_client.errors import AgentCreditsError, NoAnswer, Refused, Unavailable
from agent_credits_client.messages import Message

JSON: Final = "application/json"
# Every success of the API has one of them.
_MEMBERS: Final = frozenset({"run_id", "results"})
_BACK_OFF_SECONDS: Final = 0.2
_BACK_OFF_SECONDS_MAX: Final = 5.0


@dataclass(frozen=True, slots=True)
class Call:
    """A request. Its ids are in it, so that it can be made again as it is."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as it came, whatever sent it."""

    status: int
    headers: Mapping[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Send messages to the queue. What comes back is those that it did not take."""

    messages: tuple[Message, ...]


Step = Call | Sleep | Enqueue
Result = TypeVar("Result")
Flow = Generator[Step, Any, Result]


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """What a flow returned."""

    value: Result


def advance(
    flow: Flow[Result], answered: object, fault: AgentCreditsError | None
) -> Step | Done[Result]:
    """Tell a flow what came of its last step, and return the next one. At first, that is None."""
    try:
        return flow.send(answered) if fault is None else flow.throw(fault)
    except StopIteration as returned:
        return Done(returned.value)


@dataclass(frozen=True, slots=True)
class Decision:
    """A success of the API: `status` is 200, 201 or 202."""

    status: int
    body: Mapping[str, Any]
    retry_after_seconds: float | None


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a call is made, and for how long in all."""

    attempts_max: int
    seconds_max: float


class Clock(Protocol):
    """Time, as a test may want to set it. `monotonic` is in seconds from anywhere."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


# Returns a number from 0 to 1.
Jitter = Callable[[], float]


def back_off(failures: int, jitter: Jitter) -> float:
    """Return for how long to wait after so many failures in a row: random, doubling, bounded."""
    longest: float = min(_BACK_OFF_SECONDS * 2 ** min(failures, 10), _BACK_OFF_SECONDS_MAX)
    return longest * jitter()


def patiently(
    attempt: Callable[[], Flow[Result]], patience: Patience, clock: Clock, jitter: Jitter
) -> Flow[Result]:
    """Attempt something until it gets an answer. Raises `Unavailable` once patience is over."""
    gives_up_at = clock.monotonic() + patience.seconds_max
    for failures in range(1, patience.attempts_max + 1):
        try:
            return (yield from attempt())
        except NoAnswer as fault:
            wait = back_off(failures, jitter)
            if fault.retry_after_seconds is not None:
                wait = max(wait, fault.retry_after_seconds)
            if failures == patience.attempts_max or clock.monotonic() + wait > gives_up_at:
                attempts = "1 attempt" if failures == 1 else f"{failures} attempts"
                raise Unavailable(f"no decision after {attempts}: {fault}") from fault
        yield Sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def decided(call: Call) -> Flow[Decision]:
    """Make the call once. Raises `Refused` for a no, `NoAnswer` for what may be made again.

    The latter is what may not have arrived, or may not have been decided: no connection, no answer
    in time, 429 and 5xx. Every call carries its ids, so one that did arrive counts once.
    """
    return _decision(call, (yield call))


def _decision(call: Call, answer: Answer) -> Decision:
    retry_after = _retry_after(answer)
    if answer.status in (408, 429) or answer.status >= 500:
        raise NoAnswer(f"{answer.status} {answer.text[:200]}", retry_after)
    document = _document(answer.text)
    if answer.status >= 400:
        raise Refused.of(answer.status, document or {"title": answer.text[:200]})
    if answer.status not in (200, 201, 202) or document is None or not _MEMBERS & document.keys():
        # A proxy or a login page, which says nothing about the credits.
        raise NoAnswer(f"{answer.status} is no answer of the API to {call.method} {call.path}")
    return Decision(answer.status, document, retry_after)


def _document(text: str) -> Mapping[str, Any] | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _retry_after(answer: Answer) -> float | None:
    """Return the seconds of `Retry-After`. The API sends no dates in it."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None
