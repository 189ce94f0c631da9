"""The whole Lambda events under events/lambda/, made from the samples and the real item shapes.

Run `python -m tests.lambda_events` in the checkout to write them again after a change of either.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from agent_credits.aws.items import Item, account_item, account_key, item_bytes
from agent_credits.ledger.accounts import Account
from tests.sample_world import CHECKOUT, NOW, SampleRun

FOLDER = CHECKOUT / "events" / "lambda"
ACCOUNT = "arn:aws:{service}:us-east-1:000000000000:{resource}"

# A good message, one with a bad event between two good ones, and one that nobody can read.
SQS_BATCH = (
    "events/user_run.json",
    "events/packed_array_with_one_bad_event.json",
    "events/not_json.json",
    "events/spill_over.json",
)


def sqs_batch() -> dict[str, Any]:
    return {"Records": [_sqs_record(number, path) for number, path in enumerate(SQS_BATCH, 1)]}


def stream_insufficient() -> dict[str, Any]:
    """Return what the change stream delivers when the sample `exhaustion` is debited."""
    run = SampleRun()
    commits_before = len(run.rows.stream)
    run.send([sample for sample in run.world.samples if sample.name == "exhaustion"])
    ((old, new),) = run.rows.stream[commits_before:]
    assert old is not None
    return {"Records": [_stream_record(old, new)]}


EVENTS = {"sqs_batch.json": sqs_batch, "stream_insufficient.json": stream_insufficient}


def text_of(event: dict[str, Any]) -> str:
    return json.dumps(event, indent=2) + "\n"


def _sqs_record(number: int, path: str) -> dict[str, Any]:
    body = (CHECKOUT / path).read_text()
    milliseconds = str(int(NOW.timestamp() * 1000))
    return {
        "messageId": f"00000000-0000-4000-8000-{number:012d}",
        "receiptHandle": f"receipt-handle-{number}",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": milliseconds,
            "SenderId": "AIDAEXAMPLE",
            "ApproximateFirstReceiveTimestamp": milliseconds,
        },
        "messageAttributes": {},
        # The field is part of the event's shape, and not meant to keep anything safe.
        "md5OfBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": ACCOUNT.format(service="sqs", resource="agent-credits-agent-runs"),
        "awsRegion": "us-east-1",
    }


def _stream_record(old: Account, new: Account) -> dict[str, Any]:
    old_image, new_image = account_item(old), account_item(new)
    return {
        "eventID": "00000000000000000000000000000001",
        "eventName": "MODIFY",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": int(NOW.timestamp()),
            "Keys": account_key(new.principal),
            "OldImage": _image(old_image),
            "NewImage": _image(new_image),
            "SequenceNumber": "000000000000000000001",
            "SizeBytes": item_bytes(old_image) + item_bytes(new_image),
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
        "eventSourceARN": ACCOUNT.format(
            service="dynamodb", resource="table/AccountsTable/stream/2026-11-21T00:00:00.000"
        ),
    }


def _image(item: Item) -> Item:
    """Return the item as the stream shows it: binary values are base64 text there."""
    return {
        name: {"B": base64.b64encode(typed["B"]).decode()} if "B" in typed else typed
        for name, typed in item.items()
    }


def write(folder: Path) -> None:
    for name, make in EVENTS.items():
        (folder / name).write_text(text_of(make()))


if __name__ == "__main__":
    write(FOLDER)
