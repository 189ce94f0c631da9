"""What Lambda does with the records of one shard, as its documentation says, by the template.

See "Configuring partial batch response with DynamoDB and Lambda" and "Retain discarded records for
a DynamoDB event source in Lambda". The emulators do neither: moto ignores failed items, and the
embedded one never halves a batch.
"""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.integration.lambda_runtime import Function
from tests.template import load_template

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Records = Sequence[dict[str, Any]]

INVOCATIONS_MAX = 10_000


class Crash(BaseException):
    """The end of the process, or of its time: no code of the function can catch it."""


@dataclass
class StreamMapping:
    function: Function
    s3: "S3Client"
    bucket: str
    source: dict[str, Any] = field(
        default_factory=lambda: load_template()["Resources"]["Announce"]["Properties"]["Events"][
            "AccountChanges"
        ]["Properties"]
    )
    invocations: int = 0

    def deliver(self, records: Records) -> None:
        """Deliver all records, each until it is done or set aside."""
        size = self.source["BatchSize"]
        waiting = deque((records[n : n + size], 0) for n in range(0, len(records), size))
        while waiting:
            batch, retries = waiting.popleft()
            failed_at = self._invoke(batch)
            if failed_at == len(batch):
                continue
            if failed_at is None and len(batch) > 1 and self.source["BisectBatchOnFunctionError"]:
                # Halving does not count as a retry.
                half = (len(batch) + 1) // 2
                waiting.extendleft([(batch[half:], retries), (batch[:half], retries)])
            elif failed_at:
                waiting.appendleft((batch[failed_at:], 0))
            elif retries < self.source["MaximumRetryAttempts"]:
                waiting.appendleft((batch, retries + 1))
            else:
                self._set_aside(batch, retries + 1)

    def _invoke(self, batch: Records) -> int | None:
        """Return how many records are done; None if the function failed."""
        self.invocations += 1
        assert self.invocations <= INVOCATIONS_MAX
        try:
            failed = self.function.failed_ids({"Records": list(batch)})
        except Crash:
            return None
        numbers = [record["dynamodb"]["SequenceNumber"] for record in batch]
        return min([len(batch), *map(numbers.index, failed)])

    def _set_aside(self, batch: Records, invoked: int) -> None:
        document = {
            "requestContext": {
                "requestId": "316aa6d0-8154-xmpl-9af7-85d5f4a6bc81",
                "functionArn": "arn:aws:lambda:us-east-1:123456789012:function:announce",
                "condition": "RetryAttemptsExhausted",
                "approximateInvokeCount": invoked,
            },
            "responseContext": {
                "statusCode": 200,
                "executedVersion": "$LATEST",
                "functionError": "Unhandled",
            },
            "version": "1.0",
            "timestamp": "2025-11-21T10:00:00.123Z",
            "DDBStreamBatchInfo": {"shardId": "shardId-1", "batchSize": len(batch)},
            "payload": json.dumps({"Records": list(batch)}),
        }
        first = batch[0]["dynamodb"]["SequenceNumber"]
        key = f"aws/lambda/mapping/shardId-1/2025/11/21/2025-11-21T10.00.00-{first}"
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=json.dumps(document).encode())
