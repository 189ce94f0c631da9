"""Reading the dead-letter queue without removing anything from it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agent_credits.events.signatures import ATTRIBUTE
from agent_credits_cli.target import Target

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

# A message stays hidden for this long after it was read, so that the next call returns others. All
# are made visible again as soon as the last was read.
HIDDEN_SECONDS: Final = 60
MESSAGES_PER_RECEIVE: Final = 10
# A call that waits asks every server of the queue, so an empty answer means an empty queue.
WAIT_SECONDS: Final = 1


def peek(target: Target, limit: int) -> "list[MessageTypeDef]":
    """Return at most `limit` messages of the dead-letter queue, and leave them in it."""
    queue_url = target.outputs.agent_runs_dead_letter_queue_url
    seen: dict[str, MessageTypeDef] = {}
    try:
        while len(seen) < limit:
            messages = target.sqs.receive_message(
                QueueUrl=queue_url,
                MaxNumberOfMessages=min(MESSAGES_PER_RECEIVE, limit - len(seen)),
                VisibilityTimeout=HIDDEN_SECONDS,
                WaitTimeSeconds=WAIT_SECONDS,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
                MessageAttributeNames=[ATTRIBUTE],
            ).get("Messages", [])
            if not messages:
                break
            seen |= {message["MessageId"]: message for message in messages}
    finally:
        _show_again(target, queue_url, list(seen.values()))
    return list(seen.values())


def _show_again(target: Target, queue_url: str, messages: "Sequence[MessageTypeDef]") -> None:
    for start in range(0, len(messages), MESSAGES_PER_RECEIVE):
        target.sqs.change_message_visibility_batch(
            QueueUrl=queue_url,
            Entries=[
                {"Id": str(n), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0}
                for n, message in enumerate(messages[start : start + MESSAGES_PER_RECEIVE])
            ],
        )
