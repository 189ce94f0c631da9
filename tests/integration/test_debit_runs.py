"""The function debit_runs from its cold start on: whole SQS events in, tables and queue after."""

import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import EndpointConnectionError

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.ledger.entries import Entry
from agent_credits.values.principals import Principal
from tests.emitted_metrics import emitted, of_stack
from tests.integration.lambda_runtime import Context, Function, cold_start, receive, send
from tests.integration.stack_tables import StackTables
from tests.lambda_events import FOLDER
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    BIGCORP_TEAM,
    OLGA,
    POLICY,
    TRIGGERS,
    body,
    finished,
    grant_change,
    open_account,
    provider_error,
    remaining_by_grant,
    remaining_on,
    usage,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

LITTLE_TIME = Context(remaining_milliseconds=9_999)


@pytest.fixture
def world(rows: DynamoDBRows) -> DynamoDBRows:
    rows.put_policy(POLICY)
    for team in (ACME, BIGCORP_TEAM):
        rows.compare_and_set_team(team.model_copy(update={"version": 1}))
    for principal in (ANA, BEN, OLGA):
        open_account(rows, grant_change("g-1", credits="1000", principal=principal))
    return rows


@pytest.fixture
def debit_runs(debit_runs_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Function:
    return cold_start("debit_runs", debit_runs_environment, monkeypatch)


@pytest.fixture
def at_debug(debit_runs: Function) -> Iterator[Function]:
    """Loggers outlive a cold start within one process, and so would their level."""
    debit_runs.app.logger.setLevel("DEBUG")
    yield debit_runs
    debit_runs.app.logger.setLevel("INFO")


def entries(rows: DynamoDBRows, principal: Principal) -> list[Entry]:
    account = rows.read_account(principal)
    assert account is not None
    pages = [entry for page in rows.read_pages(principal) for entry in page.entries]
    return [*pages, *account.entries]


def recorded(rows: DynamoDBRows, principal: Principal) -> list[str]:
    return [e.identity.id for e in entries(rows, principal) if e.identity.realm == "RUN"]


def balance(rows: DynamoDBRows, principal: Principal) -> int:
    account = rows.read_account(principal)
    assert account is not None
    return sum(remaining_on(account).values())


def test_a_batch_of_good_messages_is_debited_and_acknowledged(
    debit_runs: Function, world: DynamoDBRows, sqs: "SQSClient", queue_url: str
) -> None:
    send(
        sqs,
        queue_url,
        [
            body(usage("e1", "2.5")),
            body(usage("e2", user="ben"), usage("e3", user="ben")),
            body(usage("e4", trigger=TRIGGERS["schedule"])),
            body(finished("e5")),
        ],
    )

    answer = debit_runs.invoke({"Records": receive(sqs, queue_url)})

    assert answer == {"batchItemFailures": []}
    assert recorded(world, ANA) == ["e1", "e5"]
    assert recorded(world, BEN) == ["e2", "e3"]
    assert recorded(world, OLGA) == ["e4"]
    assert balance(world, ANA) == 997_500_000


def test_accounts_are_written_at_the_same_time_and_all_writes_have_ended_on_return(
    debit_runs: Function, world: DynamoDBRows, sqs: "SQSClient", queue_url: str
) -> None:
    together = threading.Barrier(3, timeout=10)
    under_way: list[str] = []

    def made(params: dict[str, Any], **_: Any) -> None:
        under_way.append(params["body"])
        together.wait()

    def answered(**_: Any) -> None:
        under_way.pop()

    events = debit_runs.app.rows._client.meta.events
    events.register("before-call.dynamodb.PutItem", made)
    events.register("after-call.dynamodb.PutItem", answered)
    send(
        sqs,
        queue_url,
        [
            body(usage("e1")),
            body(usage("e2", user="ben")),
            body(usage("e3", trigger=TRIGGERS["schedule"])),
        ],
    )

    answer = debit_runs.invoke({"Records": receive(sqs, queue_url)})

    # A barrier that one write waits at alone breaks, and its message would come back.
    assert answer == {"batchItemFailures": []}
    assert under_way == []
    assert [recorded(world, p) for p in (ANA, BEN, OLGA)] == [["e1"], ["e2"], ["e3"]]


def test_a_message_that_is_delivered_again_is_acknowledged_and_changes_nothing(
    debit_runs_environment: dict[str, str],
    world: DynamoDBRows,
    sqs: "SQSClient",
    queue_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send(sqs, queue_url, [body(usage(f"e{n}")) for n in range(12)])
    event = {"Records": receive(sqs, queue_url)}
    cold_start("debit_runs", debit_runs_environment, monkeypatch).invoke(event)
    before = world.read_account(ANA)

    again = cold_start("debit_runs", debit_runs_environment, monkeypatch)
    failed = again.failed_ids(event)

    assert failed == []
    assert world.read_account(ANA) == before
    (line,) = again.lines("recorded")
    assert line["already_recorded"].split() == [f"e{n}" for n in range(12)]


def test_a_model_provider_error_is_observed_and_logged_without_its_body(
    debit_runs: Function,
    world: DynamoDBRows,
    sqs: "SQSClient",
    queue_url: str,
    dynamodb: "DynamoDBClient",
    tables: StackTables,
) -> None:
    event = provider_error("e1", run="run-7", project_id="web", model="gpt-5")
    send(sqs, queue_url, [body(event), body(usage("e2"))])

    answer = debit_runs.invoke({"Records": receive(sqs, queue_url)})

    assert answer == {"batchItemFailures": []}
    assert recorded(world, ANA) == ["e2"]
    key = {"pk": {"S": "OBSERVED#model_provider_error#event /platform/agents run-7 e1"}}
    item = dynamodb.get_item(TableName=tables.accounts, Key=key)["Item"]
    assert json.loads(item["observation"]["S"])["classification"] == "quota_exhausted"
    (line,) = debit_runs.lines("model provider error")
    assert (line["provider"], line["event_id"], line["is_new"]) == ("openai", "e1", True)
    assert "gpt-5" not in debit_runs.log.getvalue()


def test_only_rejected_messages_come_back_at_once(
    debit_runs: Function, world: DynamoDBRows, sqs: "SQSClient", queue_url: str
) -> None:
    good, bad, mixed = send(
        sqs, queue_url, [body(usage("e1")), "{", body(usage("e2"), usage("e3", "-1"))]
    )
    event = {"Records": receive(sqs, queue_url)}

    failed = debit_runs.failed_ids(event)

    assert sorted(failed) == sorted([bad, mixed])
    assert {record["messageId"] for record in receive(sqs, queue_url)} == {bad, mixed}
    assert recorded(world, ANA) == ["e1", "e2"]
    assert good not in failed


def test_more_rejected_messages_than_one_call_takes_all_come_back_at_once(
    debit_runs: Function, world: DynamoDBRows, sqs: "SQSClient", queue_url: str
) -> None:
    sent = send(sqs, queue_url, ["{"] * 25)
    event = {"Records": receive(sqs, queue_url)}

    failed = debit_runs.failed_ids(event)

    assert sorted(failed) == sorted(sent)
    assert {record["messageId"] for record in receive(sqs, queue_url)} == set(sent)
    assert balance(world, ANA) == 1_000_000_000


def test_what_is_postponed_stays_hidden_until_its_visibility_timeout(
    debit_runs: Function, world: DynamoDBRows, sqs: "SQSClient", queue_url: str
) -> None:
    sent = send(sqs, queue_url, [body(usage("e1")), body(usage("e2", user="ben"))])
    event = {"Records": receive(sqs, queue_url)}

    failed = debit_runs.failed_ids(event, LITTLE_TIME)

    assert failed == sent
    assert receive(sqs, queue_url) == []
    assert recorded(world, ANA) == recorded(world, BEN) == []
    reasons = {line["reason"] for line in debit_runs.lines("postponed")}
    assert reasons == {"OutOfTime: the function's time is up"}


def test_an_unavailable_queue_only_delays_messages(
    debit_runs: Function,
    world: DynamoDBRows,
    sqs: "SQSClient",
    queue_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, bad = send(sqs, queue_url, [body(usage("e1")), "{"])
    event = {"Records": receive(sqs, queue_url)}

    def no_answer(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url=queue_url)

    client = debit_runs.app.run_queue()._client
    client.meta.events.register("before-call.sqs.ChangeMessageVisibilityBatch", no_answer)
    failed = debit_runs.failed_ids(event)

    assert failed == [bad]
    assert recorded(world, ANA) == ["e1"]
    assert len(debit_runs.lines("messages return only later")) == 1
    metrics = emitted(capsys.readouterr().out)
    assert metrics[of_stack("MessagesPostponed", "debit_runs")] == 1
    assert metrics[of_stack("MessagesPostponed", "debit_runs", cause="QueueUnavailable")] == 1


@pytest.mark.usefixtures("world")
def test_one_line_is_logged_per_commit_and_rejection_and_never_a_body(
    debit_runs: Function, sqs: "SQSClient", queue_url: str
) -> None:
    secret = "s3cr3t-value"
    sent = send(
        sqs,
        queue_url,
        [
            body(usage("e1", project_id=secret)),
            body({**usage("e2"), "type": secret}),
            body(usage("e3", secret)),
            body(usage("e4", run="run-4", project_id=secret)),
        ],
    )

    debit_runs.invoke({"Records": receive(sqs, queue_url)})

    (recorded,) = debit_runs.lines("recorded")
    wanted = {
        "principal": "user:ana",
        "version": 2,
        "run_ids": "run-1 run-4",
        "debited": "e1 e4",
        "service": "debit_runs",
    }
    assert {name: recorded[name] for name in wanted} == wanted
    # Every further byte would be paid for on each line.
    assert recorded.keys() - wanted.keys() == {
        "level",
        "message",
        "timestamp",
        "function_request_id",
    }
    rejected = debit_runs.lines("rejected")
    assert [(line["message_id"], line["code"]) for line in rejected] == [
        (sent[1], "malformed"),
        (sent[2], "malformed"),
    ]
    assert secret not in debit_runs.log.getvalue()
    assert len(debit_runs.log.getvalue().splitlines()) == 3


@pytest.mark.usefixtures("world")
def test_at_debug_each_event_has_a_line_of_its_own_too(
    at_debug: Function, sqs: "SQSClient", queue_url: str
) -> None:
    sent = send(sqs, queue_url, [body(usage("e1"), usage("e2"))])

    at_debug.invoke({"Records": receive(sqs, queue_url)})

    assert len(at_debug.lines("recorded")) == 1
    debited = at_debug.lines("debited")
    wanted = {"message_id": sent[0], "run_id": "run-1", "principal": "user:ana", "version": 2}
    for line, event_id in zip(debited, ("e1", "e2"), strict=True):
        assert line["level"] == "DEBUG"
        assert {name: line[name] for name in wanted} == wanted
        assert line["event_id"] == event_id


@pytest.mark.usefixtures("world")
def test_the_metrics_of_a_batch_are_written_in_the_embedded_format(
    debit_runs: Function,
    sqs: "SQSClient",
    queue_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    send(sqs, queue_url, ["{", body(usage("e1", "5000")), body(usage("e2", "5000"))])

    debit_runs.invoke({"Records": receive(sqs, queue_url)})

    cold_start, metrics = [
        json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line
    ]
    assert cold_start["ColdStart"] == [1.0]
    assert (metrics["stack"], metrics["service"]) == ("agent-credits", "debit_runs")
    assert metrics["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "AgentCredits"
    assert metrics["MessagesRejected"] == [1.0]
    assert metrics["RunsFailed"] == [1.0]
    assert metrics["CompareAndSetRetries"] == [0.0]


def test_the_sample_batch_fails_exactly_its_invalid_messages(
    debit_runs: Function, world: DynamoDBRows
) -> None:
    event = json.loads((FOLDER / "sqs_batch.json").read_text())
    acme_alone = {"Records": [r for r in event["Records"] if "acme" in r["body"]]}

    failed = debit_runs.failed_ids(acme_alone)

    bad_ids = [r["messageId"] for r in acme_alone["Records"][1:]]
    assert failed == bad_ids
    assert recorded(world, ANA) == ["evt-user-run"]
    assert recorded(world, BEN) == ["evt-neighbour-1", "evt-neighbour-2"]


def test_the_ledger_explains_the_row_after_a_long_history(
    debit_runs: Function, world: DynamoDBRows, sqs: "SQSClient", queue_url: str
) -> None:
    documents = [usage(f"e{n}", "3.25", run=f"run-{n % 5}") for n in range(60)]
    documents.append(finished("end", "error", run="run-1"))
    for start in range(0, len(documents), 7):
        send(sqs, queue_url, [body(d) for d in documents[start : start + 7]])

        assert debit_runs.failed_ids({"Records": receive(sqs, queue_url)}) == []

    account = world.read_account(ANA)
    assert account is not None
    assert sorted(recorded(world, ANA)) == sorted(d["id"] for d in documents)
    assert remaining_by_grant(entries(world, ANA)) == remaining_on(account)
    assert account.page_number > 1
