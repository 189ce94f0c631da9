"""What can go wrong, by what the caller should do about it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

Directive = Literal["continue", "pause", "stop"]


class AgentCreditsError(Exception):
    """The base of all errors of this package."""


class Refused(AgentCreditsError):
    """The API said no. The same request gets the same answer, so it is not made again.

    `problem` is the answer's problem document (RFC 9457), with whatever members it has.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(f"{status} {self.error}: {self.detail or self.title}")

    @property
    def error(self) -> str:
        """Return the code to branch on, such as `insufficient_credits`."""
        return str(self.problem.get("error", "unknown"))

    @property
    def title(self) -> str:
        return str(self.problem.get("title", self.problem.get("message", "")))

    @property
    def detail(self) -> str:
        return str(self.problem.get("detail", ""))

    @property
    def trace_id(self) -> str | None:
        """Return what the service's log has this request under."""
        return self.problem.get("trace_id")

    @classmethod
    def of(cls, status: int, problem: Mapping[str, Any]) -> "Refused":
        """Return the error of the class that fits the answer."""
        if problem.get("error") == "insufficient_credits":
            return InsufficientCredits(status, problem)
        if status in (401, 403):
            return NotAllowed(status, problem)
        if status == 409:
            return Conflict(status, problem)
        return Invalid(status, problem)


class InsufficientCredits(Refused):
    """403: nobody can pay for this. Show `title` and `fix` to the person who asked.

    What a request was answered stays: once there are credits, ask with another `request_id`.
    """

    @property
    def cause(self) -> str:
        """Return why, such as `pools_exhausted` or `credits_reserved`."""
        return str(self.problem.get("cause", ""))

    @property
    def fix(self) -> tuple[str, ...]:
        """Return what can be done, most direct first."""
        return tuple(self.problem.get("fix", ()))

    @property
    def required_credits(self) -> Decimal:
        return self._credits("required_credits")

    @property
    def available_credits(self) -> Decimal:
        return self._credits("available_credits")

    @property
    def reserved_credits(self) -> Decimal:
        """Return what other runs hold."""
        return self._credits("reserved_credits")

    @property
    def shortfall_credits(self) -> Decimal:
        return self._credits("shortfall_credits")

    @property
    def resets_at(self) -> datetime | None:
        """Return when the plan refills, if there is a plan."""
        text = self.problem.get("resets_at")
        return datetime.fromisoformat(text) if text else None

    @property
    def principal(self) -> str | None:
        """Return who would have paid, as `user:<id>` or `team:<id>`."""
        return self.problem.get("principal")

    def _credits(self, name: str) -> Decimal:
        return Decimal(str(self.problem.get(name, "0")))


class NotAllowed(Refused):
    """401 or 403: the credentials are missing, wrong, expired, or not for this. Correct them."""


class Conflict(Refused):
    """409: it contradicts what is recorded, such as another estimate for the same run."""


class Invalid(Refused):
    """400, 404, 415 or 422: the request is wrong. The caller's code or configuration is."""


class Unavailable(AgentCreditsError):
    """No answer within the time and attempts that are allowed. What happened is not known.

    The same call with the same ids is safe to repeat. `__cause__` is the last fault.
    """


class NoAnswer(AgentCreditsError):
    """One attempt failed. You meet it only as the `__cause__` of `Unavailable`.

    `retry_after_seconds`: how long the service asked to be left alone, if it did.
    """

    def __init__(self, what: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(what)
        self.retry_after_seconds = retry_after_seconds


class ReloadPending(AgentCreditsError):
    """A reload that may cover this was still under way when the time to wait was over.

    It is neither a yes nor a no, and nothing is recorded. Ask again later, as it was.
    """

    def __init__(self, run_id: str, reload_id: str) -> None:
        super().__init__(f"run {run_id} waits for the reload {reload_id}; ask again later")
        self.run_id = run_id
        self.reload_id = reload_id


class RunEnded(AgentCreditsError):
    """The run has finished or was released, maybe by an earlier process. Do not run it again."""


class Directed(AgentCreditsError):
    """The base of `RunPaused` and `RunStopped`: the run may draw no more."""

    def __init__(self, run_id: str, directive: Directive) -> None:
        super().__init__(f"run {run_id} is told to {directive}")
        self.run_id = run_id


class RunPaused(Directed):
    """Let the run wait until it is extended. Leaving the block by it does not end the run."""


class RunStopped(Directed):
    """End the run."""


def directed(run_id: str, directive: Directive) -> Directed | None:
    """Return the error that stands for the directive, or None for `continue`."""
    match directive:
        case "stop":
            return RunStopped(run_id, directive)
        case "pause":
            return RunPaused(run_id, directive)
        case "continue":
            return None


class UsageNotReported(AgentCreditsError):
    """Usage of a run could not be delivered. Its reservation is not settled.

    `events` are the events exactly as they have to be sent, to the queue or to `POST /v1/events`.
    With a journal they are also kept there, and the run's next start sends them.
    """

    def __init__(self, run_id: str, events: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(f"usage of run {run_id} is not reported; events: {len(events)}")
        self.run_id = run_id
        self.events = tuple(events)


class UsageRejected(AgentCreditsError):
    """Events of a run can never be recorded as they are; all others are, and the run is settled.

    `rejected`: each such event with the problem that it was answered with.
    """

    def __init__(
        self, run_id: str, rejected: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
    ) -> None:
        first = rejected[0][1].get("detail") if rejected else ""
        super().__init__(
            f"usage of run {run_id} is rejected; events: {len(rejected)}; the first: {first}"
        )
        self.run_id = run_id
        self.rejected = tuple(rejected)


class JournalInUse(AgentCreditsError):
    """Another process, or another `run` of this one, is at work on the same run."""


class JournalDamaged(AgentCreditsError):
    """A run's journal is not what this package wrote. The message names the file."""
