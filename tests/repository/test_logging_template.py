"""No line that a function prints is filtered on its way to CloudWatch, whatever LogLevel says."""

from typing import Any

import pytest

from tests.template import load_template, translate


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the properties of every function as CloudFormation gets them."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return {
        name: resource["Properties"]
        for name, resource in translate(load_template())["Resources"].items()
        if resource["Type"] == "AWS::Lambda::Function"
    }


def test_lambda_filters_no_line(deployed: dict[str, Any]) -> None:
    # Lambda's own levels exist with the format JSON alone. A metric has no level, so anything
    # stricter than INFO would drop it.
    for properties in deployed.values():
        assert properties["LoggingConfig"].keys() == {"LogFormat", "LogGroup"}
        assert properties["LoggingConfig"]["LogFormat"] == "Text"


def test_the_parameter_sets_the_level_of_powertools(deployed: dict[str, Any]) -> None:
    for properties in deployed.values():
        assert properties["Environment"]["Variables"]["POWERTOOLS_LOG_LEVEL"] == {"Ref": "LogLevel"}
