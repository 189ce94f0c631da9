"""Signed events, from the producer through the queue to the handler and the dead letters."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import typer
from typer.testing import CliRunner, Result

from agent_credits.aws.cached_secret import SECRET_TTL
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.events.signatures import sign
from agent_credits_cli.commands import send as send_module
from agent_credits_cli.commands.send import signing_key
from agent_credits_cli.dead_letters import read_dead_letters
from agent_credits_cli.errors import CommandError, CommandGroup
from agent_credits_cli.messages import MESSAGE_BYTES_MAX, Message, signed
from agent_credits_cli.target import Target
from tests.integration.lambda_runtime import Function, cold_start
from tests.unit.builders import ACME, ANA, POLICY, body, grant_change, open_account, usage

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sqs import SQSClient

KEY, NEW_KEY = "first-signing-key-of-the-platform", "second-signing-key-of-the-platform"
BODY = body(usage("e1"))
DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "signed-events.md"


@pytest.fixture
def secrets(aws: boto3.Session) -> "SecretsManagerClient":
    return aws.client("secretsmanager")


@pytest.fixture
def secret_arn(secrets: "SecretsManagerClient") -> str:
    keys = json.dumps({"k1": KEY})
    return secrets.create_secret(Name="signing-keys", SecretString=keys)["ARN"]


@pytest.fixture(autouse=True)
def world(rows: DynamoDBRows) -> DynamoDBRows:
    rows.put_policy(POLICY)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
    open_account(rows, grant_change("g-1", credits="1000", principal=ANA))
    return rows


@pytest.fixture
def environment(debit_runs_environment: dict[str, str], secret_arn: str) -> dict[str, str]:
    signed = {"EVENT_SIGNATURES": "require", "EVENT_SIGNING_SECRET_ARN": secret_arn}
    return debit_runs_environment | signed


@pytest.fixture
def debit_runs(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Function:
    return cold_start("debit_runs", environment, monkeypatch)


def text(value: str) -> dict[str, Any]:
    return {"DataType": "String", "StringValue": value}


def lambda_records(sqs: "SQSClient", queue_url: str) -> dict[str, Any]:
    """Receive what is in the queue as the event in which Lambda hands it over."""
    received = sqs.receive_message(
        QueueUrl=queue_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    )
    return {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": {"ApproximateReceiveCount": "1"},
                "messageAttributes": {
                    name: {
                        "dataType": attribute["DataType"],
                        **(
                            {"stringValue": attribute["StringValue"]}
                            if "StringValue" in attribute
                            else {
                                "binaryValue": base64.b64encode(attribute["BinaryValue"]).decode()
                            }
                        ),
                    }
                    for name, attribute in message.get("MessageAttributes", {}).items()
                },
            }
            for message in received.get("Messages", [])
        ]
    }


def recorded(rows: DynamoDBRows) -> list[str]:
    account = rows.read_account(ANA)
    assert account is not None
    return [e.identity.id for e in account.entries if e.identity.realm == "RUN"]


def test_the_producer_in_the_docs_is_authentic(
    debit_runs: Function, rows: DynamoDBRows, sqs: "SQSClient", queue_url: str
) -> None:
    producer: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    exec(code, producer)  # noqa: S102 - It is our own documentation.

    producer["send"](sqs, queue_url, usage("e1"), "k1", KEY)

    assert debit_runs.failed_ids(lambda_records(sqs, queue_url)) == []
    assert recorded(rows) == ["e1"]


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({}, "unsigned"),
        ({"Signature": text(sign(BODY, "k1", KEY.encode()))}, "unsigned"),
        (
            {
                "signature": {
                    "DataType": "Binary",
                    "BinaryValue": sign(BODY, "k1", KEY.encode()).encode(),
                }
            },
            "unsigned",
        ),
        ({"signature": text(sign(f"{BODY} ", "k1", KEY.encode()))}, "bad_signature"),
        ({"signature": text(sign(BODY, "k1", NEW_KEY.encode()))}, "bad_signature"),
        ({"signature": text(sign(BODY, "k2", NEW_KEY.encode()))}, "bad_signature"),
    ],
    ids=[
        *("no attribute", "another name", "binary", "another body", "another key", "unknown key"),
    ],
)
def test_a_message_without_a_valid_signature_fails_alone_and_is_not_debited(
    attributes: Any,
    code: str,
    debit_runs: Function,
    rows: DynamoDBRows,
    sqs: "SQSClient",
    queue_url: str,
) -> None:
    good = body(usage("e2"))
    sqs.send_message(QueueUrl=queue_url, MessageBody=BODY, MessageAttributes=attributes)
    signature = text(sign(good, "k1", KEY.encode()))
    sqs.send_message(
        QueueUrl=queue_url, MessageBody=good, MessageAttributes={"signature": signature}
    )
    event = lambda_records(sqs, queue_url)
    (bad,) = [record["messageId"] for record in event["Records"] if record["body"] == BODY]

    assert debit_runs.failed_ids(event) == [bad]

    assert recorded(rows) == ["e2"]
    (line,) = debit_runs.lines("rejected")
    assert line["code"] == code
    logged = debit_runs.log.getvalue()
    assert KEY not in logged
    assert signature["StringValue"] not in logged


def test_a_key_rotation_rejects_no_producer(
    debit_runs: Function,
    rows: DynamoDBRows,
    sqs: "SQSClient",
    queue_url: str,
    secrets: "SecretsManagerClient",
    secret_arn: str,
) -> None:
    clock = [datetime(2026, 11, 23, tzinfo=UTC)]
    debit_runs.app.keys._keys._clock = lambda: clock[0]

    def send(event_id: str, key_id: str, key: str) -> int:
        text_of_event = body(usage(event_id))
        signature = text(sign(text_of_event, key_id, key.encode()))
        sqs.send_message(
            QueueUrl=queue_url,
            MessageBody=text_of_event,
            MessageAttributes={"signature": signature},
        )
        return len(debit_runs.failed_ids(lambda_records(sqs, queue_url)))

    assert send("e1", "k1", KEY) == 0
    secrets.put_secret_value(
        SecretId=secret_arn, SecretString=json.dumps({"k1": KEY, "k2": NEW_KEY})
    )
    clock[0] += SECRET_TTL / 2  # The kept keys are still good, but the new one is not among them.
    assert send("e2", "k2", NEW_KEY) == 0
    assert send("e3", "k1", KEY) == 0
    secrets.put_secret_value(SecretId=secret_arn, SecretString=json.dumps({"k2": NEW_KEY}))
    clock[0] += SECRET_TTL
    assert send("e4", "k2", NEW_KEY) == 0
    assert send("e5", "k1", KEY) == 1

    assert recorded(rows) == ["e1", "e2", "e3", "e4"]


def test_messages_wait_while_the_secret_holds_no_keys(
    debit_runs: Function,
    sqs: "SQSClient",
    queue_url: str,
    secrets: "SecretsManagerClient",
    secret_arn: str,
) -> None:
    secrets.put_secret_value(SecretId=secret_arn, SecretString='{"k1": "sesame"}')
    signature = text(sign(BODY, "k1", KEY.encode()))
    sqs.send_message(
        QueueUrl=queue_url, MessageBody=BODY, MessageAttributes={"signature": signature}
    )

    assert len(debit_runs.failed_ids(lambda_records(sqs, queue_url))) == 1

    assert debit_runs.lines("rejected") == []
    (line,) = debit_runs.lines("postponed")
    assert "key k1 must be a string of 32 or more printable characters" in line["reason"]
    assert "sesame" not in debit_runs.log.getvalue()


def test_a_stack_without_signature_checks_makes_no_client_for_the_secret(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    off = cold_start("debit_runs", {**environment, "EVENT_SIGNATURES": "off"}, monkeypatch)

    assert off.app.keys is None


def test_a_live_stack_starts_to_require_signatures_without_losing_an_event(
    environment: dict[str, str],
    rows: DynamoDBRows,
    sqs: "SQSClient",
    queue_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def send(event_id: str, key: str | None) -> None:
        text_of_event = body(usage(event_id))
        attributes = (
            {"signature": text(sign(text_of_event, "k1", key.encode()))} if key is not None else {}
        )
        sqs.send_message(
            QueueUrl=queue_url, MessageBody=text_of_event, MessageAttributes=attributes
        )

    def rejected_with(mode: str) -> set[str]:
        """Deploy with this mode, and return the events of the queue that it rejects."""
        function = cold_start("debit_runs", {**environment, "EVENT_SIGNATURES": mode}, monkeypatch)
        event = lambda_records(sqs, queue_url)
        failed = function.failed_ids(event)
        kept = [record for record in event["Records"] if record["messageId"] not in failed]
        for record in kept:
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=record["receiptHandle"])
        return {
            json.loads(record["body"])["id"]
            for record in event["Records"]
            if record["messageId"] in failed
        }

    # Each mode meets what was sent while the one before it was on.
    send("before", None)
    assert rejected_with("check-signed") == set()
    send("not-yet-signing", None)
    send("signing", KEY)
    send("forged", NEW_KEY)
    assert rejected_with("check-signed") == {"forged"}
    send("in-flight", KEY)
    send("forgotten", None)
    assert rejected_with("require") == {"forged", "forgotten"}

    assert sorted(recorded(rows)) == ["before", "in-flight", "not-yet-signing", "signing"]


class TestCommandLine:
    @pytest.fixture
    def key_file(self, tmp_path: Path) -> Path:
        file = tmp_path / "key.txt"
        file.write_text(f"{KEY}\n")
        return file

    @pytest.fixture
    def run(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
        monkeypatch.setattr(send_module, "connect", lambda _: target)
        app = typer.Typer(cls=CommandGroup)
        app.command()(send_module.send)
        # A second command, so that Typer does not leave out the name of the only one.
        app.command("nothing")(lambda: None)
        return lambda *arguments, **kw: CliRunner().invoke(app, ["send", *arguments], **kw)

    def test_a_message_signed_by_send_is_debited(
        self,
        run: Callable[..., Result],
        key_file: Path,
        debit_runs: Function,
        rows: DynamoDBRows,
        sqs: "SQSClient",
        queue_url: str,
    ) -> None:
        events = "\n".join(body(usage(f"e{n}")) for n in range(4))

        sent = run("-", "--pack=2", f"--sign-with=k1:{key_file}", input=events)

        assert sent.output == "Sent 4 events in 2 messages to moto.\n"
        assert debit_runs.failed_ids(lambda_records(sqs, queue_url)) == []
        assert sorted(recorded(rows)) == ["e0", "e1", "e2", "e3"]

    @pytest.mark.parametrize(
        ("option", "complaint"),
        [
            ("k1", "takes the id of a key and its file"),
            ("k1:missing.txt", "missing.txt cannot be read"),
            ("k 1:{file}", "a key id must have 1 to 64"),
            ("k1:{short}", "key k1 must be a string of 32"),
        ],
    )
    def test_an_invalid_key_is_rejected_in_one_line(
        self,
        option: str,
        complaint: str,
        run: Callable[..., Result],
        key_file: Path,
        tmp_path: Path,
        sqs: "SQSClient",
        queue_url: str,
    ) -> None:
        short = tmp_path / "short.txt"
        short.write_text("sesame")

        rejected = run("-", f"--sign-with={option.format(file=key_file, short=short)}", input=BODY)

        assert rejected.exit_code == 2
        assert complaint in rejected.output
        assert rejected.output.count("\n") == 1
        assert "sesame" not in rejected.output
        assert lambda_records(sqs, queue_url)["Records"] == []

    def test_a_message_that_fits_only_without_its_signature_is_rejected(
        self, key_file: Path
    ) -> None:
        key_id, key = signing_key(f"k1:{key_file}")
        attribute = len("signature") + len("String") + len(sign("", key_id, key))

        (fits,) = signed([Message("x" * (MESSAGE_BYTES_MAX - attribute), None, 1)], key_id, key)
        with pytest.raises(CommandError, match="pack fewer events"):
            signed([Message("x" * (MESSAGE_BYTES_MAX - attribute + 1), None, 1)], key_id, key)

        assert fits.size == MESSAGE_BYTES_MAX

    @pytest.mark.parametrize(
        ("mode", "codes"),
        [
            ("off", ["rejected_no_more"] * 3),
            ("check-signed", ["bad_signature", "rejected_no_more", "rejected_no_more"]),
            ("require", ["bad_signature", "rejected_no_more", "unsigned"]),
        ],
    )
    def test_dead_letters_say_what_is_wrong_with_the_signature(
        self, target: Target, sqs: "SQSClient", secret_arn: str, mode: str, codes: list[str]
    ) -> None:
        dead = sqs.create_queue(QueueName="dead-letters")["QueueUrl"]
        outputs = target.outputs.model_copy(
            update={
                "agent_runs_dead_letter_queue_url": dead,
                "event_signatures": mode,
                "event_signing_secret_arn": secret_arn,
            }
        )
        for signature in (None, sign(BODY, "k2", KEY.encode()), sign(BODY, "k1", KEY.encode())):
            attributes = {"signature": text(signature)} if signature else {}
            sqs.send_message(QueueUrl=dead, MessageBody=BODY, MessageAttributes=attributes)

        letters = read_dead_letters(replace(target, outputs=outputs), 10, datetime.now(UTC))

        assert sorted(letter.code for letter in letters) == codes
