"""Bad input ends in the dead-letter queue, each message with its reason; its neighbours commit."""

import json
from typing import TYPE_CHECKING, Any

import pytest

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from tests.integration.lambda_runtime import Function, cold_start, receive, send
from tests.unit.builders import (
    ACME,
    ANA,
    POLICY,
    body,
    grant_change,
    open_account,
    remaining_on,
    usage,
)

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

RECEIVED_MAX = 3

TOO_LONG_TO_SEND = "1 MiB body"

BAD: dict[str, tuple[str, str, str]] = {
    "not JSON": ("hello", "malformed", "not JSON"),
    "not an object": ('"hello"', "malformed", "not a JSON object"),
    "unknown field": (body({**usage("bad"), "colour": "red"}), "malformed", "colour"),
    "float credits": (body(usage("bad", 1.5)), "malformed", "credits"),  # type: ignore[arg-type]
    "7 decimals": (body(usage("bad", "0.1234567")), "malformed", "credits"),
    "negative": (body(usage("bad", "-1")), "malformed", "credits"),
    "huge number": (
        body(usage("bad")).replace('"1"', "9" * 400),
        "malformed",
        "credits",
    ),
    "wrong trigger": (body(usage("bad", trigger={"kind": "cron"})), "malformed", "trigger"),
    "unknown team": (body(usage("bad", team="nobody")), "unknown_team", "team_id"),
    "unknown user": (body(usage("bad", user="mallory")), "unknown_user", "user_id"),
    "member without account": (body(usage("bad", user="ben")), "unknown_user", "user:ben"),
    "id of 10,000 characters": (body(usage("x" * 10_000)), "malformed", "id"),
    "duplicate keys": (
        body(usage("bad")).replace('{"spec', '{"id": "bad", "spec'),
        "malformed",
        "same key twice",
    ),
    "empty array": ("[]", "malformed", "no event"),
    "deep nesting": ("[" * 50_000, "malformed", "nested too deeply"),
    "nesting at the limit": (f'{{"x": {"[" * 980}{"]" * 980}}}', "malformed", ""),
    "lone surrogate": (body(usage("\ud800")), "malformed", "id"),
    "from the future": (
        body({**usage("bad"), "time": "2199-01-01T00:00:00Z"}),
        "from_the_future",
        "time",
    ),
    "another payload": (body(usage("e0", "2")), "conflicting", "e0"),
    TOO_LONG_TO_SEND: (body(usage("bad", note="x" * (1 << 20))), "malformed", "note"),
}


@pytest.fixture
def debit_runs(
    rows: DynamoDBRows, debit_runs_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Function:
    rows.put_policy(POLICY)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
    open_account(rows, grant_change("g-1", credits="1000"))
    return cold_start("debit_runs", debit_runs_environment, monkeypatch)


@pytest.fixture
def dead_letters_url(sqs: "SQSClient", queue_url: str) -> str:
    url: str = sqs.create_queue(QueueName="dead-letters")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    redrive = {"deadLetterTargetArn": attributes["QueueArn"], "maxReceiveCount": RECEIVED_MAX}
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"RedrivePolicy": json.dumps(redrive)})
    return url


def recorded(rows: DynamoDBRows) -> list[str]:
    account = rows.read_account(ANA)
    assert account is not None
    return [e.identity.id for e in account.entries if e.identity.realm == "RUN"]


def event_with(sqs: "SQSClient", queue_url: str, bad: str) -> dict[str, Any]:
    """Return a batch with the bad message between two good ones, and one before them all."""
    texts = [body(usage("e0")), body(usage("e1")), "placeholder", body(usage("e2"))]
    send(sqs, queue_url, texts)
    records = receive(sqs, queue_url)
    # The emulated queue takes smaller bodies than SQS does.
    records[2]["body"] = bad
    return {"Records": records}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_fails_alone_with_its_reason(
    name: str, debit_runs: Function, rows: DynamoDBRows, sqs: "SQSClient", queue_url: str
) -> None:
    bad, code, names = BAD[name]
    event = event_with(sqs, queue_url, bad)

    failed = debit_runs.failed_ids(event)

    assert failed == [event["Records"][2]["messageId"]]
    assert recorded(rows) == ["e0", "e1", "e2"]
    (line,) = debit_runs.lines("rejected")
    assert (line["message_id"], line["code"]) == (failed[0], code)
    assert names in line["reason"]
    assert len(line["reason"]) < 500
    account = rows.read_account(ANA)
    assert account is not None
    assert remaining_on(account) == {"g-1": 997_000_000}


def test_bad_messages_end_in_the_dead_letter_queue_and_good_ones_do_not(
    debit_runs: Function,
    rows: DynamoDBRows,
    sqs: "SQSClient",
    queue_url: str,
    dead_letters_url: str,
) -> None:
    bad = [text for name, (text, *_) in BAD.items() if name != TOO_LONG_TO_SEND]
    send(sqs, queue_url, [body(usage("e0")), body(usage("e1")), *bad, body(usage("e2"))])
    for _ in range(RECEIVED_MAX):
        # One batch, as Lambda receives it: `receive` would see again what came back at once.
        records = receive(sqs, queue_url)
        failed = debit_runs.failed_ids({"Records": records})
        for record in records:
            if record["messageId"] not in failed:
                sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=record["receiptHandle"])

    assert receive(sqs, queue_url) == []
    dead = [record["body"] for record in receive(sqs, dead_letters_url)]
    assert sorted(dead) == sorted(bad)
    assert recorded(rows) == ["e0", "e1", "e2"]
