"""Messages for the queue: events of one payer packed together, within what SQS accepts."""

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

# Packing makes an event cheaper; from here on, hardly any more.
EVENTS_PER_MESSAGE: Final = 100
# Limits of SQS: of a message, of one call, and of the name of a message group.
MESSAGE_BYTES_MAX: Final = 1_048_576
MESSAGES_PER_CALL: Final = 10
GROUP_LENGTH_MAX: Final = 128
# The name, type and value of a signature are counted as part of the message.
SIGNATURE_BYTES_MAX: Final = 256

Event = Mapping[str, Any]
Sign = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Message:
    """`group`: the payer, so that no payer delays the others."""

    body: str
    group: str
    event_ids: tuple[str, ...]
    delay_seconds: int = 0


class Queue(Protocol):
    """Takes messages. `agent_credits_client.aws.SqsQueue` is one."""

    def send(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Send at most ten. Return those that were not taken; raise `NoAnswer` or `Refused`."""
        ...


def hmac_sha256(key_id: str, key: bytes) -> Sign:
    """Return what signs a body, for a stack that requires signed events."""

    def sign(body: str) -> str:
        return f"{key_id}:{hmac.new(key, body.encode(), hashlib.sha256).hexdigest()}"

    return sign


def group_of(team_id: str, trigger: Mapping[str, str]) -> str:
    """Return the likely payer, as the operator's command line names it."""
    payer = f"user:{trigger['user_id']}" if trigger["kind"] == "user" else f"team:{team_id}"
    return payer[:GROUP_LENGTH_MAX]


def pack(events: Sequence[Event], group: str) -> list[Message]:
    """Return the events as messages, in order."""
    messages: list[Message] = []
    packed: list[Event] = []
    size = 2
    for event in events:
        length = len(event_text(event)) + 1
        is_full = size + length > MESSAGE_BYTES_MAX - SIGNATURE_BYTES_MAX
        if packed and (is_full or len(packed) == EVENTS_PER_MESSAGE):
            messages.append(_message(packed, group))
            packed, size = [], 2
        packed.append(event)
        size += length
    return [*messages, _message(packed, group)] if packed else messages


def calls_of(messages: Sequence[Message]) -> list[tuple[Message, ...]]:
    """Return the messages in groups that fit into one call each."""
    calls: list[tuple[Message, ...]] = []
    call: list[Message] = []
    size = 0
    for message in messages:
        length = len(message.body) + SIGNATURE_BYTES_MAX
        if call and (len(call) == MESSAGES_PER_CALL or size + length > MESSAGE_BYTES_MAX):
            calls.append(tuple(call))
            call, size = [], 0
        call.append(message)
        size += length
    return [*calls, tuple(call)] if call else calls


def event_text(event: Event) -> str:
    """Return the event as it is sent: ASCII, so that its length is its size."""
    return json.dumps(event, separators=(",", ":"))


def _message(events: Sequence[Event], group: str) -> Message:
    body = f"[{','.join(map(event_text, events))}]"
    return Message(body, group, tuple(event["id"] for event in events))
