"""What a function prints becomes metrics, on which alarms depend."""

import json
from typing import Any

import pytest

from tests.integration.lambda_runtime import environment_of, output_of
from tests.template import load_template

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


def printed(program: str, function: str, **variables: str) -> list[dict[str, Any]]:
    lines = output_of(program, function, {**environment_of(function), **variables})
    return [json.loads(line) for line in lines.splitlines()]


@pytest.mark.parametrize("level", load_template()["Parameters"]["LogLevel"]["AllowedValues"])
def test_metrics_are_printed_at_every_log_level(level: str) -> None:
    lines = printed(HANDLE_NOTHING, "debit_runs", POWERTOOLS_LOG_LEVEL=level)

    (metrics,) = [line for line in lines if "_aws" in line]
    assert metrics["CompareAndSetRetries"] == [0]
    levels = ["DEBUG", "INFO", "WARNING", "ERROR"]
    least = levels.index("WARNING" if level == "WARN" else level)
    assert [line["level"] for line in lines if "_aws" not in line] == levels[least:]
