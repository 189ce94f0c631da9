"""A function whose secret is wrong logs the reason and no part of the secret."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import boto3
import pytest

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from tests.integration.lambda_runtime import Function, cold_start
from tests.integration.stack_tables import StackTables
from tests.integration.test_auto_reload import request_reload
from tests.unit.builders import ANA, NOW, POLICY, RELOADING_ACME

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

KEY = "rk_test_a_key_that_stripe_does_not_know"


class Refuses(BaseHTTPRequestHandler):
    """Stripe's answer to an unknown key, which quotes the key; here in full."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = self.headers["Authorization"].removeprefix("Bearer ")
        self.server.keys_seen.append(key)
        error = {"type": "invalid_request_error", "message": f"Invalid API Key provided: {key}"}
        answer = json.dumps({"error": error}).encode()
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def stripe() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        server.keys_seen = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def auto_reload(
    aws: boto3.Session,
    tables: StackTables,
    queue_url: str,
    stripe: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Function:
    secret = aws.client("secretsmanager").create_secret(Name="stripe", SecretString=KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    environment = {
        "STACK_NAME": "agent-credits",
        "ACCOUNTS_TABLE": tables.accounts,
        "LEDGER_TABLE": tables.ledger,
        "RELOADS_QUEUE_URL": queue_url,
        "STRIPE_SECRET_ARN": secret["ARN"],
        "STRIPE_API_BASE": f"http://127.0.0.1:{stripe.server_port}",
    }
    function = cold_start("auto_reload", environment, monkeypatch)
    monkeypatch.setattr(function.app, "now", lambda: NOW)
    return function


def test_a_key_that_stripe_refuses_is_not_logged(
    auto_reload: Function,
    rows: DynamoDBRows,
    sqs: "SQSClient",
    queue_url: str,
    stripe: HTTPServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows.put_policy(POLICY)
    rows.compare_and_set_team(RELOADING_ACME)
    request = request_reload(rows, ANA)
    body = {"reload_id": request.reload_id, "team_id": "acme", "principal": str(ANA)}
    sqs.send_message(QueueUrl=queue_url, MessageBody=json.dumps(body))
    (received,) = sqs.receive_message(QueueUrl=queue_url)["Messages"]
    record = {
        "messageId": received["MessageId"],
        "receiptHandle": received["ReceiptHandle"],
        "body": received["Body"],
        "attributes": {"ApproximateReceiveCount": "1"},
    }

    failed = auto_reload.failed_ids({"Records": [record]})

    assert stripe.keys_seen[:1] == [KEY]
    assert failed == [received["MessageId"]]
    (line,) = auto_reload.lines("open")
    assert "AuthenticationError" in line["reason"]
    printed = capsys.readouterr()
    assert KEY not in auto_reload.log.getvalue() + printed.out + printed.err
