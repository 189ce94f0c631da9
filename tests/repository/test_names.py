"""Names that contain the stack's name fit into AWS's limits, or fail before anything is kept."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.template import Template, load_template

# The longest names that AWS accepts.
NAME_LENGTH_MAX = {"QueueName": 80, "Name": 128, "LogGroupName": 512, "DashboardName": 255}
# Among the longest names of regions.
REGION = "ap-southeast-1"
STACK_NAME_LENGTH_MAX = 128
ROOT = Path(__file__).parents[2]


def names_with_the_stack(template: Template) -> Iterator[tuple[str, int]]:
    """Yield each resource that is named by the stack, and how much room it leaves for its name."""
    for resource_id, resource in template["Resources"].items():
        for prop, value in resource["Properties"].items():
            name = value.get("Fn::Sub") if isinstance(value, dict) else None
            if prop.endswith("Name") and isinstance(name, str) and "${AWS::StackName}" in name:
                fixed = name.replace("${AWS::StackName}", "").replace("${AWS::Region}", REGION)
                assert "${" not in fixed, f"of unknown length: {name}"
                yield resource_id, NAME_LENGTH_MAX[prop] - len(fixed)


def longest_stack_name(template: Template) -> tuple[int, str]:
    """Return how long a stack's name may be, and the resource that is the first not to fit it."""
    room, resource_id = min((room, name) for name, room in names_with_the_stack(template))
    return min(room, STACK_NAME_LENGTH_MAX), resource_id


def test_the_docs_say_how_long_a_stack_name_may_be() -> None:
    longest, _ = longest_stack_name(load_template())

    docs = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    said = [
        int(length)
        for file in docs
        for length in re.findall(r"stack name of at most (\d+) characters", file.read_text())
    ]
    assert set(said) == {longest}


def test_a_name_that_is_too_long_fails_before_a_table_is_created() -> None:
    # Tables outlast a deployment that fails. Rules cannot see the stack's name, so the queue that
    # would be refused is created before them.
    template = load_template()
    _, resource_id = longest_stack_name(template)

    for resource in template["Resources"].values():
        if resource.get("DeletionPolicy") == "Retain":
            assert resource["DependsOn"] == resource_id


def test_cloudformation_names_whatever_has_a_shorter_limit() -> None:
    # It cuts the stack's name short where a function, a role or a schedule takes 64 characters.
    template = load_template()
    named = {
        prop
        for resource in template["Resources"].values()
        # A permission names the function that it is for.
        if resource["Type"] != "AWS::Lambda::Permission"
        for prop in resource["Properties"]
        if prop in {"FunctionName", "RoleName", "LayerName", "TableName", "TopicName", "AlarmName"}
    }

    assert named == set()
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Scheduler::Schedule":
            assert "Name" not in resource["Properties"]


def test_a_longer_name_of_a_queue_is_noticed() -> None:
    template = load_template()
    before, _ = longest_stack_name(template)
    template["Resources"]["SlackQueue"]["Properties"]["QueueName"] = {
        "Fn::Sub": "${AWS::StackName}-notices-for-slack"
    }

    assert longest_stack_name(template) == (before - 5, "SlackQueue")
