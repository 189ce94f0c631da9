"""Agent-run events: CloudEvents 1.0, JSON, structured mode, one or an array of them a message.

Reading is strict, because an event spends money: what is not understood is rejected, with a reason
that names the field and never repeats the value.
"""

import base64
import hashlib
import json
import re
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Literal

from msgspec import Struct
from pydantic import (
    AwareDatetime,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
)

from agent_credits.events.model_provider_errors import ModelProviderAnswer, ModelProviderName
from agent_credits.ledger.entries import Identity, run_identity
from agent_credits.values.credits import parse_usage
from agent_credits.values.identifiers import Identifier, SourceUri
from agent_credits.values.strict import Strict

EVENTS_PER_MESSAGE_MAX = 1_000
# 96 bits: the hash tells a repeat from a conflict, it does not authenticate anybody.
PAYLOAD_HASH_BYTES = 12
# Outside of these years a time is a mistake, and arithmetic on it may overflow.
YEARS = range(2000, 2201)

# Python's own parser also takes what RFC 3339 does not: week dates, times without separators.
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)

RunStatus = Literal["ok", "error", "cancelled"]

# A meter reports what it counted, which may be nothing.
UsedCredits = Annotated[int, BeforeValidator(parse_usage)]


def _rfc3339(value: object) -> datetime:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 string with an offset")
    try:
        time = datetime.fromisoformat(value.upper())
    except ValueError:
        raise ValueError("must be a time that exists") from None
    if time.year not in YEARS:
        raise ValueError(f"must be in the years {YEARS.start} to {YEARS.stop - 1}")
    return time


# JSON has no dates, so the RFC 3339 string is the one value that is converted.
Time = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]


class UserTrigger(Strict):
    kind: Literal["user"]
    user_id: Identifier


class TeamApiKeyTrigger(Strict):
    kind: Literal["team_api_key"]
    key_id: Identifier


class ScheduleTrigger(Strict):
    kind: Literal["schedule"]
    schedule_id: Identifier


Trigger = Annotated[UserTrigger | TeamApiKeyTrigger | ScheduleTrigger, Field(discriminator="kind")]


class _RunData(Strict):
    """`started_at`: when the run began, the same in all of its events; it decides who pays."""

    team_id: Identifier
    trigger: Trigger
    project_id: Identifier | None = None
    started_at: Time | None = None


class RequestedData(_RunData):
    """`credits` is an estimate; without one, or with none, the run needs any credits at all."""

    credits: UsedCredits | None = None


class UsageData(_RunData):
    credits: UsedCredits


class FinishedData(_RunData):
    """`error` is the platform's fault and gives the run's draws back; the other two do not."""

    status: RunStatus


class ModelProviderErrorData(_RunData):
    """What a model provider answered to a call of the run; it costs no credits."""

    provider: ModelProviderName
    model: Identifier | None = None
    error: ModelProviderAnswer


class _CloudEvent(Strict):
    specversion: Literal["1.0"]
    id: Identifier
    source: SourceUri
    subject: Identifier
    time: Time
    datacontenttype: Literal["application/json"] | None = None
    dataschema: SourceUri | None = None
    traceparent: Identifier | None = None
    tracestate: Annotated[str, Field(max_length=512)] | None = None
    payload_hash: str

    # Asked for at each step to the ledger. An event is never copied with another value, which
    # would take the cached identity along.
    @cached_property
    def identity(self) -> Identity:
        return run_identity(self.source, self.subject, self.id)


class RunRequested(_CloudEvent):
    type: Literal["agent_run.requested"]
    data: RequestedData


class RunUsage(_CloudEvent):
    type: Literal["agent_run.usage"]
    data: UsageData


class RunFinished(_CloudEvent):
    type: Literal["agent_run.finished"]
    data: FinishedData


class ModelProviderErrorReported(_CloudEvent):
    type: Literal["agent_run.provider_error"]
    data: ModelProviderErrorData


# What becomes an entry of an account's ledger; what a provider answered does not.
LedgerEvent = RunRequested | RunUsage | RunFinished
AgentRunEvent = LedgerEvent | ModelProviderErrorReported


def billed_at(event: AgentRunEvent) -> datetime:
    """Return the moment whose owner, members, kind and policy decide who pays for the event.

    A run whose events say when it began is billed to one account to its end, whatever changes
    meanwhile. Without that, each event is billed by its own time.
    """
    return event.data.started_at or event.time


_EVENT: TypeAdapter[AgentRunEvent] = TypeAdapter(
    Annotated[AgentRunEvent, Field(discriminator="type")]
)


class Rejection(Struct, frozen=True):
    """Why a message, or one event of it, is not recorded: `code` for counting, `reason` to read."""

    code: Literal[
        "unsigned",
        "bad_signature",
        "malformed",
        "unknown_team",
        "unknown_user",
        "from_the_future",
        "conflicting",
    ]
    reason: str


class Message(Struct, frozen=True):
    """What a message body holds: its valid events, and why the others are rejected."""

    events: tuple[AgentRunEvent, ...]
    rejections: tuple[Rejection, ...]


def _no_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # The JSON standard leaves open which of two equal keys counts; two readers could differ.
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("an object has the same key twice")
    return keys


def _no_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


# Made once, because `json.loads` and `json.dumps` make one anew for each text.
_JSON = json.JSONDecoder(object_pairs_hook=_no_repeated_keys, parse_constant=_no_constant)
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def parse_message(body: str) -> Message:
    """Read a message body; never raises, whatever the body is."""
    try:
        document = _JSON.decode(body)
    except RecursionError:
        return _malformed("the body is nested too deeply")
    except ValueError as error:
        return _malformed(f"the body is not JSON: {error}")
    documents = document if isinstance(document, list) else [document]
    if not documents:
        return _malformed("the array holds no event")
    if len(documents) > EVENTS_PER_MESSAGE_MAX:
        return _malformed(f"the array holds more than {EVENTS_PER_MESSAGE_MAX} events")
    parsed = [_parse_event(document, number) for number, document in enumerate(documents)]
    return Message(
        events=tuple(p for p in parsed if not isinstance(p, Rejection)),
        rejections=tuple(p for p in parsed if isinstance(p, Rejection)),
    )


def payload_hash(payload: object) -> str:
    """Return a hash of the payload that is blind to white space and to the order of keys."""
    digest = hashlib.sha256(_canonical(payload).encode()).digest()[:PAYLOAD_HASH_BYTES]
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _parse_event(document: object, number: int) -> AgentRunEvent | Rejection:
    if not isinstance(document, dict):
        return Rejection("malformed", f"event {number} is not a JSON object")
    if "payload_hash" in document:
        return Rejection("malformed", f"event {number}: payload_hash: unknown field")
    try:
        event = _EVENT.validate_python({**document, "payload_hash": payload_hash(document)})
    except RecursionError:
        return Rejection("malformed", f"event {number} is nested too deeply")
    except ValidationError as error:
        return Rejection("malformed", f"event {number}: {_reason(error)}")
    if billed_at(event) > event.time:
        return Rejection("malformed", f"event {number}: data.started_at: is after the event's time")
    return event


def _reason(error: ValidationError) -> str:
    """Return field and complaint, without the value, which may be anything and of any length."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = [str(part) for part in first["loc"]]
    if first["type"] == "union_tag_invalid":
        # Pydantic's own sentence repeats the value, and leaves the field to the context.
        where.append(first["ctx"]["discriminator"].strip("'"))
        complaint = "names a kind that is not known"
    else:
        # Pydantic puts this before the sentences that the validators of this project raise.
        complaint = first["msg"].removeprefix("Value error, ")
    field = ".".join(where)[:200]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{field}: {complaint}{more}"


def _malformed(reason: str) -> Message:
    return Message(events=(), rejections=(Rejection("malformed", reason),))
