"""Parameters, outputs and alarms of the stack, read from template.yaml."""

import re
from collections.abc import Iterator
from typing import Any

from tests.template import Template, load_template
from tools.blocks import table

RUNBOOK_PATH = re.compile(r"Runbook: docs/how-to/(runbook\.md#\w+)")


def parameters() -> str:
    rows = [
        (f"`{name}`", _default(parameter), _accepts(parameter), _text(parameter["Description"]))
        for name, parameter in load_template()["Parameters"].items()
    ]
    return table(("parameter", "default", "accepts", "meaning"), rows)


def outputs() -> str:
    rows = [
        (f"`{name}`", _text(output["Description"]), _condition(output))
        for name, output in load_template()["Outputs"].items()
    ]
    return table(("output", "meaning", "only where"), rows)


def rules() -> str:
    """Return what the parameters may not be together, or not be at all."""
    return "\n".join(
        f"- {_text(assertion['AssertDescription'])}"
        for rule in load_template()["Rules"].values()
        for assertion in rule["Assertions"]
    )


def alarms() -> str:
    """Return a section for each alarm: when it rings, and what its description says to do."""
    template = load_template()
    found = {
        name: resource
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    }
    return "\n".join(_alarm(name, found[name]) for name in sorted(found))


def _alarm(name: str, resource: dict[str, Any]) -> str:
    alarm = resource["Properties"]
    only = f" Only where {_condition(resource)}." if "Condition" in resource else ""
    return f"""
## {name}

{_with_link(_text(alarm["AlarmDescription"]))}

Rings when {_rings_when(alarm)}.{only}
"""


def _with_link(text: str) -> str:
    """Return a description with the path of its runbook entry as a link from docs/reference/."""
    return RUNBOOK_PATH.sub(r"[Runbook](../how-to/\1)", text)


def _rings_when(alarm: dict[str, Any]) -> str:
    threshold = alarm["Threshold"]
    is_more = alarm["ComparisonOperator"] == "GreaterThanThreshold"
    amount = f"`{threshold['Ref']}`" if isinstance(threshold, dict) else f"{threshold:,}"
    dimensions = ", ".join(map(_dimension, alarm["Dimensions"]))
    periods, seconds = alarm["EvaluationPeriods"], alarm["Period"]
    breaching = alarm.get("DatapointsToAlarm", "each")
    lasts = (
        _duration(seconds) if periods == 1 else f"{breaching} of {periods} x {_duration(seconds)}"
    )
    return (
        f"the {alarm['Statistic'].lower()} of `{alarm['MetricName']}` ({dimensions}) is"
        f" {'more than' if is_more else alarm['ComparisonOperator']} {amount} in {lasts}"
    )


def _dimension(dimension: dict[str, Any]) -> str:
    value = dimension["Value"]
    match value:
        case {"Ref": name} | {"Fn::GetAtt": [name, _]}:
            return str(name)
        case _:
            return str(value)


def _duration(seconds: int) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds % length == 0:
            return f"{seconds // length} {unit}{'s' * (seconds > length)}"
    return f"{seconds} seconds"


def _default(parameter: dict[str, Any]) -> str:
    default = parameter.get("Default")
    if default is None:
        return "required"
    return f"`{default}`" if default != "" else "empty"


def _accepts(parameter: dict[str, Any]) -> str:
    return "; ".join(_restrictions(parameter)) or "any text"


def _restrictions(parameter: dict[str, Any]) -> Iterator[str]:
    if "AllowedValues" in parameter:
        yield ", ".join(f"`{value}`" for value in parameter["AllowedValues"])
    if "MinValue" in parameter:
        yield f"{parameter['MinValue']:,} to {parameter['MaxValue']:,}"
    if "ConstraintDescription" in parameter:
        yield parameter["ConstraintDescription"].removeprefix("must be ")
    elif parameter["Type"] == "CommaDelimitedList":
        yield "a list with commas"


def _condition(thing: dict[str, Any]) -> str:
    """Return the condition of a resource or output as the parameter setting it stands for."""
    name = thing.get("Condition")
    return _setting(load_template(), name) if name else ""


def _setting(template: Template, condition: str) -> str:
    return _words(condition, template["Conditions"][condition])


def _words(condition: str, test: dict[str, Any]) -> str:
    match test:
        case {"Fn::And": tests}:
            return " and ".join(_words(condition, each) for each in tests)
        case {"Fn::Equals": [{"Ref": parameter}, value]}:
            return f"`{parameter}={value}`"
        case {"Fn::Not": [{"Fn::Equals": [{"Ref": parameter}, ""]}]}:
            return f"`{parameter}` is set"
        case other:
            raise LookupError(f"no words for the condition {condition}: {other}")


def _text(description: Any) -> str:
    """Return a description in one line; one with parameters in it shows their names."""
    text = description["Fn::Sub"] if isinstance(description, dict) else description
    return " ".join(text.split())
