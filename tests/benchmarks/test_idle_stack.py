"""What an idle stack costs is counted from the template, and the written figures are of today's."""

import json
from typing import Any

import pytest

from tests.benchmarks.cost_model import read_prices
from tests.benchmarks.idle_stack import Share, custom_metrics, idle_stacks, shares_of
from tests.benchmarks.log_bytes import LogBytes
from tests.benchmarks.report import RESULTS_FILE
from tests.benchmarks.results import modelled_part
from tests.benchmarks.test_cost_model import ASSUMPTIONS, PRICES
from tests.template import deployed, load_template

QUEUE = {"Type": "AWS::SQS::Queue"}
TABLE = {"Type": "AWS::DynamoDB::Table"}


@pytest.fixture(autouse=True)
def region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def mapping(source: str, attribute: str) -> dict[str, Any]:
    properties = {"EventSourceArn": {"Fn::GetAtt": [source, attribute]}}
    return {"Type": "AWS::Lambda::EventSourceMapping", "Properties": properties}


def alarm(**properties: Any) -> dict[str, Any]:
    return {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}


def metric(name: str, namespace: str = "AgentCredits") -> dict[str, Any]:
    return {"Namespace": namespace, "MetricName": name}


def dashboard(body: Any) -> dict[str, Any]:
    return {"Type": "AWS::CloudWatch::Dashboard", "Properties": {"DashboardBody": body}}


def counts(**resources: dict[str, Any]) -> dict[str, int]:
    shares = shares_of(resources, PRICES, ASSUMPTIONS)
    return {share.what.partition(",")[0]: share.count for share in shares if share.count}


def test_what_is_paid_for_by_being_there_is_counted() -> None:
    found = counts(
        Key={"Type": "AWS::KMS::Key"},
        Secret={"Type": "AWS::SecretsManager::Secret"},
        Another={"Type": "AWS::SecretsManager::Secret"},
        Board=dashboard("{}"),
        Topic={"Type": "AWS::SNS::Topic"},
    )

    assert found == {"keys": 1, "secrets": 2, "dashboards": 1}


def test_an_alarm_costs_as_much_as_the_metrics_that_it_watches() -> None:
    expression = {"Expression": "a / b", "Id": "c"}
    stats = [{"Id": i, "MetricStat": {"Metric": metric("Errors", "AWS/Lambda")}} for i in "ab"]

    found = counts(One=alarm(**metric("RunsFailed")), Two=alarm(Metrics=[expression, *stats]))

    assert found == {"alarms": 3}


def test_lambda_polls_queues_and_not_streams() -> None:
    found = counts(
        Queue=QUEUE,
        Unused=QUEUE,
        Table=TABLE,
        OfQueue=mapping("Queue", "Arn"),
        OfStream=mapping("Table", "StreamArn"),
    )

    assert found == {"queues that Lambda polls": 1}


def test_polling_an_empty_queue_costs_its_requests() -> None:
    (polled,) = [s for s in shares_of({}, PRICES, ASSUMPTIONS) if s.what.startswith("queues")]

    # Five requests of 20 s at a time, in 730 hours.
    assert polled.dollars_each == pytest.approx(730 * 180 * 5 / 1_000_000 * 0.5)


def test_the_stacks_own_metrics_are_found_in_alarms_and_dashboards() -> None:
    body = '{"widgets": [{"properties": {"metrics": [["AgentCredits", "RunsFailed", "stack"]]}}]}'
    resources = {
        "Own": alarm(**metric("AccountsDrifted")),
        "OfAws": alarm(**metric("Errors", "AWS/Lambda")),
        "Board": dashboard({"Fn::Sub": [body, {"name": {"Ref": "AWS::StackName"}}]}),
        "Plain": dashboard(body.replace("RunsFailed", "ReloadsOpen")),
    }

    assert custom_metrics(resources) == {"AccountsDrifted", "RunsFailed", "ReloadsOpen"}


def test_a_share_costs_its_count() -> None:
    assert Share("keys", 3, 1.5).dollars == 4.5


def test_a_part_that_a_parameter_adds_is_counted_only_with_it() -> None:
    template = load_template()

    by_default, with_slack = deployed(template), deployed(template, SlackNotices="true")

    assert "SlackQueue" not in by_default
    assert with_slack.keys() > by_default.keys()
    assert {"SlackQueue", "SlackDeadLetterQueue", "NotifySlack"} <= with_slack.keys()


def test_the_written_figures_are_those_of_the_template_and_the_prices() -> None:
    """Where this fails, run `make bench-model`."""
    results = json.loads(RESULTS_FILE.read_text())

    file = read_prices()
    log_bytes = LogBytes(**results["log_bytes"])
    part = modelled_part([], log_bytes, file, idle_stacks(load_template(), file))

    for name in ("idle_stacks", "prices"):
        assert results[name] == json.loads(json.dumps(part[name]))
