"""Every graph of the dashboard shows metrics that exist, and says what to do."""

import itertools
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest

from agent_credits.values import errors
from tests.emitted_metrics import NAMESPACE, by_the_code
from tests.template import Template, load_template

# What AWS emits with one dimension, and the type of the resource that its value names.
DIMENSION_OF_AWS = {
    "AWS/ApiGateway": ("ApiId", "AWS::ApiGatewayV2::Api", ""),
    "AWS/DynamoDB": ("TableName", "AWS::DynamoDB::Table", ""),
    "AWS/Lambda": ("FunctionName", "AWS::Serverless::Function", ""),
    "AWS/SQS": ("QueueName", "AWS::SQS::Queue", ".QueueName"),
}
METRICS_OF_AWS = {
    "AWS/ApiGateway": {"4xx", "5xx", "Count", "Latency"},
    "AWS/DynamoDB": {"ReadThrottleEvents", "WriteThrottleEvents"},
    "AWS/Lambda": {"Duration", "Errors", "Invocations", "IteratorAge", "Throttles"},
    "AWS/SQS": {
        "ApproximateAgeOfOldestMessage",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesVisible",
        "NumberOfMessagesSent",
    },
}
SEARCH = re.compile(
    r"SEARCH\('\{(?P<schema>[\w/,]+)\} (?P<terms>(?:\w+=\"[^\"]+\" ?)+)', ?'\w+', ?\d+\)"
)
TERM = re.compile(r"(\w+)=\"([^\"]+)\"")
ALARM = re.compile(r"\b\w+Alarm\b")
GRID_COLUMNS = 24
GRAPHS_MIN = 12
# The quotas of CloudWatch.
METRICS_PER_GRAPH_MAX = 500


class Shown(NamedTuple):
    """A metric of a graph. `values` lacks the dimensions that a SEARCH leaves open."""

    namespace: str
    name: str
    dimensions: frozenset[str]
    values: dict[str, str]
    stat: str


def body(template: Template, *, has_slack: bool) -> dict[str, Any]:
    text, variables = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    for name, value in variables.items():
        condition, when_true, when_false = value["Fn::If"]
        assert condition in ("HasSlackNotices", "HasApi")
        text = text.replace(f"${{{name}}}", when_true["Fn::Sub"] if has_slack else when_false)
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def graphs(template: Template, *, has_slack: bool) -> list[dict[str, Any]]:
    widgets = body(template, has_slack=has_slack)["widgets"]
    return [widget["properties"] for widget in widgets if widget["type"] == "metric"]


def shown(graph: dict[str, Any]) -> Iterator[Shown]:
    """Yield the metrics of a graph, with the dots of CloudWatch's shorthand written out."""
    before: list[str] = []
    for metric in graph["metrics"]:
        options = metric[-1] if isinstance(metric[-1], dict) else {}
        if "expression" in options:
            yield _searched(options["expression"])
            continue
        fields = [field for field in metric if isinstance(field, str)]
        if fields[0] == "...":
            fields = [*before[: len(before) - len(fields) + 1], *fields[1:]]
        before = [before[i] if field == "." else field for i, field in enumerate(fields)]
        namespace, name, *pairs = before
        values = dict(zip(pairs[::2], pairs[1::2], strict=True))
        stat = options.get("stat", graph["stat"])
        yield Shown(namespace, name, frozenset(values), values, stat)


def _searched(expression: str) -> Shown:
    found = SEARCH.fullmatch(expression)
    assert found, expression
    namespace, *dimensions = found["schema"].split(",")
    values = dict(TERM.findall(found["terms"]))
    return Shown(namespace, values.pop("MetricName"), frozenset(dimensions), values, "Sum")


def metrics_that_nobody_emits(template: Template, *, has_slack: bool) -> Iterator[str]:
    for graph in graphs(template, has_slack=has_slack):
        for metric in shown(graph):
            check = _wrong_with_own if metric.namespace == NAMESPACE else _wrong_with_aws
            yield from (
                f"{graph['title']}: {metric.name} {wrong}"
                for wrong in check(template, metric, has_slack=has_slack)
            )


def _wrong_with_own(template: Template, metric: Shown, *, has_slack: bool) -> Iterator[str]:
    values = dict(metric.values)
    service = values.pop("service", "")
    if (service, metric.name, metric.dimensions) not in by_the_code():
        yield f"is not emitted by {service} with the dimensions {sorted(metric.dimensions)}"
    if values.pop("stack", "${AWS::StackName}") != "${AWS::StackName}":
        yield "is of another stack"
    if function := values.pop("function_name", ""):
        resource = _resource(template, function, "AWS::Serverless::Function", has_slack=has_slack)
        variables = resource.get("Environment", {}).get("Variables", {})
        if variables.get("POWERTOOLS_SERVICE_NAME") != service:
            yield f"is not of {function}"
    if not hasattr(errors, values.pop("cause", "AgentCreditsError")):
        yield "is by a cause that is no error"
    if values:
        yield f"is by {values}, which nothing emits"


def _wrong_with_aws(template: Template, metric: Shown, *, has_slack: bool) -> Iterator[str]:
    if metric.name not in METRICS_OF_AWS[metric.namespace]:
        yield f"is none of {metric.namespace}"
    dimension, resource_type, attribute = DIMENSION_OF_AWS[metric.namespace]
    value = metric.values.get(dimension, "")
    if metric.dimensions != {dimension}:
        yield f"has the dimensions {sorted(metric.dimensions)}"
    elif not value.endswith(f"{attribute}}}") or not _resource(
        template, value.replace(attribute, ""), resource_type, has_slack=has_slack
    ):
        yield f"is of {value}"


def _resource(
    template: Template, reference: str, resource_type: str, *, has_slack: bool
) -> dict[str, Any]:
    """Return what `${Name}` names; empty unless it is of the type, and is deployed."""
    resource = template["Resources"].get(reference.removeprefix("${").removesuffix("}"), {})
    is_deployed = has_slack or "Condition" not in resource
    if resource.get("Type") != resource_type or not is_deployed:
        return {}
    properties: dict[str, Any] = resource["Properties"]
    return properties


@cache
def everything_shown() -> frozenset[tuple[str, str, str]]:
    """Return each metric with the resource that it is of, and its statistic."""
    return frozenset(
        (metric.name, value.removeprefix("${").removesuffix("}").removesuffix(".QueueName"), stat)
        for graph in graphs(load_template(), has_slack=True)
        for metric in shown(graph)
        for value, stat in zip(metric.values.values(), itertools.repeat(metric.stat))
    )


def named(resource_type: str) -> list[str]:
    resources = load_template()["Resources"].items()
    return [name for name, resource in resources if resource["Type"] == resource_type]


@pytest.mark.parametrize("has_slack", [True, False])
def test_every_metric_is_one_that_the_code_or_aws_emits(has_slack: bool) -> None:
    assert list(metrics_that_nobody_emits(load_template(), has_slack=has_slack)) == []


@pytest.mark.parametrize("has_slack", [True, False])
def test_beside_each_graph_a_text_says_what_to_do(has_slack: bool) -> None:
    header, *rest = body(load_template(), has_slack=has_slack)["widgets"]

    assert header["width"] == GRID_COLUMNS
    assert len(rest) >= 2 * GRAPHS_MIN
    for graph, text in zip(rest[::2], rest[1::2], strict=True):
        assert (graph["type"], text["type"]) == ("metric", "text")
        # Two graphs with their texts fill a row, so that each text stands beside its graph.
        assert 2 * (graph["width"] + text["width"]) == GRID_COLUMNS
        assert graph["height"] == text["height"]
        assert len(text["properties"]["markdown"]) > 100
        assert len(graph["properties"]["metrics"]) <= METRICS_PER_GRAPH_MAX


def test_a_text_names_alarms_that_exist() -> None:
    text = json.dumps(body(load_template(), has_slack=True))

    named_alarms = set(ALARM.findall(text))

    assert len(named_alarms) >= 5
    assert named_alarms <= set(named("AWS::CloudWatch::Alarm"))


@pytest.mark.parametrize("function", named("AWS::Serverless::Function"))
def test_every_function_is_shown(function: str) -> None:
    metrics = {
        ("Duration", function, "p50"),
        ("Duration", function, "p99"),
        ("Errors", function, "Sum"),
        ("Throttles", function, "Sum"),
        ("ColdStart", function, "Sum"),
    }

    assert metrics <= everything_shown()


@pytest.mark.parametrize("queue", named("AWS::SQS::Queue"))
def test_every_queue_is_shown(queue: str) -> None:
    consumed = {
        source["Properties"]["Queue"]["Fn::GetAtt"][0]
        for function in named("AWS::Serverless::Function")
        for source in load_template()["Resources"][function]["Properties"]
        .get("Events", {})
        .values()
        if source["Type"] == "SQS"
    }

    assert ("ApproximateNumberOfMessagesVisible", queue, "Maximum") in everything_shown()
    if queue in consumed:
        assert ("ApproximateAgeOfOldestMessage", queue, "Maximum") in everything_shown()


def test_two_stacks_of_an_account_have_two_dashboards() -> None:
    # Names of dashboards are global, so that the region is part of it.
    properties = load_template()["Resources"]["Dashboard"]["Properties"]

    assert properties["DashboardName"] == {"Fn::Sub": "${AWS::StackName}-${AWS::Region}"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"EventsReceived"', '"EventsSeen"'),
        ('"service","debit_runs"', '"service","sweep"'),
        ('"stack","${AWS::StackName}"', '"stack","agent-credits"'),
        ('"cause","Contended"', '"type","Contended"'),
        ('"cause","Contended"', '"cause","Unlucky"'),
        ('"ApproximateAgeOfOldestMessage"', '"AgeOfOldestMessage"'),
        ("${ReloadsQueue.QueueName}", "${ReloadsQueue}"),
        ("${ReloadsQueue.QueueName}", "${SlackQueue.QueueName}"),
        ('"FunctionName","${Announce}"', '"FunctionName","${AccountsTable}"'),
        ('"function_name","${DebitRuns}"', '"function_name","${Sweep}"'),
        ("{AgentCredits,cause,service,stack}", "{AgentCredits,cause,stack}"),
        ('service=\\"announce\\"', 'service=\\"debit_runs\\"'),
    ],
)
def test_a_metric_that_nobody_emits_is_noticed(right: str, wrong: str) -> None:
    template = load_template()
    sub = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    assert right in sub[0]

    sub[0] = sub[0].replace(right, wrong, 1)

    assert list(metrics_that_nobody_emits(template, has_slack=False)) != []
