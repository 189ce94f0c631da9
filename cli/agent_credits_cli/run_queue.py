"""The queue of agent-run events: messages are sent in batches until SQS has accepted each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from agent_credits.aws.backoff import back_off
from agent_credits.aws.sqs_batches import BATCH_ENTRIES_MAX
from agent_credits.commit.write_protocol import Pause
from agent_credits.events.signatures import ATTRIBUTE
from agent_credits.values.display import count_text
from agent_credits_cli.errors import CommandError
from agent_credits_cli.messages import Message
from agent_credits_cli.tables import progress

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

# The limit of SQS for one call.
BATCH_BYTES_MAX: Final = 1_048_576

ATTEMPTS_MAX: Final = 6
PROGRESS_FROM: Final = 200

SEND_AGAIN: Final = "send the same again; a recorded event is not debited twice"


@dataclass(frozen=True, slots=True)
class Sent:
    """The ids from SQS in the order of the messages, and how many sends were repeated."""

    message_ids: tuple[str, ...]
    repeated: int


def send_messages(
    client: "SQSClient",
    queue_url: str,
    messages: Sequence[Message],
    *,
    pause: Pause = back_off,
) -> Sent:
    """Send all messages in order, in batches: a run's end should not overtake its usage.

    Raises `CommandError`, with how many were sent, if SQS does not accept a message.
    """
    ids: list[str] = []
    repeated = 0
    for batch in _shown(_batches(messages), len(messages)):
        so_far = f"{len(ids):,} of {count_text(len(messages), 'message')} sent"
        batch_ids, batch_repeated = _send_batch(client, queue_url, batch, pause, so_far)
        ids += batch_ids
        repeated += batch_repeated
    return Sent(tuple(ids), repeated)


def _shown(batches: Iterator[list[Message]], total: int) -> Iterator[list[Message]]:
    """Yield the batches, with a progress bar if there are many messages."""
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
