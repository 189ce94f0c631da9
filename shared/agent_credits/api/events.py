"""`POST /v1/events`: CloudEvents in structured, batched and binary mode, recorded at once."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote

from agent_credits.api.callers import Caller
from agent_credits.api.fields import Answer, Credits, TimeOut
from agent_credits.api.problems import Problem, Refused
from agent_credits.api.recording import (
    WAIT_SECONDS,
    Answered,
    Decided,
    Observed,
    Recorder,
    Waits,
)
from agent_credits.events.agent_runs import (
    AgentRunEvent,
    Rejection,
    RunFinished,
    parse_event,
    parse_json,
    why_no_batch,
)
from agent_credits.intake.debited_batch import DebitedBatch
from agent_credits.intake.debits import TimeIsLeft
from agent_credits.ledger.entries import Directive

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
JSON: Final = "application/json"
_HEADER_PREFIX: Final = "ce-"


class EventAnswer(Answer):
    """What became of one event. `status` is that of an answer to this event alone.

    `outcome` is the entry's, `observed` for a model provider's error, `waiting` while a reload is
    under way, and None where the event was rejected or not decided: then `problem` says why.
    """

    status: int
    event_id: str | None = None
    run_id: str | None = None
    outcome: str | None = None
    already_recorded: bool = False
    directive: Directive | None = None
    principal: str | None = None
    drawn_credits: Credits | None = None
    shortfall_credits: Credits | None = None
    policy_version: str | None = None
    recorded_at: TimeOut | None = None
    version: int | None = None
    reload_id: str | None = None
    problem: dict[str, Any] | None = None


class BatchAnswer(Answer):
    """One result for each event of the batch, in its order."""

    results: list[EventAnswer]


class Received:
    """The events of one request, each read or rejected."""

    def __init__(self, events: list[AgentRunEvent | Rejection], *, is_batch: bool) -> None:
        self.events = events
        self.is_batch = is_batch


def receive(body: str, content_type: str, headers: Mapping[str, str]) -> Received:
    """Read a request in the content mode that its headers name. Raises `Refused`."""
    media_type = content_type.partition(";")[0].strip().lower()
    is_binary = f"{_HEADER_PREFIX}specversion" in headers
    if media_type not in (STRUCTURED, BATCH, JSON):
        raise Refused(
            "unsupported_media_type", f"send {STRUCTURED}, {BATCH}, or {JSON} with ce-* headers"
        )
    document = parse_json(body)
    if isinstance(document, Rejection):
        raise Refused("not_json", document.reason)
    if is_binary and media_type == JSON:
        return Received([parse_event(_from_headers(document, headers), "event")], is_batch=False)
    is_batch = media_type == BATCH or (media_type == JSON and isinstance(document, list))
    if not is_batch:
        return Received([parse_event(document, "event")], is_batch=False)
    if not isinstance(document, list):
        raise Refused("malformed", "a batch is a JSON array of events")
    rejection = why_no_batch(document)
    if rejection is not None:
        raise Refused(rejection.code, rejection.reason)
    return Received([parse_event(d, f"event {n}") for n, d in enumerate(document)], is_batch=True)


def _from_headers(data: object, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return a binary-mode event as the structured document that is the same event."""
    attributes: dict[str, Any] = {
        name.removeprefix(_HEADER_PREFIX): unquote(value)
        for name, value in headers.items()
        if name.startswith(_HEADER_PREFIX)
    }
    # `datacontenttype` is left out: the content type of every event is JSON, and with it the same
    # event would differ from the one that a producer sends to the queue.
    return {**attributes, "data": data}


class Events:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def record(
        self, received: Received, caller: Caller, now: datetime, time_is_left: TimeIsLeft
    ) -> tuple[list[Answered], DebitedBatch]:
        """Return an answer for each event. None is recorded that the caller may not send."""
        caller.require("record_events")
        answers: dict[str, Answered] = {}
        events: dict[str, AgentRunEvent] = {}
        for number, event in enumerate(received.events):
            if isinstance(event, Rejection):
                answers[str(number)] = Refused(event.code, event.reason)
                continue
            try:
                _require_event(caller, event)
            except Refused as refused:
                answers[str(number)] = refused
            else:
                events[str(number)] = event
        recorded, batch = self._recorder.record(events, now, time_is_left)
        answers |= recorded
        return [answers[str(number)] for number in range(len(received.events))], batch

    def answer_to(
        self, event: AgentRunEvent | Rejection, answered: Answered, base_url: str, trace_id: str
    ) -> EventAnswer:
        """Return what became of an event as it is answered."""
        event_id = None if isinstance(event, Rejection) else event.id
        run_id = None if isinstance(event, Rejection) else event.subject
        match answered:
            case Decided(entry=entry, account=account):
                problem = self._recorder.problem_of(answered)
                is_refused = problem is not None and entry.type != "agent_run.usage"
                return EventAnswer(
                    event_id=event_id,
                    run_id=run_id,
                    status=403 if is_refused else 200,
                    outcome=entry.outcome,
                    already_recorded=answered.is_repeat,
                    directive=answered.directive,
                    principal=str(account.principal),
                    drawn_credits=entry.drawn_microcredits,
                    shortfall_credits=entry.shortfall_microcredits,
                    policy_version=entry.run.policy_version if entry.run else None,
                    recorded_at=entry.recorded_at,
                    version=account.version,
                    problem=_document(problem, base_url, trace_id),
                )
            case Observed(reported):
                return EventAnswer(
                    event_id=event_id,
                    run_id=run_id,
                    status=200,
                    outcome="observed",
                    already_recorded=not reported.is_new,
                    directive="continue",
                    principal=str(reported.error.principal),
                )
            case Waits(reload_id):
                return EventAnswer(
                    event_id=event_id,
                    run_id=run_id,
                    status=202,
                    outcome="waiting",
                    reload_id=reload_id,
                )
            case Refused():
                problem = answered.problem
                return EventAnswer(
                    event_id=event_id,
                    run_id=run_id,
                    status=problem.type.status,
                    problem=_document(problem, base_url, trace_id),
                )


def headers_of(answered: Answered) -> dict[str, str]:
    """Return the headers of an answer to one event."""
    if isinstance(answered, Waits):
        return {"Retry-After": str(WAIT_SECONDS)}
    return dict(answered.problem.headers) if isinstance(answered, Refused) else {}


def _document(problem: Problem | None, base_url: str, trace_id: str) -> dict[str, Any] | None:
    return problem.to_document(base_url, trace_id) if problem else None


def _require_event(caller: Caller, event: AgentRunEvent) -> None:
    caller.require_run(event.data.team_id, event.data.trigger, event.subject)
    if caller.role == "run" and isinstance(event, RunFinished) and event.data.status == "error":
        raise Refused("forbidden", "only the platform may report that a run ended in its own error")
