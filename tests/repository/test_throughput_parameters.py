"""What an operator sets for latency and load: batches and their window."""

from typing import Any

import pytest

from tests.template import Template, load_template, translate


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template()


def refusals(template: Template, **parameters: str) -> list[str]:
    """Return which rules refuse these parameters, the others being as they are by default."""
    values = {name: str(p["Default"]) for name, p in template["Parameters"].items()} | parameters
    return [
        name
        for name, rule in template["Rules"].items()
        if not all(evaluated(each["Assert"], values) for each in rule["Assertions"])
    ]


def evaluated(expression: Any, values: dict[str, str]) -> Any:
    match expression:
        case {"Ref": name}:
            return values[name]
        case {"Fn::Equals": [one, other]}:
            return evaluated(one, values) == evaluated(other, values)
        case {"Fn::Not": [inner]}:
            return not evaluated(inner, values)
        case {"Fn::Or": parts}:
            return any(evaluated(part, values) for part in parts)
        case {"Fn::Contains": [choices, one]}:
            return evaluated(one, values) in choices
        case str():
            return expression
        case _:
            raise AssertionError(f"not known here: {expression}")


def test_the_defaults_break_no_rule(template: Template) -> None:
    assert refusals(template) == []


def test_by_default_lambda_gathers_no_messages(template: Template) -> None:
    # With a window of any length it may wait for 20 s where few messages arrive.
    assert template["Parameters"]["BatchingWindowSeconds"]["Default"] == 0


@pytest.mark.parametrize(
    ("batch_size", "window", "is_refused"),
    [
        ("1", "0", False),
        ("10", "0", False),
        ("11", "0", True),
        ("100", "0", True),
        ("1000", "0", True),
        ("11", "1", False),
        ("1000", "60", False),
    ],
)
def test_more_than_ten_messages_need_a_window(
    template: Template, batch_size: str, window: str, is_refused: bool
) -> None:
    refused = refusals(template, BatchSize=batch_size, BatchingWindowSeconds=window)

    assert refused == (["LargeBatchesHaveAWindow"] if is_refused else [])


def test_the_event_source_gets_both_as_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    (mapping,) = [
        resource["Properties"]
        for resource in translate(load_template())["Resources"].values()
        if resource["Type"] == "AWS::Lambda::EventSourceMapping"
        and resource["Properties"]["FunctionName"] == {"Ref": "DebitRuns"}
    ]

    assert mapping["BatchSize"] == {"Ref": "BatchSize"}
    # 0 is written out: without the property, a window that is set would stay.
    assert mapping["MaximumBatchingWindowInSeconds"] == {"Ref": "BatchingWindowSeconds"}
