import json
from datetime import UTC, datetime
from typing import Any

from agent_credits.aws.set_aside import SetAsideRecords, reason_of
from agent_credits.values.errors import NotAnnounceable

NOW = datetime(2026, 11, 26, 10, tzinfo=UTC)
RECORD = {"eventName": "MODIFY", "dynamodb": {"SequenceNumber": "4421584500000000017450439091"}}


class Bucket:
    """A fake of the S3 client that keeps objects by key."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}

    def put_object(self, **request: Any) -> None:
        assert request["Bucket"] == "failures"
        self.objects[request["Key"]] = json.loads(request["Body"])


def test_a_record_is_kept_once_under_its_own_key_with_the_latest_reason() -> None:
    bucket = Bucket()
    records = SetAsideRecords(bucket, "failures")  # type: ignore[arg-type]

    keys = {records.put(RECORD, ValueError(reason), NOW) for reason in ("first", "second")}

    assert keys == {"records/4421584500000000017450439091.json"} == bucket.objects.keys()
    (document,) = bucket.objects.values()
    assert document["responseContext"]["functionError"] == "ValueError: second"
    assert document["timestamp"] == "2026-11-26T10:00:00+00:00"
    assert json.loads(document["payload"]) == {"Records": [RECORD]}


def test_a_reason_is_one_line_of_what_a_terminal_does_not_obey() -> None:
    error = NotAnnounceable("ValueError")
    error.__cause__ = ValueError("no such\n  kind: \x1b[2Jtrial")

    assert reason_of(error) == "ValueError: no such kind: [2Jtrial"
    assert reason_of(KeyError("pk")) == "KeyError: 'pk'"
