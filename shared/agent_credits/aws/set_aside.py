"""The bucket of stream records that could not be announced, each with its content.

Two write to it, both in the format of Lambda's invocation records: `announce`, a record that no
retry would help, and Lambda, a batch that it gave up on after its retries or its maximum age.
"""

import json
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Lambda has conditions of its own, such as RetryAttemptsExhausted, and a folder, aws/lambda/.
NOT_ANNOUNCEABLE: Final = "NotAnnounceable"
FOLDER: Final = "records/"


class SetAsideRecords:
    def __init__(self, client: "S3Client", bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def put(self, record: Mapping[str, Any], error: Exception, now: datetime) -> str:
        """Keep the record, and why it was not announced. Return the object's key.

        The key is the record's, so a record that is delivered twice is kept once.
        """
        key = f"{FOLDER}{record['dynamodb']['SequenceNumber']}.json"
        document = {
            "version": "1.0",
            "timestamp": now.isoformat(),
            "requestContext": {"condition": NOT_ANNOUNCEABLE},
            "responseContext": {
                "functionError": reason_of(error),
                "stackTrace": traceback.format_exception(error),
            },
            "payload": batch_text([record]),
        }
        self._client.put_object(
            Bucket=self._bucket,
            Key=key,
            Body=json.dumps(document).encode(),
            ContentType="application/json",
        )
        return key


def reason_of(error: BaseException) -> str:
    """Return what the error was raised from, in one line.

    It may quote the row, so it belongs beside the record and not into the log. What a terminal
    would obey is left out.
    """
    raised_from = error.__cause__ or error
    words = f"{type(raised_from).__name__}: {raised_from}".split()
    return "".join(character for character in " ".join(words) if character.isprintable())


def batch_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the records as the text that Lambda keeps in the field `payload`."""
    return json.dumps({"Records": list(records)})
