"""The guide to restoring sets again whatever the template sets and a restored table lacks."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.template import load_template

GUIDE = (Path(__file__).parents[2] / "docs" / "how-to" / "restore.md").read_text()
COMMANDS = "\n".join(re.findall(r"^ *```sh\n(.*?)^ *```", GUIDE, re.MULTILINE | re.DOTALL))
TABLES = ("AccountsTable", "LedgerTable")
# By DynamoDB's documentation of point-in-time recovery.
RESTORED = {"AttributeDefinitions", "BillingMode", "KeySchema", "SSESpecification"}


def unset(properties: dict[str, Any], guide: str) -> list[str]:
    """Return the properties that a restored table lacks and the guide does not set."""
    missing = []
    for name, value in properties.items():
        match name:
            case "StreamSpecification":
                said = f"StreamEnabled=true,StreamViewType={value['StreamViewType']}"
            case "TimeToLiveSpecification":
                said = f"Enabled=true,AttributeName={value['AttributeName']}"
            case "PointInTimeRecoverySpecification":
                said = "PointInTimeRecoveryEnabled=true"
            case "DeletionProtectionEnabled":
                said = "--deletion-protection-enabled"
            case "ResourcePolicy":
                said = "put-resource-policy"
            case "Tags":
                said = ",".join(f"Key={tag['Key']},Value={tag['Value']}" for tag in value)
            case "TableClass" | "WarmThroughput":
                said = f"--{re.sub('(?<=[a-z])(?=[A-Z])', '-', name).lower()}"
            case _:
                said = "" if name in RESTORED else f"what restores {name}"
        if said not in guide:
            missing.append(name)
    return missing


@pytest.mark.parametrize("table", TABLES)
def test_whatever_a_restored_table_lacks_is_set_again(table: str) -> None:
    properties = load_template()["Resources"][table]["Properties"]

    # Each of them is a command, and no mere word.
    assert unset(properties, COMMANDS) == []


def test_a_setting_that_the_guide_leaves_out_is_noticed() -> None:
    properties = load_template()["Resources"]["AccountsTable"]["Properties"]

    without = COMMANDS.replace("AttributeName=expires_at", "AttributeName=expires")

    assert unset(properties, without) == ["TimeToLiveSpecification"]
    assert unset(properties | {"ReplicaSpecification": {}}, GUIDE) == ["ReplicaSpecification"]
