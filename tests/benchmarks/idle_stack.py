"""What a stack costs a month while nothing happens, counted from the template as it is deployed."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.cost_model import MILLION, Assumptions, PriceFile, Prices
from tests.template import Template, deployed

HOURS_PER_MONTH = 730
EVERY_PART = {"SlackNotices": "true", "BalanceReports": "true"}
# Of a dashboard's body, in which a metric is ["namespace", "name", ...].
OWN_METRIC = re.compile(r'\["AgentCredits", ?"(?P<name>\w+)"')

Resources = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Share:
    """One kind of thing that is paid for by its being there."""

    what: str
    count: int
    dollars_each: float

    @property
    def dollars(self) -> float:
        return self.count * self.dollars_each


@dataclass(frozen=True, slots=True)
class IdleStacks:
    """The stack as it is deployed by default, and with every part that a parameter adds.

    `custom_metrics` are those of the latter, which are paid for only while events come.
    """

    by_default: tuple[Share, ...]
    with_every_part: tuple[Share, ...]
    custom_metrics: int


def idle_stacks(template: Template, file: PriceFile) -> IdleStacks:
    with_every_part = deployed(template, **EVERY_PART)
    return IdleStacks(
        by_default=shares_of(deployed(template), file.prices, file.assumptions),
        with_every_part=shares_of(with_every_part, file.prices, file.assumptions),
        custom_metrics=len(custom_metrics(with_every_part)),
    )


def shares_of(resources: Resources, prices: Prices, assumptions: Assumptions) -> tuple[Share, ...]:
    """Return what is paid for each month without an event."""
    return (
        Share(
            "alarms, by the metrics that they watch",
            _alarm_metrics(resources),
            prices.alarm_per_month,
        ),
        Share(
            "dashboards",
            _count(resources, "AWS::CloudWatch::Dashboard"),
            prices.dashboard_per_month,
        ),
        Share("keys", _count(resources, "AWS::KMS::Key"), prices.key_per_month),
        Share("secrets", _count(resources, "AWS::SecretsManager::Secret"), prices.secret_per_month),
        Share("queues that Lambda polls", _polled_queues(resources), _polling(prices, assumptions)),
    )


def custom_metrics(resources: Resources) -> frozenset[str]:
    """Return the names of the stack's own metrics that its alarms and dashboards show.

    They are paid for by the hours in which they have a value, and so not by an idle stack.
    """
    return frozenset(_custom_metrics(resources))


def _custom_metrics(resources: Resources) -> Iterator[str]:
    for metric in _metrics_of_alarms(resources):
        if metric["Namespace"] == "AgentCredits":
            yield metric["MetricName"]
    for dashboard in _of_type(resources, "AWS::CloudWatch::Dashboard"):
        body = dashboard["DashboardBody"]
        text = body if isinstance(body, str) else _texts(body)
        yield from (found["name"] for found in OWN_METRIC.finditer(text))


def _texts(value: Any) -> str:
    """Return all texts of an intrinsic function, such as a Fn::Sub around a body."""
    if isinstance(value, str):
        return value
    parts = value.values() if isinstance(value, dict) else value
    return " ".join(_texts(part) for part in parts)


def _alarm_metrics(resources: Resources) -> int:
    return sum(1 for _ in _metrics_of_alarms(resources))


def _metrics_of_alarms(resources: Resources) -> Iterator[Mapping[str, Any]]:
    """Yield each metric of each alarm; an alarm on an expression watches several."""
    for alarm in _of_type(resources, "AWS::CloudWatch::Alarm"):
        if "MetricName" in alarm:
            yield alarm
        for part in alarm.get("Metrics", []):
            if "MetricStat" in part:
                yield part["MetricStat"]["Metric"]


def _polled_queues(resources: Resources) -> int:
    queues = {name for name, r in resources.items() if r["Type"] == "AWS::SQS::Queue"}
    sources = [
        json.dumps(mapping["EventSourceArn"])
        for mapping in _of_type(resources, "AWS::Lambda::EventSourceMapping")
    ]
    return sum(any(f'"{queue}"' in source for queue in queues) for source in sources)


def _polling(prices: Prices, assumptions: Assumptions) -> float:
    """Return what Lambda's requests to one empty queue cost in a month."""
    polls = HOURS_PER_MONTH * 3_600 / assumptions.idle_poll_seconds
    requests = polls * assumptions.idle_pollers_per_queue
    return requests / MILLION * prices.sqs_request_per_million


def _count(resources: Resources, kind: str) -> int:
    return len(list(_of_type(resources, kind)))


def _of_type(resources: Resources, kind: str) -> Iterator[Mapping[str, Any]]:
    """Yield the properties of every resource of a type."""
    for resource in resources.values():
        if resource["Type"] == kind:
            yield resource.get("Properties", {})
