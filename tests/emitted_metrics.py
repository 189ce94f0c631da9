"""Metrics as CloudWatch knows them: what the code can emit, what a function printed, and what an
alarm watches."""

import ast
import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from agent_credits.aws.http_api import COUNTED
from agent_credits.intake.debited_batch import DebitedBatch
from agent_credits.notices.slack_posts import metric_of

ROOT = Path(__file__).parents[1]
SWEEPS = ROOT / "shared" / "agent_credits" / "sweeps"
NAMESPACE = "AgentCredits"


class Metric(NamedTuple):
    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]


class Emitted(NamedTuple):
    """A metric that a function can emit, and the names of its dimensions."""

    service: str
    name: str
    dimensions: frozenset[str]


def of_stack(name: str, service: str, stack: str = "agent-credits", **more: str) -> Metric:
    """Return a metric that a function of the stack emits."""
    dimensions = {"stack": stack, "service": service, **more}
    return Metric(NAMESPACE, name, frozenset(dimensions.items()))


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
                    name = metric["Name"]
                    # Otherwise what is derived from the code would not be all there is.
                    assert Emitted(document["service"], name, frozenset(names)) in by_the_code()
                    key = Metric(directive["Namespace"], name, dimensions)
                    found[key] += int(sum(document[name]))
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


@cache
def by_the_code() -> frozenset[Emitted]:
    """Return every metric that a function can emit."""
    functions = (ROOT / "functions").glob("*/app.py")
    return frozenset(
        found for path in functions for found in _of_function(path.parent.name, _parsed(path))
    )


def _of_function(service: str, tree: ast.Module) -> Iterator[Emitted]:
    usual = frozenset({"stack", "service"})
    for call in _calls(tree):
        match call:
            case ast.Call(func=ast.Name(id="add_counts"), args=[_, ast.Dict(keys=names)]):
                for name in names:
                    assert name is not None, "nothing is spread into a dict of counts"
                    yield from (Emitted(service, known, usual) for known in _names(service, name))
            case ast.Call(func=ast.Name(id="add_counts"), args=[_, counts]):
                yield from (Emitted(service, known, usual) for known in _names(service, counts))
            case ast.Call(func=ast.Attribute(attr="add_metric")):
                raise LookupError(f"{service} emits a metric by another way than add_counts")
            case ast.Call(
                func=ast.Name(id="add_counts_by"),
                args=[_, name, ast.Constant(value=str(dimension)), _],
            ):
                dimensions = usual | {dimension}
                yield from (Emitted(service, known, dimensions) for known in _names(service, name))
            case ast.Call(
                func=ast.Attribute(attr="log_metrics"),
                keywords=[ast.keyword(arg="capture_cold_start_metric")],
            ):
                yield Emitted(service, "ColdStart", frozenset({"function_name", "service"}))


def _names(service: str, name: ast.expr) -> set[str]:
    """Return the names that an expression can stand for in this function."""
    match name:
        case ast.Constant(value=str(constant)):
            return {constant}
        case ast.Call(func=ast.Name(id="metric_of")):
            return set(get_args(get_type_hints(metric_of)["return"]))
        case ast.Attribute(attr="counts") if service == "debit_runs":
            return set(DebitedBatch({}, unsigned=0).counts)
        case ast.Attribute(attr="counts") if service == "api":
            return {*COUNTED, "RequestsUndecided", "RequestsFailed"}
        case ast.Attribute(attr="counts") if service == "sweep":
            return set(_counted_by_sweeps())
    raise LookupError(f"{service} emits a metric of an unknown name: {ast.unparse(name)}")


def _counted_by_sweeps() -> Iterator[str]:
    for path in SWEEPS.glob("*_sweep.py"):
        tree = _parsed(path)
        for call in _calls(tree):
            if isinstance(call.func, ast.Name) and call.func.id == "Counter":
                yield from (keyword.arg for keyword in call.keywords if keyword.arg)
        for node in ast.walk(tree):
            match node:
                case ast.AugAssign(target=ast.Subscript(slice=ast.Constant(value=str(name)))):
                    yield name


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())
