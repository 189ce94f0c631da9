"""Agent-run events: CloudEvents 1.0 in structured JSON mode, one or an array of them per message.

Reading is strict, because an event spends money. Whatever is not understood is rejected, with a
reason that names the field and never repeats its value.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from msgspec import Struct
from pydantic import (
    AwareDatetime,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from agent_credits.events.model_provider_errors import ModelProviderAnswer, ModelProviderName
from agent_credits.ledger.entries import Identity, run_identity
from agent_credits.ledger.reservations import TTL_MAX, TTL_MIN
from agent_credits.values.credits import parse_credits, parse_usage
from agent_credits.values.display import count_text
from agent_credits.values.identifiers import VISIBLE_ASCII, Identifier, SourceUri
from agent_credits.values.strict import Strict

EVENTS_PER_MESSAGE_MAX = 1_000
# 96 bits are enough to tell a repeat from a conflict. The hash authenticates nobody.
PAYLOAD_HASH_BYTES = 12
# A time outside these years is a mistake, and arithmetic on it may overflow.
YEARS = range(2000, 2201)

# Python's parser also accepts forms that RFC 3339 does not, such as week dates.
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)

RunStatus = Literal["ok", "error", "cancelled"]

TtlSeconds = Annotated[
    int,
    Field(ge=int(TTL_MIN.total_seconds()), le=int(TTL_MAX.total_seconds())),
]

# A meter reports what it counted, which may be nothing.
UsedCredits = Annotated[int, BeforeValidator(parse_usage)]


def _rfc3339(value: object) -> datetime:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 string with an offset, such as 2026-11-30T00:00:00Z")
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
    """`credits` is an estimate. Without one, or with 0, the run needs any credits at all.

    `reserve` overrides the policy: whether the estimate is put aside for the run, for `ttl_seconds`
    or as long as the policy says. A run with a `parent_run_id` reserves from its parent's
    reservation.
    """

    credits: UsedCredits | None = None
    reserve: Literal["none", "estimate"] | None = None
    ttl_seconds: TtlSeconds | None = None
    parent_run_id: Identifier | None = None

    @model_validator(mode="after")
    def _reservation_is_consistent(self) -> Self:
        if self.reserve == "none" and (self.parent_run_id or self.ttl_seconds):
            raise ValueError(
                'has reserve "none", which goes with neither parent_run_id nor ttl_seconds'
            )
        if self.reserve == "estimate" and self.credits == 0:
            raise ValueError("must reserve more than zero credits")
        return self


class ExtendedData(_RunData):
    """What the run's reservation gets: more credits, more time from now on, or both."""

    credits: Annotated[int, BeforeValidator(parse_credits)] | None = None
    ttl_seconds: TtlSeconds | None = None

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.credits is None and self.ttl_seconds is None:
            raise ValueError("must ask for credits or ttl_seconds, or both")
        return self


class ReleasedData(_RunData):
    """What the run's reservation still holds goes back; what the run used stays used."""


class UsageData(_RunData):
    credits: UsedCredits


class FinishedData(_RunData):
    """`error` is a platform error and returns the run's draws; the other two do not."""

    status: RunStatus


class ModelProviderErrorData(_RunData):
    """A model provider's answer to a call that it rejected. It costs no credits."""

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

    # Cached, because each step to the ledger asks for it. An event is never copied with a changed
    # value: the copy would keep this one's identity.
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


class RunExtended(_CloudEvent):
    type: Literal["agent_run.extended"]
    data: ExtendedData


class RunReleased(_CloudEvent):
    type: Literal["agent_run.released"]
    data: ReleasedData


class ModelProviderErrorReported(_CloudEvent):
    type: Literal["agent_run.provider_error"]
    data: ModelProviderErrorData


# These become entries of an account's ledger; a model provider's error does not.
LedgerEvent = RunRequested | RunExtended | RunUsage | RunFinished | RunReleased
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


_PATH_LENGTH_MAX = 200
_UNKNOWN_FIELD = "is not a known field"


RejectionCode = Literal[
    "unsigned",
    "bad_signature",
    "malformed",
    "unknown_team",
    "unknown_user",
    "from_the_future",
    "conflicting",
    "no_estimate",
    "already_reserved",
    "no_reservation",
    "reservation_ended",
    "run_ended",
    "unknown_parent",
    "parent_billed_elsewhere",
    "circular_parents",
    "tree_too_deep",
    "too_many_children",
    "held_for_a_payer",
    "too_many_reservations",
]


class Rejection(Struct, frozen=True):
    """Why a message or one of its events is not recorded: `code` to count by, `reason` to read."""

    code: RejectionCode
    reason: str


class Message(Struct, frozen=True):
    """A message's valid events, and why its other events are rejected."""

    events: tuple[AgentRunEvent, ...]
    rejections: tuple[Rejection, ...]


class _NotJson(ValueError):
    """Text that Python's parser accepts, but that is not unambiguous JSON."""


def _no_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON does not define which of two equal keys counts, so two readers could differ.
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise _NotJson("an object has the same key twice")
    return keys


def _no_constant(constant: str) -> None:
    raise _NotJson(f"{constant} is not a number of JSON")


# Made once, because `json.loads` and `json.dumps` would make a new one for each text.
_JSON = json.JSONDecoder(object_pairs_hook=_no_repeated_keys, parse_constant=_no_constant)
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def parse_message(body: str) -> Message:
    """Read a message body. Never raises, whatever the body is."""
    document = parse_json(body)
    if isinstance(document, Rejection):
        return Message(events=(), rejections=(document,))
    documents = document if isinstance(document, list) else [document]
    rejection = why_no_batch(documents)
    if rejection is not None:
        return Message(events=(), rejections=(rejection,))
    parsed = [parse_event(document, f"event {n}") for n, document in enumerate(documents)]
    return Message(
        events=tuple(p for p in parsed if not isinstance(p, Rejection)),
        rejections=tuple(p for p in parsed if isinstance(p, Rejection)),
    )


def parse_json(body: str) -> Any:
    """Return the value of unambiguous JSON, or a `Rejection` of anything else."""
    try:
        return _JSON.decode(body)
    except RecursionError:
        return _malformed("the body is nested too deeply")
    except (json.JSONDecodeError, _NotJson) as error:
        return _malformed(f"the body is not JSON: {error}")
    except ValueError:
        # Python limits the digits of an integer.
        return _malformed("the body holds a number with too many digits")


def why_no_batch(documents: Sequence[object]) -> Rejection | None:
    """Return why an array cannot hold the events of one message."""
    if not documents:
        return _malformed("the array holds no events")
    if len(documents) > EVENTS_PER_MESSAGE_MAX:
        return _malformed(f"the array holds more than {EVENTS_PER_MESSAGE_MAX:,} events")
    return None


def payload_hash(payload: object) -> str:
    """Return a hash of the payload that ignores white space and the order of keys."""
    digest = hashlib.sha256(_canonical(payload).encode()).digest()[:PAYLOAD_HASH_BYTES]
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def parse_event(
    document: object, name: str, hashed: object | None = None
) -> AgentRunEvent | Rejection:
    """Read one event; a rejection calls it by `name`.

    `hashed`: what a repeat must be equal in, if not the whole document.
    """
    if not isinstance(document, dict):
        return _malformed(f"{name} is not a JSON object")
    if "payload_hash" in document:
        return _malformed(f"{name}: payload_hash {_UNKNOWN_FIELD}")
    payload = document if hashed is None else hashed
    try:
        event = _EVENT.validate_python({**document, "payload_hash": payload_hash(payload)})
    except RecursionError:
        return _malformed(f"{name} is nested too deeply")
    except ValidationError as error:
        return _malformed(f"{name}: {_reason(error)}")
    if billed_at(event) > event.time:
        return _malformed(f"{name}: data.started_at must not be after time")
    return event


def _reason(error: ValidationError) -> str:
    """Return a sentence about the first field that is wrong.

    It never holds the field's value, which may be anything and of any length.
    """
    first = error.errors(include_input=False, include_url=False)[0]
    path = _path(first["loc"])
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path.append(first["ctx"]["discriminator"].strip("'"))
    field = ".".join(path)[:_PATH_LENGTH_MAX] or "the event"
    # The sentences about credits start with "credits", because they are also used without a field.
    complaint = complaint_of(first).removeprefix("credits ")
    more = error.error_count() - 1
    others = f" (and {count_text(more, 'more error')})" if more else ""
    return f"{field} {complaint}{others}"


def _path(loc: tuple[int | str, ...]) -> list[str]:
    """Return where a field is in the event.

    Pydantic's path also has the type of the event, and the kind of the trigger behind the trigger.
    """
    path = [str(part) for part in loc[1:]]
    if path[:2] == ["data", "trigger"]:
        del path[2:3]
    return path


def complaint_of(error: ErrorDetails) -> str:
    """Return what is wrong with a field as the rest of a sentence, without the field's value."""
    context = error.get("ctx", {})
    match error["type"]:
        case "missing" | "union_tag_not_found":
            return "is missing"
        case "extra_forbidden":
            return _UNKNOWN_FIELD
        case "union_tag_invalid":
            return f"must be one of {context['expected_tags']}"
        case "literal_error":
            return f"must be {context['expected']}"
        case "string_type":
            return "must be a string"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "string_pattern_mismatch" if context["pattern"] == VISIBLE_ASCII:
            return "must consist of visible ASCII characters, without spaces"
        case "string_pattern_mismatch":
            return "has a character that is not allowed"
        case "string_unicode":
            return "must be valid Unicode"
        case "int_type":
            return "must be an integer"
        case "greater_than_equal":
            return f"must be at least {context['ge']:,}"
        case "less_than_equal":
            return f"must be at most {context['le']:,}"
        case "model_type" | "model_attributes_type":
            return "must be a JSON object"
        case "value_error":
            return str(context["error"])
        case _:
            return error["msg"]


def _malformed(reason: str) -> Rejection:
    return Rejection("malformed", reason)
