"""The API's function over real tables: both doors, what it writes, what it logs and counts."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from agent_credits.api.audit import AuditChange, AuditEntry
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.teams import Team
from tests.api_world import (
    API_IDS,
    AUDIENCE,
    ISSUER,
    Got,
    gateway_event,
    got,
    jwks,
    reservation,
    token,
)
from tests.emitted_metrics import emitted, of_stack
from tests.integration.lambda_runtime import Function, cold_start
from tests.integration.stack_tables import StackTables
from tests.unit.builders import (
    ACME,
    ANA,
    NOW,
    POLICY,
    RELOADING_ACME,
    grant_change,
    open_account,
    usage,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient


@pytest.fixture
def reloads_queue(sqs: "SQSClient") -> str:
    attributes = {"FifoQueue": "true"}
    return sqs.create_queue(QueueName="reloads.fifo", Attributes=attributes)["QueueUrl"]


class Issuer:
    """The issuer's web server on this machine; a test may let it fail."""

    def __init__(self) -> None:
        self.status, self.text = 200, json.dumps(jwks())
        self.fetches = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.fetches += 1
                self.send_response(outer.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(outer.text.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing beside the tests."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    serving = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    yield made
    made.server.shutdown()
    serving.join()
    made.server.server_close()


@pytest.fixture
def api(
    tables: StackTables,
    rows: DynamoDBRows,
    reloads_queue: str,
    issuer: "Issuer",
    monkeypatch: pytest.MonkeyPatch,
) -> Function:
    rows.put_policy(POLICY)
    team = RELOADING_ACME.model_copy(update={"members": ACME.members})
    assert rows.compare_and_set_team(team) is None
    open_account(rows, grant_change("g-1", credits="100"))
    environment = {
        "STACK_NAME": "agent-credits",
        "ACCOUNTS_TABLE": tables.accounts,
        "LEDGER_TABLE": tables.ledger,
        "RELOADS_QUEUE_URL": reloads_queue,
        "PROBLEM_TYPE_BASE_URL": "https://docs.example.com",
        "PRODUCERS_API_ID": API_IDS["producers"],
        "PEOPLE_API_ID": API_IDS["people"],
        "ISSUER": ISSUER,
        "AUDIENCE": AUDIENCE,
        "ISSUER_KEYS_URL": issuer.url,
    }
    return cold_start("api", environment, monkeypatch)


def call(api: Function, method: str, path: str, body: object = None, **more: Any) -> Got:
    return got(api.invoke(gateway_event(method, path, body, **more)))


def now_in(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "time": "2026-01-01T00:00:00Z"}


def test_a_reservation_is_committed_to_the_tables(api: Function, rows: DynamoDBRows) -> None:
    first = call(api, "POST", "/v1/reservations", reservation(credits="30"))
    again = call(api, "POST", "/v1/reservations", reservation(credits="30"))

    account = rows.read_account(ANA)
    assert account is not None
    assert [held.run_id for held in account.reservations] == ["run-1"]
    assert (first.status, again.status, account.version) == (201, 200, 2)


def test_the_people_s_door_verifies_the_token_that_the_issuer_signed(api: Function) -> None:
    path, door = "/v1/accounts/user:ana", "people"

    assert call(api, "GET", path, door=door, bearer=token()).json["available_credits"] == "100"
    assert call(api, "GET", path, door=door, bearer=token("ben")).status == 404
    assert call(api, "GET", path, door=door).status == 401


@pytest.mark.parametrize(
    ("status", "text"),
    [(500, ""), (302, json.dumps(jwks())), (200, "<html>"), (200, '{"keys": 7}'), (404, "{}")],
)
def test_an_issuer_that_does_not_answer_stops_people_and_no_producer(
    api: Function, issuer: Issuer, status: int, text: str
) -> None:
    issuer.status, issuer.text = status, text
    path = "/v1/accounts/user:ana"

    answer = call(api, "GET", path, door="people", bearer=token())

    assert (answer.status, answer.json["error"]) == (503, "undecided")
    assert call(api, "GET", path).status == 200
    assert issuer.fetches == 1


def test_what_is_recorded_is_logged_and_counted_and_no_body_or_token_is(
    api: Function, capsys: pytest.CaptureFixture[str]
) -> None:
    bearer = token(run_id="run-1")
    event = now_in(usage("e1", "5"))
    call(api, "POST", "/v1/events", event, door="people", bearer=bearer)

    printed = capsys.readouterr().out
    (line,) = api.lines("recorded")
    assert (line["debited"], line["run_ids"], line["trace_id"]) == ("e1", "run-1", "request-1")
    assert emitted(printed)[of_stack("EventsDebited", "api")] == 1
    for secret in (bearer, bearer.split(".")[2], "/platform/agents"):
        assert secret not in printed + api.log.getvalue()


def test_a_request_that_cannot_be_decided_is_logged_and_counted(
    api: Function,
    capsys: pytest.CaptureFixture[str],
    dynamodb: "DynamoDBClient",
    tables: StackTables,
) -> None:
    dynamodb.delete_table(TableName=tables.ledger)

    answer = call(api, "POST", "/v1/reservations", reservation())

    assert (answer.status, answer.json["error"]) == (503, "undecided")
    assert emitted(capsys.readouterr().out)[of_stack("RequestsUndecided", "api")] == 1
    assert api.lines("undecided")


def test_a_purchase_is_asked_for_on_the_queue_of_payments(
    api: Function, sqs: "SQSClient", reloads_queue: str
) -> None:
    headers = {"idempotency-key": "k1"}
    body = {"principal": "user:ana", "pack_credits": "400"}
    answer = call(api, "POST", "/v1/teams/acme/purchases", body, headers=headers)

    (message,) = sqs.receive_message(QueueUrl=reloads_queue)["Messages"]
    assert answer.status == 202
    assert json.loads(message["Body"]) == {
        "reload_id": "reload:purchase:acme:k1",
        "team_id": "acme",
        "principal": "user:ana",
        "follows_up": False,
    }


def test_the_document_needs_no_credentials(api: Function) -> None:
    answer = call(api, "GET", "/v1/openapi.json", door="people")

    assert (answer.status, answer.json["openapi"]) == (200, "3.1.0")


# The row of a team and the entry of who changed it are written together.


def entry(number: int, **fields: Any) -> AuditEntry:
    values: dict[str, Any] = {
        "team_id": "acme",
        "number": number,
        "time": NOW,
        "who": "user:olga",
        "action": "settings.changed",
        "request_id": "request-1",
        "changes": (AuditChange(field="spend_cap_cents", before=0, after=1),),
        **fields,
    }
    return AuditEntry.model_validate(values)


def team(version: int, **fields: Any) -> Team:
    return ACME.model_copy(update={"version": version, **fields})


class TestOfAnAuditedChange:
    def test_writes_the_row_and_the_entry(self, rows: DynamoDBRows) -> None:
        rows.compare_and_set_team(team(1))

        newer = rows.compare_and_set_team_audited(team(2, audits=1), entry(1))

        assert newer is None
        assert rows.read_team("acme") == team(2, audits=1)
        assert rows.read_audit("acme", [1, 2]) == [entry(1)]

    def test_writes_neither_after_a_lost_race_and_returns_the_row_that_won(
        self, rows: DynamoDBRows
    ) -> None:
        rows.compare_and_set_team(team(1))
        rows.compare_and_set_team(team(2, plan="other"))

        newer = rows.compare_and_set_team_audited(team(2, audits=1), entry(1))

        assert newer == team(2, plan="other")
        assert rows.read_audit("acme", [1]) == []

    def test_never_writes_an_entry_again(self, rows: DynamoDBRows) -> None:
        rows.compare_and_set_team(team(1))
        rows.compare_and_set_team_audited(team(2, audits=1), entry(1))

        newer = rows.compare_and_set_team_audited(team(3, audits=1), entry(1, who="user:eve"))

        assert newer == team(2, audits=1)
        assert rows.read_audit("acme", [1]) == [entry(1)]

    def test_a_row_without_audited_changes_is_as_an_older_version_reads_it(
        self, rows: DynamoDBRows, dynamodb: "DynamoDBClient", tables: StackTables
    ) -> None:
        rows.compare_and_set_team(team(1))

        item = dynamodb.get_item(TableName=tables.accounts, Key={"pk": {"S": "TEAM#acme"}})

        assert "audits" not in json.loads(item["Item"]["settings"]["S"])
