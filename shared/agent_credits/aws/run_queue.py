"""The queue of agent-run events: how its consumer gives messages back."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, assert_never

from botocore.exceptions import BotoCoreError, ClientError

from agent_credits.aws.sqs_batches import in_batches
from agent_credits.events.signatures import ATTRIBUTE
from agent_credits.intake.debited_batch import DebitedBatch, Delivery
from agent_credits.intake.dispositions import (
    Disposition,
    Done,
    Rejected,
    RetryLater,
    RetrySoon,
)
from agent_credits.values.errors import QueueUnavailable

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# A message that need not wait for its visibility timeout is delivered again after 2, 4, 8 and 16
# seconds, and then every 30 seconds.
WAIT_SECONDS_LONGEST = 30


def wait_seconds(receives: int) -> int:
    """Return how long a message waits after it was received this many times."""
    return min(1 << min(receives, 10), WAIT_SECONDS_LONGEST)


def deliveries(records: Sequence[Mapping[str, Any]]) -> list[Delivery]:
    """Read the records of an event from SQS."""
    return [Delivery(r["messageId"], r["body"], _signature(r)) for r in records]


def visible_in(
    records: Sequence[Mapping[str, Any]], dispositions: Mapping[str, Disposition]
) -> dict[str, int]:
    """Return, by receipt handle, in how many seconds each message is to be visible again.

    Messages that are done, or that come back after their visibility timeout, are left out.
    """
    seconds: dict[str, int] = {}
    for record in records:
        disposition = dispositions[record["messageId"]]
        match disposition:
            case Rejected():
                seconds[record["receiptHandle"]] = 0
            case RetrySoon():
                receives = int(record["attributes"]["ApproximateReceiveCount"])
                seconds[record["receiptHandle"]] = wait_seconds(receives)
            case Done() | RetryLater():
                pass
            case _:
                assert_never(disposition)
    return seconds


def _signature(record: Mapping[str, Any]) -> str | None:
    # An attribute of another type than String has no string value.
    value: str | None = record.get("messageAttributes", {}).get(ATTRIBUTE, {}).get("stringValue")
    return value


class RunQueue:
    def __init__(self, client: "SQSClient", queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url

    def return_in(self, seconds_by_handle: Mapping[str, int]) -> None:
        """Make messages visible again after so many seconds; after none to have them dead-lettered.

        A message that can never be recorded then reaches the dead-letter queue in seconds instead
        of after several visibility timeouts. Raises `QueueUnavailable` if the queue is down.
        """
        for batch in in_batches(list(seconds_by_handle.items())):
            try:
                self._client.change_message_visibility_batch(
                    QueueUrl=self._queue_url,
                    Entries=[
                        {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
                        for number, (handle, seconds) in enumerate(batch)
                    ],
                )
            except (BotoCoreError, ClientError) as fault:
                raise QueueUnavailable(str(fault)) from fault


def give_back(
    queue: Callable[[], RunQueue], records: Sequence[Mapping[str, Any]], batch: DebitedBatch
) -> DebitedBatch:
    """Make messages visible again when their dispositions say so; `queue` is called if any are.

    If the queue is down they come back after their visibility timeout, and the returned batch says
    so.
    """
    seconds_by_handle = visible_in(records, batch.dispositions)
    try:
        if seconds_by_handle:
            queue().return_in(seconds_by_handle)
    except QueueUnavailable as fault:
        return batch.returned_late(len(seconds_by_handle), fault)
    return batch
