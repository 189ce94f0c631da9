"""How many copies of functions run at once: few enough for a new account, unless told otherwise."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.template import Template, load_template, translate

# What many new accounts may run at once, all functions of a region together. AWS raises it to 1,000
# by itself as the account is used, or on request.
NEW_ACCOUNT_COPIES = 10
# A new table on demand takes 4,000 writes a second, and a shard of its stream holds those of one
# partition, which takes 1,000.
SHARDS_OF_A_NEW_TABLE = 4
# Deployed only with SlackNotices. Its two copies come on top, and a notice that waits is not lost.
OPTIONAL = {"NotifySlack"}


def event_sources(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            for source in resource["Properties"].get("Events", {}).values():
                yield name, source


def caps(template: Template, maximum_concurrency: int) -> dict[str, int | None]:
    """Return how many copies of each function run at once at most; None without a cap."""
    found: dict[str, int | None] = {}
    for name, source in event_sources(template):
        assert name not in found, f"{name} has two event sources"
        match source["Type"], source["Properties"]:
            case "DynamoDB", stream:
                found[name] = SHARDS_OF_A_NEW_TABLE * stream.get("ParallelizationFactor", 1)
            case "SQS", {"ScalingConfig": scaling}:
                found[name] = cap_of(scaling, maximum_concurrency)
            case _:
                found[name] = None
    return found


def cap_of(scaling: dict[str, Any], maximum_concurrency: int) -> int | None:
    if "Fn::If" in scaling:
        condition, capped, uncapped = scaling["Fn::If"]
        assert condition == "HasMaximumConcurrency"
        scaling = capped if maximum_concurrency else uncapped
    cap = scaling.get("MaximumConcurrency")
    return maximum_concurrency if cap == {"Ref": "MaximumConcurrency"} else cap


def test_all_functions_together_fit_into_a_new_account() -> None:
    template = load_template()
    default = template["Parameters"]["MaximumConcurrency"]["Default"]

    copies = {n: cap for n, cap in caps(template, default).items() if n not in OPTIONAL}

    assert None not in copies.values(), copies
    assert sum(cap or 0 for cap in copies.values()) <= NEW_ACCOUNT_COPIES


def test_nothing_is_reserved() -> None:
    # A reservation of one function is taken from all others, and a new account may make none.
    for name, _ in event_sources(template := load_template()):
        properties = template["Resources"][name]["Properties"]
        assert "ReservedConcurrentExecutions" not in properties
        assert "ProvisionedConcurrencyConfig" not in properties


@pytest.mark.parametrize("function", ["DebitRuns", "AutoReload"])
def test_the_parameter_sets_the_cap(function: str) -> None:
    assert caps(load_template(), 7)[function] == 7


@pytest.mark.parametrize("function", ["DebitRuns", "AutoReload"])
def test_a_cap_that_was_set_is_removed_by_0(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    (mapping,) = [
        resource["Properties"]
        for resource in translate(load_template())["Resources"].values()
        if resource["Type"] == "AWS::Lambda::EventSourceMapping"
        and resource["Properties"]["FunctionName"] == {"Ref": function}
    ]

    # "To remove the configuration, pass an empty value", CloudFormation's reference says. Without
    # the property an update would leave the mapping's cap as it is.
    assert mapping["ScalingConfig"]["Fn::If"] == [
        "HasMaximumConcurrency",
        {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}},
        {},
    ]
