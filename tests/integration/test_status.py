"""`agent-credits status`: what it reads of a stack, and when it says that something is wrong."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import typer
from botocore.exceptions import ReadTimeoutError
from typer.testing import CliRunner, Result

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.sweeps.last_sweep import LastSweep
from agent_credits_cli import stack_status
from agent_credits_cli.commands import status
from agent_credits_cli.errors import CommandGroup
from agent_credits_cli.stack_status import AGE_WINDOW, IMPATIENT
from agent_credits_cli.target import Target
from tests.unit.builders import NOW

if TYPE_CHECKING:
    from botocore.config import Config
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

Run = Callable[..., Result]

STACK = {
    "StackStatus": "UPDATE_COMPLETE",
    "CreationTime": NOW - timedelta(days=1),
    "LastUpdatedTime": NOW,
    "Outputs": [
        {"OutputKey": "StackVersion", "OutputValue": "9.9.9"},
        {"OutputKey": "FunctionsRuntime", "OutputValue": "python3.13"},
    ],
}


class CloudFormation:
    """Stands in for CloudFormation: moto's needs the packages of every other service."""

    def __init__(self) -> None:
        self.stack: dict[str, Any] = STACK
        self.alarms: dict[str, str] = {}

    def describe_stacks(self, **_: object) -> dict[str, Any]:
        return {"Stacks": [self.stack]}

    def get_paginator(self, operation: str) -> "CloudFormation":
        assert operation == "list_stack_resources"
        return self

    def paginate(self, **_: object) -> Iterator[dict[str, Any]]:
        for name, alarm in self.alarms.items():
            resource = {"ResourceType": "AWS::CloudWatch::Alarm", "LogicalResourceId": name}
            yield {"StackResourceSummaries": [resource | {"PhysicalResourceId": alarm}]}
        other = {"ResourceType": "AWS::SQS::Queue", "LogicalResourceId": "Queue"}
        yield {"StackResourceSummaries": [other | {"PhysicalResourceId": "alarm-of-another"}]}


@pytest.fixture
def cloudformation(monkeypatch: pytest.MonkeyPatch) -> CloudFormation:
    there = CloudFormation()
    monkeypatch.setattr(Target, "cloudformation", there)
    return there


@pytest.fixture
def stack(target: Target, sqs: "SQSClient", failures_bucket: str) -> Target:
    urls = {"announce_failures_bucket_name": failures_bucket}
    for name in ("agent_runs", "reloads", "sweeps"):
        for kind in ("queue_url", "dead_letter_queue_url"):
            url = sqs.create_queue(QueueName=f"{name}-{kind}".replace("_", "-"))["QueueUrl"]
            urls[f"{name}_{kind}"] = url
    return replace(target, outputs=target.outputs.model_copy(update=urls))


@pytest.fixture
def run(stack: Target, cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch) -> Run:
    assert cloudformation
    monkeypatch.setattr(status, "connect", lambda _: stack)
    app = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)
    app.command()(status.status)
    app.callback()(lambda: None)
    return lambda *arguments: CliRunner().invoke(app, ["status", *arguments])


def read(run: Run) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run("--json").stdout)
    return document


def make_alarm(stack: Target, cloudformation: CloudFormation, name: str, state: str) -> None:
    alarm = f"agent-credits-{name}-1A2B"
    stack.cloudwatch.put_metric_alarm(
        AlarmName=alarm,
        AlarmDescription=f"What to do about {name}.",
        EvaluationPeriods=1,
        ComparisonOperator="GreaterThanThreshold",
    )
    stack.cloudwatch.set_alarm_state(AlarmName=alarm, StateValue=state, StateReason="test")
    cloudformation.alarms[name] = alarm


def last_sweep(**counts: int) -> LastSweep:
    return LastSweep("reconciliation", NOW.date(), NOW, rows=30, visits=0, counts=counts)


def test_a_quiet_stack_needs_no_attention(
    run: Run, stack: Target, cloudformation: CloudFormation, rows: DynamoDBRows
) -> None:
    rows.put_last_sweep(last_sweep(AccountsReconciled=30))
    make_alarm(stack, cloudformation, "EventsLateAlarm", "OK")

    shown = run()

    assert shown.exit_code == 0
    assert shown.stdout.endswith("Nothing needs attention.\n")
    assert "stack 9.9.9, command line 0.1.0, functions on python3.13" in shown.stdout
    assert "Alarms: 1, of which 0 ring and 0 have no data yet." in shown.stdout
    assert read(run)["attention"] == []


def test_each_queue_is_shown_with_what_is_in_it(run: Run, stack: Target, sqs: "SQSClient") -> None:
    url = stack.outputs.agent_runs_queue_url
    for number in range(3):
        sqs.send_message(QueueUrl=url, MessageBody=str(number))
    sqs.send_message(QueueUrl=url, MessageBody="late", DelaySeconds=60)
    sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=1)

    first, *others = read(run)["queues"]

    assert first == {
        "queue": "agent-runs",
        "waiting": 2,
        "in_flight": 1,
        "delayed": 1,
        "oldest_seconds": None,
        "dead_letters": 0,
    }
    assert [one["queue"] for one in others] == ["reloads", "sweeps"]
    assert {one["waiting"] for one in others} == {0}


def test_the_age_is_the_newest_that_cloudwatch_has_and_none_from_long_ago(
    run: Run, stack: Target
) -> None:
    long_ago = AGE_WINDOW + timedelta(minutes=5)
    for url, ago, age in (
        (stack.outputs.agent_runs_queue_url, timedelta(minutes=7), 9.0),
        (stack.outputs.agent_runs_queue_url, timedelta(minutes=4), 70.0),
        (stack.outputs.reloads_queue_url, long_ago, 3_000.0),
    ):
        stack.cloudwatch.put_metric_data(
            Namespace="AWS/SQS",
            MetricData=[
                {
                    "MetricName": "ApproximateAgeOfOldestMessage",
                    "Dimensions": [{"Name": "QueueName", "Value": url.rpartition("/")[2]}],
                    "Timestamp": datetime.now(UTC) - ago,
                    "Value": age,
                }
            ],
        )

    ages = {one["queue"]: one["oldest_seconds"] for one in read(run)["queues"]}

    assert ages == {"agent-runs": 70, "reloads": None, "sweeps": None}
    assert "0:01:10" in run().stdout


def test_an_age_that_no_metric_tells_is_unknown_and_not_zero(
    run: Run, stack: Target, sqs: "SQSClient"
) -> None:
    sqs.send_message(QueueUrl=stack.outputs.agent_runs_queue_url, MessageBody="waiting")

    lines = {line.split()[0]: line.split() for line in run().stdout.splitlines() if line.strip()}

    assert lines["agent-runs"] == ["agent-runs", "1", "0", "0", "unknown", "0"]
    assert lines["reloads"] == ["reloads", "0", "0", "0", "none", "0"]


def test_dead_letters_need_attention(run: Run, stack: Target, sqs: "SQSClient") -> None:
    sqs.send_message(QueueUrl=stack.outputs.reloads_dead_letter_queue_url, MessageBody="stuck")

    shown = run()

    assert shown.exit_code == 1
    assert "! reloads has 1 dead letter: see `" in shown.stdout


def test_changes_that_were_set_aside_need_attention(
    run: Run, s3: "S3Client", failures_bucket: str
) -> None:
    assert read(run)["set_aside"] == 0
    for number in range(2):
        s3.put_object(Bucket=failures_bucket, Key=f"records/{number}.json", Body=b"{}")

    shown = run()

    assert shown.exit_code == 1
    assert "! changes that could not be announced are set aside in 2 objects: see `" in shown.stdout
    assert read(run)["set_aside"] == 2


def test_a_bucket_that_cannot_be_read_is_not_empty(
    run: Run, s3: "S3Client", failures_bucket: str
) -> None:
    s3.delete_bucket(Bucket=failures_bucket)

    document = read(run)

    assert document["set_aside"] is None
    (reason,) = document["attention"]
    assert reason.startswith("what was set aside cannot be read: ")


def test_an_alarm_that_rings_is_named_with_what_to_do(
    run: Run, stack: Target, cloudformation: CloudFormation
) -> None:
    make_alarm(stack, cloudformation, "EventsLateAlarm", "ALARM")
    make_alarm(stack, cloudformation, "DriftAlarm", "INSUFFICIENT_DATA")
    stack.cloudwatch.put_metric_alarm(
        AlarmName="alarm-of-another",
        EvaluationPeriods=1,
        ComparisonOperator="GreaterThanThreshold",
    )
    stack.cloudwatch.set_alarm_state(
        AlarmName="alarm-of-another", StateValue="ALARM", StateReason="test"
    )

    shown = run()

    assert shown.exit_code == 1
    assert "Alarms: 2, of which 1 ring and 1 have no data yet." in shown.stdout
    assert "\n  What to do about EventsLateAlarm.\n" in shown.stdout
    assert "! EventsLateAlarm rings" in shown.stdout
    (ringing,) = read(run)["alarms"]["ringing"]
    assert ringing["name"] == "EventsLateAlarm"


def test_a_stack_of_more_alarms_than_one_call_takes(
    run: Run, stack: Target, cloudformation: CloudFormation
) -> None:
    for number in range(130):
        make_alarm(stack, cloudformation, f"Alarm{number}", "ALARM" if number == 129 else "OK")

    alarms = read(run)["alarms"]

    assert alarms["total"] == 130
    assert [alarm["name"] for alarm in alarms["ringing"]] == ["Alarm129"]


def test_sweeps_are_shown_with_what_they_did(run: Run, rows: DynamoDBRows) -> None:
    rows.put_last_sweep(
        LastSweep("expiring_credits", NOW.date(), NOW, 1_200, 1, {"ExpiriesObserved": 3})
    )

    shown = run().stdout
    by_name = {sweep["sweep"]: sweep["last"] for sweep in read(run)["sweeps"]}

    assert by_name == {
        "reconciliation": None,
        "expiring_credits": {
            "day": str(NOW.date()),
            "ended_at": NOW.isoformat().replace("+00:00", "Z"),
            "rows": 1_200,
            "rows_left_to_visits": 1,
            "counts": {"ExpiriesObserved": 3},
        },
        "balance_reports": None,
    }
    assert "visited 1,200 rows, ExpiriesObserved 3, 1 row left to visits of their own" in shown


@pytest.mark.parametrize(
    ("finding", "sentence"),
    [
        ("AccountsDrifted", "found accounts that contradict their ledgers or limits: 2"),
        ("AccountsUnreadable", "found accounts that cannot be read: 2"),
        ("TeamsNotReported", "found teams without a balance report: 2"),
    ],
)
def test_what_a_sweep_found_wrong_needs_attention(
    run: Run, rows: DynamoDBRows, finding: str, sentence: str
) -> None:
    rows.put_last_sweep(last_sweep(AccountsReconciled=28, **{finding: 2}))

    shown = run()

    assert shown.exit_code == 1
    assert f"! the sweep reconciliation of {NOW.date()} {sentence}\n" in shown.stdout


def test_a_stack_whose_update_failed_needs_attention(
    run: Run, cloudformation: CloudFormation
) -> None:
    cloudformation.stack = STACK | {"StackStatus": "UPDATE_ROLLBACK_FAILED"}

    assert read(run)["attention"] == ["the stack is in UPDATE_ROLLBACK_FAILED"]


def test_what_cannot_be_read_is_unknown_with_its_reason_and_the_rest_is_shown(
    run: Run, stack: Target, sqs: "SQSClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_time(*_: object, **__: object) -> None:
        raise ReadTimeoutError(endpoint_url="https://monitoring")

    sqs.delete_queue(QueueUrl=stack.outputs.reloads_queue_url)
    for part in ("_ages", "_alarms", "_versions"):
        monkeypatch.setattr(stack_status, part, out_of_time)

    shown, document = run(), read(run)

    assert shown.exit_code == 1
    assert document["versions"] is None
    assert document["alarms"] is None
    depths = {one["queue"]: one["waiting"] for one in document["queues"]}
    assert depths == {"agent-runs": 0, "reloads": None, "sweeps": 0}
    reasons = "\n".join(document["attention"])
    assert reasons.count("Read timeout on endpoint URL") == 3
    assert "the queue reloads cannot be read: " in reasons
    assert "the age of messages cannot be read: " in reasons


def test_a_table_that_does_not_answer_is_no_sweep_that_never_ran(
    run: Run, stack: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = stack.outputs.model_copy(update={"accounts_table_name": "no-such-table"})
    monkeypatch.setattr(status, "connect", lambda _: replace(stack, outputs=outputs))

    shown = run()

    assert shown.exit_code == 1
    assert "the last sweep reconciliation cannot be read: " in shown.stdout
    assert "never" not in shown.stdout


def test_a_call_that_hangs_ends_within_seconds(
    stack: Target, cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cloudformation
    used: list[Config] = []
    monkeypatch.setattr(
        stack_status, "rows_of", lambda target: used.append(target.config) or _NoRows()
    )

    stack_status.read_status(stack, NOW)

    (config,) = used
    seconds = config.connect_timeout + config.read_timeout
    attempts = config.retries["total_max_attempts"]
    assert (seconds, attempts) == (IMPATIENT.connect_timeout + IMPATIENT.read_timeout, 2)
    assert seconds * attempts < 20


class _NoRows:
    def read_last_sweep(self, _: str) -> None:
        return None
