"""What is postponed is counted by cause, in the metrics that alarms watch."""

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from tests.emitted_metrics import emitted, of_stack, watched
from tests.integration.lambda_runtime import Context, Function, cold_start, receive, send
from tests.template import load_template
from tests.unit.builders import ACME, ANA, POLICY, body, grant_change, open_account, usage

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

ALARM = load_template()["Resources"]["EventsPostponedAlarm"]["Properties"]


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "refused"}}, "AnyOperation")


REFUSALS: dict[str, BotoCoreError | ClientError] = {
    "unavailable": refused("InternalServerError"),
    "throttled": refused("ProvisionedThroughputExceededException"),
    "denied": refused("AccessDeniedException"),
    "no answer": ReadTimeoutError(endpoint_url="https://dynamodb.example"),
}


@pytest.fixture
def debit_runs(
    rows: DynamoDBRows, debit_runs_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Function:
    rows.put_policy(POLICY)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
    open_account(rows, grant_change("g-1", credits="1000", principal=ANA))
    return cold_start("debit_runs", debit_runs_environment, monkeypatch)


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_where_dynamodb_refuses_everything_the_alarms_metric_counts_every_message(
    debit_runs: Function,
    sqs: "SQSClient",
    queue_url: str,
    refusal: BotoCoreError | ClientError,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(**_: Any) -> None:
        raise refusal

    debit_runs.app.rows._client.meta.events.register("before-call.dynamodb", refuse)
    sent = send(sqs, queue_url, [body(usage("e1")), body(usage("e2"), usage("e3"))])

    # The function ends well, so Lambda counts no error.
    failed = debit_runs.failed_ids({"Records": receive(sqs, queue_url)})

    metrics = emitted(capsys.readouterr().out)
    assert failed == sent
    assert metrics[watched(ALARM)] == 2 > ALARM["Threshold"]
    assert metrics[of_stack("MessagesPostponed", "debit_runs", cause="RowsUnavailable")] == 2
    assert metrics[of_stack("EventsReceived", "debit_runs")] == 3
    assert metrics[of_stack("EventsDebited", "debit_runs")] == 0


def test_a_function_that_runs_out_of_time_says_so(
    debit_runs: Function, sqs: "SQSClient", queue_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    send(sqs, queue_url, [body(usage("e1"))])

    debit_runs.invoke({"Records": receive(sqs, queue_url)}, Context(remaining_milliseconds=1))

    metrics = emitted(capsys.readouterr().out)
    assert metrics[of_stack("MessagesPostponed", "debit_runs", cause="OutOfTime")] == 1


def test_a_good_batch_postpones_nothing(
    debit_runs: Function, sqs: "SQSClient", queue_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    send(sqs, queue_url, [body(usage("e1"), usage("e2")), "{"])

    debit_runs.invoke({"Records": receive(sqs, queue_url)})

    metrics = emitted(capsys.readouterr().out)
    assert metrics[watched(ALARM)] == 0
    assert metrics[of_stack("EventsReceived", "debit_runs")] == 3
    assert metrics[of_stack("EventsDebited", "debit_runs")] == 2
    assert metrics[of_stack("MessagesRejected", "debit_runs")] == 1
    assert not any(name == "cause" for metric in metrics for name, _ in metric.dimensions)
