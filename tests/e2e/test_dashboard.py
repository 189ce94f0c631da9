"""The dashboard as it is deployed, beside what the deployed functions really emit."""

import json
from collections import Counter

import pytest

from agent_credits_demo.sample_run import SampleRun
from agent_credits_local.target import LocalTarget
from tests.emitted_metrics import Metric, emitted, of_stack
from tests.repository.test_dashboard import shown

STACK = "agent-credits"
FUNCTIONS = ("debit_runs", "announce", "auto_reload", "notify_slack")
# What the samples make happen, so that its graphs show it.
SEEN_IN_THE_DEMO = {
    of_stack("EventsReceived", "debit_runs"),
    of_stack("EventsDebited", "debit_runs"),
    of_stack("RunsFailed", "debit_runs"),
    of_stack("MessagesWaiting", "debit_runs"),
    of_stack("MessagesRejected", "debit_runs"),
    of_stack("ReloadsGranted", "auto_reload"),
    of_stack("ReloadsDeclined", "auto_reload"),
    of_stack("ReloadSpendCents", "auto_reload", currency="usd"),
    of_stack("NoticesPublished", "announce", type="insufficient_credits"),
    of_stack("NoticesPosted", "notify_slack"),
}


@pytest.fixture(scope="module")
def metrics(run: SampleRun, stack: LocalTarget) -> Counter[Metric]:
    """Return what the logs of the functions add up to, as CloudWatch would count it."""
    assert run.is_as_expected
    pages = (
        page
        for function in FUNCTIONS
        for page in stack.logs.get_paginator("filter_log_events").paginate(
            logGroupName=f"/aws/lambda/{STACK}/{function}"
        )
    )
    return emitted("\n".join(event["message"] for page in pages for event in page["events"]))


@pytest.fixture(scope="module")
def dashboard(stack: LocalTarget) -> list[dict[str, object]]:
    cloudwatch = stack.session.client(
        "cloudwatch", endpoint_url=stack.endpoint_url, config=stack.config
    )
    name = f"{STACK}-{stack.session.region_name}"
    body = json.loads(cloudwatch.get_dashboard(DashboardName=name)["DashboardBody"])
    return [widget["properties"] for widget in body["widgets"] if widget["type"] == "metric"]


def test_every_name_in_the_dashboard_is_filled_in(dashboard: list[dict[str, object]]) -> None:
    assert len(dashboard) >= 14
    assert "${" not in json.dumps(dashboard)


def test_the_graphs_show_what_happens_in_the_demo(
    dashboard: list[dict[str, object]], metrics: Counter[Metric]
) -> None:
    graphed = [metric for graph in dashboard for metric in shown(graph)]

    for metric in SEEN_IN_THE_DEMO:
        assert metrics[metric] > 0
        values = dict(metric.dimensions)
        assert any(
            graph.name == metric.name
            and graph.dimensions == values.keys()
            and graph.values.items() <= values.items()
            for graph in graphed
        )


def test_the_cold_starts_that_are_graphed_are_those_of_the_deployed_functions(
    dashboard: list[dict[str, object]], metrics: Counter[Metric]
) -> None:
    graphed = {
        frozenset(metric.values.items())
        for graph in dashboard
        for metric in shown(graph)
        if metric.name == "ColdStart"
    }

    seen = {metric.dimensions for metric in metrics if metric.name == "ColdStart"}
    assert len(seen) == len(FUNCTIONS)
    assert seen < graphed
