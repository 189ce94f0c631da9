"""What a function prints becomes metrics, on which alarms depend."""

import json
from typing import Any

import pytest

from tests.integration.lambda_runtime import (
    ROOT,
    environment_of,
    output_of,
    variables_by_function,
)
from tests.template import load_template

WITH_METRICS = [
    function
    for function in variables_by_function()
    if ".log_metrics(" in (ROOT / "functions" / function / "app.py").read_text()
]

HANDLE_NOTHING = """
from types import SimpleNamespace
import app

context = SimpleNamespace(
    function_name="f", memory_limit_in_mb=1, invoked_function_arn="arn", aws_request_id="1",
    get_remaining_time_in_millis=lambda: 30_000,
)
app.handler({"Records": []}, context)
for level in ("debug", "info", "warning", "error"):
    getattr(app.logger, level)("a line")
"""

ADD_ONE_METRIC = """
import app

for _ in range(2):  # As in two invocations of one copy.
    app.metrics.add_metric("Any", "Count", 1)
    app.metrics.flush_metrics()
"""


def printed(program: str, function: str, **variables: str) -> list[dict[str, Any]]:
    lines = output_of(program, function, {**environment_of(function), **variables})
    return [json.loads(line) for line in lines.splitlines()]


@pytest.mark.parametrize("level", load_template()["Parameters"]["LogLevel"]["AllowedValues"])
def test_metrics_are_printed_at_every_log_level(level: str) -> None:
    lines = printed(HANDLE_NOTHING, "debit_runs", POWERTOOLS_LOG_LEVEL=level)

    cold_start, metrics = [line for line in lines if "_aws" in line]
    assert cold_start["ColdStart"] == [1]
    assert metrics["CompareAndSetRetries"] == [0]
    levels = ["DEBUG", "INFO", "WARNING", "ERROR"]
    least = levels.index("WARNING" if level == "WARN" else level)
    assert [line["level"] for line in lines if "_aws" not in line] == levels[least:]


@pytest.mark.parametrize("function", WITH_METRICS)
def test_each_metric_says_of_which_stack_and_function_it_is(function: str) -> None:
    lines = printed(
        ADD_ONE_METRIC, function, STACK_NAME="another", POWERTOOLS_SERVICE_NAME=function
    )

    assert len(lines) == 2
    for line in lines:
        ((dimensions,),) = [m["Dimensions"] for m in line["_aws"]["CloudWatchMetrics"]]
        assert {name: line[name] for name in dimensions} == {
            "stack": "another",
            "service": function,
        }


def test_the_functions_with_metrics_are_found() -> None:
    assert {"debit_runs", "announce", "auto_reload", "sweep"} <= set(WITH_METRICS)
