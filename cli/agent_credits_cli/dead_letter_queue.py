"""Looking into a dead-letter queue, moving its messages back, and deleting them.

SQS has no way to look at a message without receiving it. So each look counts as a receive, which
has no consequence: a dead-letter queue moves its messages no further. It also hides what it shows
from other readers, for as long as it takes; at the end, also if it fails or is interrupted, every
message that is still there is made visible again. If the process is killed, SQS does that after
`HIDDEN_SECONDS`.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from agent_credits.aws.sqs_batches import in_batches
from agent_credits.values.display import count_text
from agent_credits_cli.errors import CommandError
from agent_credits_cli.queues import Queue, depth_of

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import MessageSystemAttributeNameType
    from mypy_boto3_sqs.type_defs import MessageTypeDef

# A message stays hidden for this long after it was read, so that the next call returns others.
HIDDEN_SECONDS: Final = 60
MESSAGES_PER_RECEIVE: Final = 10
# A call that waits asks every server of the queue, so an empty answer means an empty queue.
WAIT_SECONDS: Final = 1
# The most that one command moves or deletes in one queue.
TAKEN_MAX: Final = 10_000

_SYSTEM_ATTRIBUTES: "Final[list[MessageSystemAttributeNameType]]" = [
    "ApproximateReceiveCount",
    "AWSTraceHeader",
    "MessageDeduplicationId",
    "MessageGroupId",
    "SentTimestamp",
]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a command took from a dead-letter queue.

    `left`: how many messages are still there. `came_back`: those of them that this command had
    moved, and that failed again meanwhile.
    """

    messages: "tuple[MessageTypeDef, ...]"
    left: int
    came_back: int


class HeldMessages:
    """The messages of a queue, hidden from its other readers until they are shown again."""

    def __init__(self, client: "SQSClient", queue_url: str, limit: int) -> None:
        self._client = client
        self._queue_url = queue_url
        self._limit = limit
        self._held: dict[str, MessageTypeDef] = {}
        self._seen: set[str] = set()

    def __iter__(self) -> "Iterator[MessageTypeDef]":
        """Yield at most `limit` messages, each once."""
        while len(self._seen) < self._limit:
            messages = self._client.receive_message(
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=min(MESSAGES_PER_RECEIVE, self._limit - len(self._seen)),
                VisibilityTimeout=HIDDEN_SECONDS,
                WaitTimeSeconds=WAIT_SECONDS,
                MessageSystemAttributeNames=_SYSTEM_ATTRIBUTES,
                MessageAttributeNames=["All"],
            ).get("Messages", [])
            new = [m for m in messages if m["MessageId"] not in self._seen]
            # The newest receipt handle of a message is the one that shows or deletes it.
            self._held |= {message["MessageId"]: message for message in messages}
            self._seen |= self._held.keys()
            if not new:
                # The queue is empty, or what was read first is visible again.
                return
            yield from new

    def delete(self, message: "MessageTypeDef") -> None:
        held = self._held[message["MessageId"]]
        self._client.delete_message(QueueUrl=self._queue_url, ReceiptHandle=held["ReceiptHandle"])
        del self._held[message["MessageId"]]

    def show_again(self) -> None:
        for messages in in_batches(list(self._held.values())):
            self._client.change_message_visibility_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {"Id": str(n), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 0}
                    for n, m in enumerate(messages)
                ],
            )


@contextmanager
def held(client: "SQSClient", queue_url: str, limit: int) -> Iterator[HeldMessages]:
    messages = HeldMessages(client, queue_url, limit)
    try:
        yield messages
    finally:
        # If this fails, they are visible again after `HIDDEN_SECONDS`.
        with suppress(BotoCoreError, ClientError):
            messages.show_again()


def peek(client: "SQSClient", queue_url: str, limit: int) -> "list[MessageTypeDef]":
    """Return at most `limit` messages of a dead-letter queue, and leave them in it."""
    with held(client, queue_url, limit) as messages:
        return list(messages)


def redrive(
    client: "SQSClient", queue: Queue, ids: Collection[str], taken: Callable[[], None]
) -> Taken:
    """Move messages back to their queue, those of these ids or all; call `taken` after each.

    Each is sent before it is deleted. A crash in between leaves it in both queues, which is
    harmless: an event, a reload, a notice and a step of a sweep each count once, however often they
    are delivered.
    """
    # What was moved may fail again at once and come back; it is not moved a second time.
    moved: set[str] = set()

    def send_back(message: "MessageTypeDef") -> None:
        moved.add(client.send_message(QueueUrl=queue.url, **_as_it_was_sent(message))["MessageId"])

    return _take(client, queue, ids, send_back, moved, taken)


def purge(
    client: "SQSClient", queue: Queue, ids: Collection[str], taken: Callable[[], None]
) -> Taken:
    """Delete messages, those of these ids or all; call `taken` after each."""
    return _take(client, queue, ids, lambda _: None, (), taken)


def _take(
    client: "SQSClient",
    queue: Queue,
    ids: Collection[str],
    before_deletion: "Callable[[MessageTypeDef], None]",
    leave: Collection[str],
    taken: Callable[[], None],
) -> Taken:
    found: list[MessageTypeDef] = []
    came_back = 0
    wanted = set(ids)
    try:
        # What arrives later was not there when the operator decided.
        there = min(depth_of(client, queue.dead_letters_url).total, TAKEN_MAX)
        with held(client, queue.dead_letters_url, there) as messages:
            for message in messages:
                if message["MessageId"] in leave:
                    came_back += 1
                elif not ids or message["MessageId"] in wanted:
                    before_deletion(message)
                    messages.delete(message)
                    found.append(message)
                    wanted.discard(message["MessageId"])
                    taken()
                if ids and not wanted:
                    break
        left = depth_of(client, queue.dead_letters_url).total
    except (BotoCoreError, ClientError) as fault:
        raise CommandError(
            f"{count_text(len(found), 'dead letter')} of {queue.name} taken, then: {fault};"
            " the others are still there, run the same again"
        ) from fault
    return Taken(tuple(found), left, came_back)


def _as_it_was_sent(message: "MessageTypeDef") -> dict[str, Any]:
    """Return body, attributes (the signature among them), group and deduplication id."""
    request: dict[str, Any] = {"MessageBody": message["Body"]}
    attributes = message.get("MessageAttributes", {})
    if attributes:
        request["MessageAttributes"] = {
            name: {
                part: attribute[part]
                for part in ("DataType", "StringValue", "BinaryValue")
                if part in attribute
            }
            for name, attribute in attributes.items()
        }
    system = message["Attributes"]
    for name in ("MessageGroupId", "MessageDeduplicationId"):
        if name in system:
            request[name] = system[name]
    if "AWSTraceHeader" in system:
        request["MessageSystemAttributes"] = {
            "AWSTraceHeader": {"DataType": "String", "StringValue": system["AWSTraceHeader"]}
        }
    return request
