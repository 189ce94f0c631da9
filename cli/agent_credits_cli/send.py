"""`agent-credits send`: reads events from files, checks them and sends them to the queue.

An event is sent as the very text that stands in the file. Nothing is sent unless all of it can be
read, and sending again is harmless: what is recorded already is not debited twice.
"""

import json
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from botocore.exceptions import BotoCoreError, ClientError

from agent_credits.aws.backoff import back_off
from agent_credits.aws.sqs_batches import BATCH_ENTRIES_MAX
from agent_credits.commit.write_protocol import Pause
from agent_credits.events.agent_runs import (
    EVENTS_PER_MESSAGE_MAX,
    AgentRunEvent,
    UserTrigger,
    parse_message,
)
from agent_credits.events.signatures import ATTRIBUTE, KeysNotUnderstood, parse_key, sign
from agent_credits_cli.errors import CommandError
from agent_credits_cli.tables import AsJson, out, print_json, progress
from agent_credits_cli.target import connect

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

STDIN: Final = "-"

# Limits of SQS: of one call, of one message, of the name of a group.
BATCH_BYTES_MAX: Final = 1_048_576
MESSAGE_BYTES_MAX: Final = 1_048_576
GROUP_LENGTH_MAX: Final = 128

ATTEMPTS_MAX: Final = 6
PROGRESS_FROM: Final = 200

SEND_AGAIN: Final = "send the same again, for what is recorded already is not debited twice"

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
        """Return what SQS counts: the body, and the name, type and value of the attribute."""
        size = len(self.body.encode())
        if self.signature is not None:
            size += len(ATTRIBUTE) + len("String") + len(self.signature)
        return size


@dataclass(frozen=True, slots=True)
class Sent:
    """The ids that SQS gave, in the order of the messages, and how many had to be repeated."""

    message_ids: tuple[str, ...]
    repeated: int


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
    """An event, and its text as it stands in the file."""

    text: str
    event: AgentRunEvent


@dataclass(slots=True)
class _Pack:
    """The texts of events that are to become one array; `size` is what it would take."""

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


def send(
    context: typer.Context,
    files: Annotated[
        list[str], typer.Argument(help="JSON, a JSON array or NDJSON of events; - is stdin.")
    ],
    pack: Annotated[
        int,
        typer.Option(
            min=1,
            max=EVENTS_PER_MESSAGE_MAX,
            help="Pack up to so many events of one payer's group into one message.",
        ),
    ] = 1,
    unchecked: Annotated[
        bool,
        typer.Option(
            "--unchecked", help="Send each file as one message, just as it is, broken or not."
        ),
    ] = False,
    sign_with: Annotated[
        str | None,
        typer.Option(
            metavar="KEYID:FILE",
            envvar="AGENT_CREDITS_SIGN_WITH",
            help="Sign each message with the key in this file, for stacks that require it.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send agent-run events to the queue; each becomes a message of its own unless packed."""
    if unchecked and pack > 1:
        raise CommandError("--unchecked sends files as they are; leave out --pack")
    named = [(name, read_text(name)) for name in files]
    if unchecked:
        messages = [message_of(name, text) for name, text in named]
    else:
        messages = [m for name, text in named for m in checked_messages(name, text, pack)]
    if sign_with is not None:
        messages = signed(messages, *signing_key(sign_with))
    target = connect(context)
    sent = send_messages(target.sqs, target.outputs.agent_runs_queue_url, messages)
    events = sum(message.events for message in messages)
    if as_json:
        print_json({"messages": len(messages), "events": events, "repeated": sent.repeated})
    else:
        out().print(
            f"Sent {events:,} events in {len(messages):,} messages to {target.name}.",
            soft_wrap=True,
        )


def signing_key(option: str) -> tuple[str, bytes]:
    """Read `<key id>:<file>`; the key itself never stands on a command line."""
    key_id, colon, name = option.partition(":")
    if not colon:
        raise CommandError(
            "--sign-with takes the id of a key and its file, as in k1:signing-key.txt"
        )
    try:
        return key_id, parse_key(key_id, Path(name).read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the signing key in {name} cannot be read; name its file") from error
    except KeysNotUnderstood as wrong:
        raise CommandError(f"--sign-with: {wrong}") from wrong


def signed(messages: Sequence[Message], key_id: str, key: bytes) -> list[Message]:
    """Return the messages with their signatures. Raises `CommandError` where one no longer fits."""
    with_signatures = [replace(m, signature=sign(m.body, key_id, key)) for m in messages]
    if any(message.size > MESSAGE_BYTES_MAX for message in with_signatures):
        raise CommandError(
            f"a message is longer than the {MESSAGE_BYTES_MAX:,} bytes that SQS carries with its"
            " signature; pack fewer events into one, nothing was sent"
        )
    return with_signatures


def read_text(name: str) -> str:
    """Read a file, or standard input, as UTF-8; SQS carries nothing else."""
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
        raise CommandError(f"{name} is empty; give it at least one event")
    return text


def message_of(name: str, text: str) -> Message:
    """Return a file as one message, unread; its group is that of the first event, if there is one.

    Raises `CommandError` only where SQS could not carry it.
    """
    events = parse_message(text).events
    if len(text.encode()) > MESSAGE_BYTES_MAX:
        raise CommandError(
            f"{name} is longer than the {MESSAGE_BYTES_MAX:,} bytes that SQS carries"
        )
    return Message(text, group_of(events[0]) if events else None, max(len(events), 1))


def checked_messages(name: str, text: str, pack: int) -> list[Message]:
    """Return the file's events as messages. Raises `CommandError` that names file and line."""
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
            # Without packing the order of the file is kept.
            messages.append(packs.pop(group).message(group))
    messages += [waiting.message(group) for group, waiting in packs.items()]
    if not messages:
        raise CommandError(f"{name} holds no event; give it at least one")
    return messages


def group_of(event: AgentRunEvent) -> str:
    """Return the message group: whoever most likely pays, so that nobody delays the others."""
    trigger = event.data.trigger
    if isinstance(trigger, UserTrigger):
        return f"user:{trigger.user_id}"[:GROUP_LENGTH_MAX]
    return f"team:{event.data.team_id}"[:GROUP_LENGTH_MAX]


def send_messages(
    client: "SQSClient",
    queue_url: str,
    messages: Sequence[Message],
    *,
    pause: Pause = back_off,
) -> Sent:
    """Send all, batch after batch, in their order: a run's end should not overtake its usage.

    Raises `CommandError` with how far it came when SQS does not take a message.
    """
    ids: list[str] = []
    repeated = 0
    for batch in _shown(_batches(messages), len(messages)):
        so_far = f"{len(ids)} of {len(messages)} messages were sent"
        batch_ids, batch_repeated = _send_batch(client, queue_url, batch, pause, so_far)
        ids += batch_ids
        repeated += batch_repeated
    return Sent(tuple(ids), repeated)


def _shown(batches: Iterator[list[Message]], total: int) -> Iterator[list[Message]]:
    """Yield the batches, behind a bar that counts their messages where there are many."""
    if total < PROGRESS_FROM:
        yield from batches
        return
    with progress() as bar:
        task = bar.add_task("sending messages", total=total)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch))


def _send_batch(
    client: "SQSClient", queue_url: str, batch: Sequence[Message], pause: Pause, so_far: str
) -> tuple[list[str], int]:
    ids: dict[int, str] = {}
    repeated = 0
    for attempt in range(ATTEMPTS_MAX):
        entries = [_entry(n, message) for n, message in enumerate(batch) if n not in ids]
        repeated += len(entries) if attempt else 0
        try:
            response = client.send_message_batch(QueueUrl=queue_url, Entries=entries)
        except (BotoCoreError, ClientError) as fault:
            raise CommandError(f"{so_far}, then: {fault}; {SEND_AGAIN}") from fault
        ids |= {int(taken["Id"]): taken["MessageId"] for taken in response.get("Successful", [])}
        if len(ids) == len(batch):
            return [ids[number] for number in range(len(batch))], repeated
        for failed in response["Failed"]:
            if failed["SenderFault"]:
                reason = failed.get("Message", failed["Code"])
                raise CommandError(
                    f"{so_far}, then SQS rejected one: {reason}; correct it and send again"
                )
        pause(attempt + 1)
    raise CommandError(f"{so_far}, then SQS failed {ATTEMPTS_MAX} times; {SEND_AGAIN}")


def _batches(messages: Sequence[Message]) -> Iterator[list[Message]]:
    batch: list[Message] = []
    size = 0
    for message in messages:
        if len(batch) == BATCH_ENTRIES_MAX or (batch and size + message.size > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += message.size
    if batch:
        yield batch


def _entry(number: int, message: Message) -> "SendMessageBatchRequestEntryTypeDef":
    entry: SendMessageBatchRequestEntryTypeDef = {"Id": str(number), "MessageBody": message.body}
    if message.group is not None:
        entry["MessageGroupId"] = message.group
    if message.signature is not None:
        entry["MessageAttributes"] = {
            ATTRIBUTE: {"DataType": "String", "StringValue": message.signature}
        }
    return entry


def _checked_events(source: _Source) -> Iterator[_Event]:
    """Read one JSON value after the other; the elements of an array each count as one."""
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
            raise source.rejection(at, "is not JSON: the array lacks a comma or its end")
        at = source.after_space(at + 1)


def _checked_event(source: _Source, at: int) -> tuple[_Event, int]:
    """Return the event at this place and where it ends."""
    try:
        value, end = _JSON.raw_decode(source.text, at)
    except json.JSONDecodeError as error:
        raise source.rejection(at, f"is not JSON: {error.msg} at line {error.lineno}") from error
    except (ValueError, RecursionError) as error:
        raise source.rejection(at, "is no event: a huge number, or nested too deeply") from error
    if not isinstance(value, dict):
        raise source.rejection(at, "is no event: it is not a JSON object")
    text = source.text[at:end]
    if len(text.encode()) > MESSAGE_BYTES_MAX:
        raise source.rejection(
            at, f"is longer than the {MESSAGE_BYTES_MAX:,} bytes that SQS carries"
        )
    message = parse_message(text)
    for rejected in message.rejections:
        raise source.rejection(at, rejected.reason.removeprefix("event 0: "))
    return _Event(text, message.events[0]), end
