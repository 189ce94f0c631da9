"""What an operator sets for latency and load: batches, their window, and the tables' warmth."""

import re
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
        case {"Fn::And": parts}:
            return all(evaluated(part, values) for part in parts)
        case {"Fn::Or": parts}:
            return any(evaluated(part, values) for part in parts)
        case {"Fn::Contains": [choices, one]}:
            return evaluated(one, values) in choices
        case str():
            return expression
        case _:
            raise AssertionError(f"not known here: {expression}")


def accepts(template: Template, parameter: str, value: str) -> bool:
    return re.search(template["Parameters"][parameter]["AllowedPattern"], value) is not None


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


@pytest.mark.parametrize("table", ["AccountsTable", "LedgerTable"])
def test_a_table_is_warmed_only_where_both_numbers_are_set(template: Template, table: str) -> None:
    condition, warm, otherwise = template["Resources"][table]["Properties"]["WarmThroughput"][
        "Fn::If"
    ]

    assert warm == {
        "ReadUnitsPerSecond": {"Ref": "WarmReadUnitsPerSecond"},
        "WriteUnitsPerSecond": {"Ref": "WarmWriteUnitsPerSecond"},
    }
    assert otherwise == {"Ref": "AWS::NoValue"}
    holds = template["Conditions"][condition]
    for reads, writes, is_warmed in (
        ("0", "0", False),
        ("12000", "0", False),
        ("0", "20000", False),
        ("12000", "20000", True),
    ):
        values = {"WarmReadUnitsPerSecond": reads, "WarmWriteUnitsPerSecond": writes}
        assert evaluated(holds, values) is is_warmed


@pytest.mark.parametrize(("reads", "writes"), [("0", "20000"), ("30000", "0")])
def test_one_number_alone_is_refused_and_not_ignored(
    template: Template, reads: str, writes: str
) -> None:
    refused = refusals(template, WarmReadUnitsPerSecond=reads, WarmWriteUnitsPerSecond=writes)

    assert refused == ["WarmThroughputIsReadsAndWrites"]


@pytest.mark.parametrize(
    ("parameter", "accepted", "refused"),
    [
        ("WarmReadUnitsPerSecond", ("0", "12000", "40000", "100000"), ("", "1", "11999", "-1")),
        ("WarmWriteUnitsPerSecond", ("0", "4000", "9999", "40000"), ("", "1", "3999", "4000.5")),
    ],
)
def test_less_than_a_new_table_takes_anyway_is_refused(
    template: Template, parameter: str, accepted: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    assert all(accepts(template, parameter, value) for value in accepted)
    assert not any(accepts(template, parameter, value) for value in refused)
