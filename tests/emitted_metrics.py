"""Metrics as CloudWatch knows them: what a function printed, and what an alarm watches."""

import json
from collections import Counter
from typing import Any, NamedTuple


class Metric(NamedTuple):
    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]


def of_stack(name: str, service: str, stack: str = "agent-credits", **more: str) -> Metric:
    """Return a metric that a function of the stack emits."""
    dimensions = {"stack": stack, "service": service, **more}
    return Metric("AgentCredits", name, frozenset(dimensions.items()))


def emitted(printed: str) -> Counter[Metric]:
    """Return what the lines of the embedded metric format add up to."""
    found: Counter[Metric] = Counter()
    for line in printed.splitlines():
        if '"_aws"' not in line:
            continue
        document = json.loads(line)
        for directive in document["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = frozenset((name, document[name]) for name in names)
                for metric in directive["Metrics"]:
                    key = Metric(directive["Namespace"], metric["Name"], dimensions)
                    found[key] += int(sum(document[metric["Name"]]))
    return found


def watched(alarm: dict[str, Any], stack: str = "agent-credits") -> Metric:
    """Return the metric of an alarm of the template on what a function emits."""
    dimensions = {dimension["Name"]: dimension["Value"] for dimension in alarm["Dimensions"]}
    assert dimensions["stack"] == {"Ref": "AWS::StackName"}
    return Metric(
        alarm["Namespace"],
        alarm["MetricName"],
        frozenset({**dimensions, "stack": stack}.items()),
    )
