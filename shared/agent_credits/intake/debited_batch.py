"""A batch of messages: what the queue delivered, and the result of debiting it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from agent_credits.commit.changes import AlreadyRecorded, Conflicting, Recorded, Unsure, Waiting
from agent_credits.commit.write_protocol import CHANGES_PER_COMMIT_MAX
from agent_credits.intake.dispositions import (
    Disposition,
    Done,
    Rejected,
    RetryLater,
    RetrySoon,
)
from agent_credits.intake.model_provider_errors import ReportedModelProviderError
from agent_credits.intake.reservation_counts import reservation_counts
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry
from agent_credits.values.errors import AgentCreditsError
from agent_credits.values.principals import Principal


class Delivery(Struct, frozen=True):
    """A message as the queue delivered it, with its signature, if any."""

    message_id: str
    body: str
    signature: str | None = None


class Outcome(Struct, frozen=True):
    """The result of one event, with the account and the version that it was committed at."""

    message_id: str
    principal: Principal
    version: int
    result: Recorded | AlreadyRecorded | Conflicting
    # The row after the commit.
    account: Account | None = None

    @property
    def name(self) -> str:
        """Return the entry's outcome, or why this event added no entry."""
        match self.result:
            case Recorded(entry):
                return entry.outcome
            case AlreadyRecorded():
                return "already_recorded"
            case Conflicting():
                return "conflicting"
            case _:
                assert_never(self.result)

    @property
    def log_fields(self) -> dict[str, str | int]:
        identity = self.result.entry.identity
        return {
            "message_id": self.message_id,
            "event_id": identity.id,
            "run_id": identity.subject,
            "principal": str(self.principal),
            "version": self.version,
        }


class LogLine(Struct, frozen=True):
    """A line of the log. It never contains a body or a secret."""

    level: Literal["debug", "info", "warning", "error"]
    message: str
    fields: Mapping[str, Any]


class DebitedBatch(Struct, frozen=True):
    """One disposition per message, and the results of its events.

    `events`: how many the messages contain; a message that cannot be read counts as one.
    `expiries`: entries of reservations that had expired when these events were committed.
    `retries` counts attempts to commit that lost to other writers. `unsigned` counts messages
    without a signature, while producers move to signing. `late` has the fault of each message that
    the queue could not be told when to deliver again.
    """

    dispositions: dict[str, Disposition]
    events: int = 0
    outcomes: tuple[Outcome, ...] = ()
    reported: tuple[ReportedModelProviderError, ...] = ()
    retries: int = 0
    errored_runs_forgotten: int = 0
    unsigned: int | None = None
    expiries: tuple[Entry, ...] = ()
    late: tuple[AgentCreditsError, ...] = ()

    def returned_late(self, messages: int, fault: AgentCreditsError) -> "DebitedBatch":
        """Return this batch with so many messages that come back only after their timeout."""
        return replace(self, late=(fault,) * messages)

    @property
    def runs_failed(self) -> int:
        return sum(
            isinstance(outcome.result, Recorded) and outcome.result.entry.fails_run
            for outcome in self.outcomes
        )

    @property
    def postponed(self) -> Counter[str]:
        """Count the messages that come back because of a fault, by the name of its error.

        A message that waits for a reload is none of them.
        """
        causes = [
            disposition.cause
            for disposition in self.dispositions.values()
            if isinstance(disposition, RetrySoon | RetryLater) and not _waits(disposition)
        ]
        return Counter(type(cause).__name__ for cause in (*causes, *self.late))

    @property
    def failed_message_ids(self) -> list[str]:
        """Return exactly the messages that contain an unrecorded event."""
        found = self.dispositions.items()
        return [message_id for message_id, what in found if not isinstance(what, Done)]

    @property
    def _new_entries(self) -> Iterator[Entry]:
        for outcome in self.outcomes:
            if isinstance(outcome.result, Recorded):
                yield outcome.result.entry

    @property
    def counts(self) -> dict[str, int]:
        """Return the metrics of the batch, each by its name."""
        kinds = Counter(type(disposition) for disposition in self.dispositions.values())
        return {
            "EventsReceived": self.events,
            "EventsDebited": sum(outcome.name == "debited" for outcome in self.outcomes),
            "CompareAndSetRetries": self.retries,
            "ErroredRunsForgotten": self.errored_runs_forgotten,
            "MessagesPostponed": self.postponed.total(),
            "MessagesRejected": kinds[Rejected],
            "MessagesWaiting": sum(map(_waits, self.dispositions.values())),
            "RunsFailed": self.runs_failed,
            **reservation_counts([*self.expiries, *self._new_entries]),
            **({} if self.unsigned is None else {"MessagesUnsigned": self.unsigned}),
        }

    def log_lines(self, *, per_event: bool) -> Iterator[LogLine]:
        """Yield a line for each commit, and for what comes back; `per_event`, one for each event.

        Storing a line costs a third of what it costs to record an event, so lines are shared. Every
        id of a batch is on one of them. No id contains a space, and a query finds each by
        `like "..."`; as a list, every id would be a field of its own, and a query knows 200.
        """
        for outcomes in _by_commit(self.outcomes):
            yield _line_of_commit(outcomes)
            if per_event:
                for outcome in outcomes:
                    yield LogLine("debug", outcome.name, outcome.log_fields)
        for reported in self.reported:
            yield LogLine("info", "model provider error", reported.log_fields)
        waiting: dict[str, list[str]] = {}
        for message_id, disposition in self.dispositions.items():
            if isinstance(disposition, RetrySoon) and isinstance(disposition.cause, Waiting):
                waiting.setdefault(disposition.cause.reload_id, []).append(message_id)
            else:
                yield from _lines_of(message_id, disposition)
        for reload_id, message_ids in waiting.items():
            fields = {"reload_id": reload_id, "message_ids": " ".join(message_ids)}
            yield LogLine("info", "waiting", fields)


def _by_commit(outcomes: Iterable[Outcome]) -> Iterator[Sequence[Outcome]]:
    """Yield the outcomes of each commit together, in bounded parts.

    Commits that record nothing new leave an account at its version, so they look like one.
    """
    by_commit: dict[tuple[Principal, int], list[Outcome]] = {}
    for outcome in outcomes:
        by_commit.setdefault((outcome.principal, outcome.version), []).append(outcome)
    for together in by_commit.values():
        for start in range(0, len(together), CHANGES_PER_COMMIT_MAX):
            yield together[start : start + CHANGES_PER_COMMIT_MAX]


def _line_of_commit(outcomes: Sequence[Outcome]) -> LogLine:
    """Return the events of one commit by their outcome, and their runs.

    With the longest ids that is 100 KB, and CloudWatch takes 256 KB.
    """
    events: dict[str, list[str]] = {}
    for outcome in outcomes:
        events.setdefault(outcome.name, []).append(outcome.result.entry.identity.id)
    run_ids = dict.fromkeys(outcome.result.entry.identity.subject for outcome in outcomes)
    fields = {
        "principal": str(outcomes[0].principal),
        "version": outcomes[0].version,
        "run_ids": " ".join(run_ids),
        **{name: " ".join(event_ids) for name, event_ids in events.items()},
    }
    return LogLine("info", "recorded", fields)


def _waits(disposition: Disposition) -> bool:
    return isinstance(disposition, RetrySoon) and isinstance(disposition.cause, Waiting)


def _lines_of(message_id: str, disposition: Disposition) -> Iterator[LogLine]:
    message = {"message_id": message_id}
    match disposition:
        case Done():
            return
        case Rejected(rejection):
            why = {"code": rejection.code, "reason": rejection.reason}
            yield LogLine("warning", "rejected", {**message, **why})
        case RetrySoon(Unsure(run_id)):
            yield LogLine("info", "out of order", {**message, "run_id": run_id})
        case RetrySoon(cause) | RetryLater(cause):
            reason = f"{type(cause).__name__}: {cause}"
            yield LogLine("error", "postponed", {**message, "reason": reason})
        case _:
            assert_never(disposition)
