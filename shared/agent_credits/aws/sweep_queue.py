"""The queue of sweeps: FIFO, so that a sweep's steps stay in order and repeats are dropped."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent_credits.aws.sqs_batches import in_batches
from agent_credits.sweeps.sweep import Step, Visit
from agent_credits.values.errors import QueueUnavailable

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


class SqsSweepQueue:
    """Implements `SweepQueue`."""

    def __init__(self, client: "SQSClient", queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url

    def send(self, messages: Sequence[Step | Visit]) -> None:
        """Send them in order. Raises `QueueUnavailable` if SQS did not accept one."""
        for batch in in_batches(messages):
            response = self._client.send_message_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {
                        "Id": str(number),
                        "MessageBody": message.model_dump_json(),
                        # Hashed, because both have at most 128 characters.
                        "MessageGroupId": _hashed(message.group),
                        "MessageDeduplicationId": _hashed(message.deduplication),
                    }
                    for number, message in enumerate(batch)
                ],
            )
            if failed := response.get("Failed"):
                raise QueueUnavailable(f"{len(failed)} messages not sent: {failed[0]['Code']}")


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
