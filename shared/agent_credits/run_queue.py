"""The queue of agent-run events, as its consumer sees it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from agent_credits.errors import QueueUnavailable

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

BATCH_ENTRIES_MAX = 10


class RunQueue:
    def __init__(self, client: "SQSClient", queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url

    def return_at_once(self, receipt_handles: Sequence[str]) -> None:
        """Make failed messages visible now.

        What can never be recorded then reaches the dead-letter queue in seconds instead of after
        several visibility timeouts. Raises `QueueUnavailable` when the queue does not answer.
        """
        for start in range(0, len(receipt_handles), BATCH_ENTRIES_MAX):
            part = receipt_handles[start : start + BATCH_ENTRIES_MAX]
            try:
                self._client.change_message_visibility_batch(
                    QueueUrl=self._queue_url,
                    Entries=[
                        {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                        for number, handle in enumerate(part)
                    ],
                )
            except (BotoCoreError, ClientError) as fault:
                raise QueueUnavailable(str(fault)) from fault
