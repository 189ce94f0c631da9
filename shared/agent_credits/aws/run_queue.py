"""The queue of agent-run events: how its consumer gives messages back."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from agent_credits.aws.sqs_batches import in_batches
from agent_credits.values.errors import QueueUnavailable

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# A message that need not wait for its visibility timeout is delivered again after 2, 4, 8 and 16
# seconds, and then every 30 seconds.
WAIT_SECONDS_LONGEST = 30


def wait_seconds(receives: int) -> int:
    """Return how long a message waits after it was received this many times."""
    return min(1 << min(receives, 10), WAIT_SECONDS_LONGEST)


class RunQueue:
    def __init__(self, client: "SQSClient", queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url

    def return_at_once(self, receipt_handles: Sequence[str]) -> None:
        """Make failed messages visible now.

        A message that can never be recorded then reaches the dead-letter queue in seconds instead
        of after several visibility timeouts. Raises `QueueUnavailable` if the queue is down.
        """
        self._return_in([(handle, 0) for handle in receipt_handles])

    def return_soon(self, receives_by_handle: Mapping[str, int]) -> None:
        """Make messages visible after a short while. Raises like `return_at_once`."""
        self._return_in([(h, wait_seconds(n)) for h, n in receives_by_handle.items()])

    def _return_in(self, seconds_by_handle: Sequence[tuple[str, int]]) -> None:
        for batch in in_batches(seconds_by_handle):
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
