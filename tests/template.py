"""template.yaml as the tests read it: plain dictionaries, short tags written out as functions."""

import copy
import functools
from pathlib import Path
from typing import Any

import yaml
from samtranslator.translator.transform import transform

Template = dict[str, Any]

TEMPLATE_FILE = Path(__file__).parent.parent / "template.yaml"


class _CloudFormationLoader(yaml.SafeLoader):
    """A loader of its own, so that no other test finds these tags in the shared one."""


def _function_of_tag(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    """`!Ref X` is {"Ref": X}, `!GetAtt X.Arn` is {"Fn::GetAtt": ["X", "Arn"]}, and so on."""
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if tag in {"Ref", "Condition"}:
        return {tag: value}
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {f"Fn::{tag}": value}


_CloudFormationLoader.add_multi_constructor("!", _function_of_tag)


def load_template() -> Template:
    """Read the template; each call gives a copy of its own, so that a test may break it."""
    return copy.deepcopy(_parsed())


@functools.cache
def _parsed() -> Template:
    template = yaml.load(TEMPLATE_FILE.read_text(), _CloudFormationLoader)  # noqa: S506 - it is safe.
    assert isinstance(template, dict)
    return template


class _NoManagedPolicies:
    """Stands in for the list of AWS managed policies, which none of the roles may need."""

    def load(self) -> dict[str, str]:
        return {}


def translate(template: Template) -> Template:
    """Return what SAM makes of the template for CloudFormation. It needs a region to be set."""
    with_code = copy.deepcopy(template)
    for resource in with_code["Resources"].values():
        # SAM translates only what `sam package` has uploaded.
        for place in ("CodeUri", "ContentUri"):
            if place in resource.get("Properties", {}):
                resource["Properties"][place] = "s3://bucket/code"
    translated: Template = transform(with_code, {}, _NoManagedPolicies())
    return translated


def deployed(template: Template, **parameters: str) -> Template:
    """Return the resources that a deployment creates, with the other parameters at their default.

    Only the conditions of whole resources are evaluated. It needs a region to be set.
    """
    values = {name: str(p["Default"]) for name, p in template["Parameters"].items()} | parameters
    translated = translate(template)
    conditions = translated["Conditions"]
    return {
        name: resource
        for name, resource in translated["Resources"].items()
        if "Condition" not in resource or _holds(conditions[resource["Condition"]], values)
    }


def _holds(condition: dict[str, Any], values: dict[str, str]) -> bool:
    match condition:
        case {"Fn::Equals": [{"Ref": parameter}, value]}:
            return values[parameter] == str(value)
        case {"Fn::Not": [inner]}:
            return not _holds(inner, values)
        case {"Fn::And": all_of}:
            return all(_holds(inner, values) for inner in all_of)
        case {"Fn::Or": any_of}:
            return any(_holds(inner, values) for inner in any_of)
        case other:
            raise LookupError(f"no rule for the condition {other}")
