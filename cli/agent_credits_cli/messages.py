"""Messages for the queue of agent-run events, made from files of events.

Each event keeps the exact text of the file, and a file that cannot be read to its end yields no
message.
"""

import json
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from agent_credits.events.agent_runs import AgentRunEvent, UserTrigger, parse_message
from agent_credits.events.signatures import ATTRIBUTE, sign
from agent_credits_cli.errors import CommandError

STDIN: Final = "-"

# Limits of SQS: the size of a message, and the length of a group's name.
MESSAGE_BYTES_MAX: Final = 1_048_576
GROUP_LENGTH_MAX: Final = 128

_WHITE_SPACE: Final = re.compile(r"[ \t\r\n]*")
_JSON: Final = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Message:
    """A message for the queue. Messages of one group wait for each other, not for other groups."""

    body: str
    group: str | None
    events: int
    signature: str | None = None

    @property
    def size(self) -> int:
        """Return the size that SQS counts: the body, and the attribute's name, type and value."""
        size = len(self.body.encode())
        if self.signature is not None:
            size += len(ATTRIBUTE) + len("String") + len(self.signature)
        return size


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    text: str

    def rejection(self, at: int, reason: str) -> CommandError:
        line = self.text.count("\n", 0, at) + 1
        return CommandError(f"{self.name}:{line}: {reason}; correct it, nothing was sent")

    def after_space(self, at: int) -> int:
        space = _WHITE_SPACE.match(self.text, at)
        return space.end() if space else at


@dataclass(frozen=True, slots=True)
class _Event:
    """An event, and its text in the file."""

    text: str
    event: AgentRunEvent


@dataclass(slots=True)
class _Pack:
    """The texts of events that become one array of `size` bytes."""

    texts: list[str] = field(default_factory=list)
    size: int = 1

    def add(self, text: str) -> None:
        self.texts.append(text)
        self.size += len(text.encode()) + 1

    def has_room_for(self, text: str, pack: int) -> bool:
        size = self.size + len(text.encode()) + 1
        return len(self.texts) < pack and size <= MESSAGE_BYTES_MAX

    def message(self, group: str) -> Message:
        if len(self.texts) == 1:
            return Message(self.texts[0], group, 1)
        return Message(f"[{','.join(self.texts)}]", group, len(self.texts))


def signed(messages: Sequence[Message], key_id: str, key: bytes) -> list[Message]:
    """Return the messages with their signatures. Raises `CommandError` if one no longer fits."""
    with_signatures = [replace(m, signature=sign(m.body, key_id, key)) for m in messages]
    if any(message.size > MESSAGE_BYTES_MAX for message in with_signatures):
        raise CommandError(
            f"a message with its signature is longer than the {MESSAGE_BYTES_MAX:,} bytes that SQS"
            " accepts; pack fewer events into one, nothing was sent"
        )
    return with_signatures


def read_text(name: str) -> str:
    """Read a file, or standard input, as UTF-8; SQS accepts nothing else."""
    try:
        raw = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise CommandError(
            f"{name} cannot be read ({error.strerror}); name a file of events"
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise CommandError(f"{name}:{line}: is not UTF-8; save it as UTF-8") from error
    if not text.strip():
        raise CommandError(f"{name} is empty; add at least one event")
    return text


def message_of(name: str, text: str) -> Message:
    """Return a file as one unchecked message, in the group of its first readable event, if any.

    Raises `CommandError` only if SQS could not accept it.
    """
    events = parse_message(text).events
    if len(text.encode()) > MESSAGE_BYTES_MAX:
        raise CommandError(
            f"{name} is longer than the {MESSAGE_BYTES_MAX:,} bytes that SQS accepts"
        )
    return Message(text, group_of(events[0]) if events else None, max(len(events), 1))


def checked_messages(name: str, text: str, pack: int) -> list[Message]:
    """Return the file's events as messages. A `CommandError` names file and line."""
    packs: dict[str, _Pack] = {}
    messages: list[Message] = []
    for checked in _checked_events(_Source(name, text)):
        group = group_of(checked.event)
        waiting = packs.setdefault(group, _Pack())
        if waiting.texts and not waiting.has_room_for(checked.text, pack):
            messages.append(waiting.message(group))
            waiting = packs[group] = _Pack()
        waiting.add(checked.text)
        if pack == 1:
            # Without packing, messages keep the order of the file.
            messages.append(packs.pop(group).message(group))
    messages += [waiting.message(group) for group, waiting in packs.items()]
    if not messages:
        raise CommandError(f"{name} holds no event; add at least one")
    return messages


def group_of(event: AgentRunEvent) -> str:
    """Return the message group: the likely payer, so that no payer delays the others."""
    trigger = event.data.trigger
    if isinstance(trigger, UserTrigger):
        return f"user:{trigger.user_id}"[:GROUP_LENGTH_MAX]
    return f"team:{event.data.team_id}"[:GROUP_LENGTH_MAX]


def _checked_events(source: _Source) -> Iterator[_Event]:
    """Yield each JSON value; each element of an array counts as one."""
    at = source.after_space(0)
    while at < len(source.text):
        if source.text[at] == "[":
            at = yield from _checked_elements(source, at)
        else:
            checked, at = _checked_event(source, at)
            yield checked
        at = source.after_space(at)


def _checked_elements(source: _Source, start: int) -> Generator[_Event, None, int]:
    at = source.after_space(start + 1)
    if source.text.startswith("]", at):
        return at + 1
    while True:
        checked, at = _checked_event(source, at)
        yield checked
        at = source.after_space(at)
        if source.text.startswith("]", at):
            return at + 1
        if not source.text.startswith(",", at):
            raise source.rejection(at, "is not JSON: the array has no comma or end here")
        at = source.after_space(at + 1)


def _checked_event(source: _Source, at: int) -> tuple[_Event, int]:
    """Return the event at this place and where it ends."""
    try:
        value, end = _JSON.raw_decode(source.text, at)
    except json.JSONDecodeError as error:
        raise source.rejection(at, f"is not JSON: {error.msg} at line {error.lineno}") from error
    except (ValueError, RecursionError) as error:
        raise source.rejection(
            at, "is not an event: a huge number, or nested too deeply"
        ) from error
    if not isinstance(value, dict):
        raise source.rejection(at, "is not an event: it is not a JSON object")
    text = source.text[at:end]
    if len(text.encode()) > MESSAGE_BYTES_MAX:
        raise source.rejection(
            at, f"is longer than the {MESSAGE_BYTES_MAX:,} bytes that SQS accepts"
        )
    message = parse_message(text)
    for rejected in message.rejections:
        raise source.rejection(at, rejected.reason.removeprefix("event 0: "))
    return _Event(text, message.events[0]), end
