"""The stack's tables in an emulator, created from template.yaml, so that no test restates a key."""

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.template import load_template

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# What CreateTable takes just as CloudFormation writes it.
SAME_IN_CREATE_TABLE = {"AttributeDefinitions", "BillingMode", "KeySchema", "Tags"}
# What guards stored data or sets its price, and changes the answer of no call.
WITHOUT_EFFECT_IN_TESTS = {
    "DeletionProtectionEnabled",
    "PointInTimeRecoverySpecification",
    "ResourcePolicy",
    "SSESpecification",
    "TableClass",
    # It removes what is long past, at some time: no code may rely on that.
    "TimeToLiveSpecification",
    # How soon a table is large enough for much traffic.
    "WarmThroughput",
}


class StackTables(NamedTuple):
    accounts: str
    ledger: str


def create_tables(dynamodb_client: "DynamoDBClient", suffix: str) -> StackTables:
    """Create both tables; `suffix` ends their names, so that tests can share an emulator."""
    tables = StackTables(accounts=f"AccountsTable-{suffix}", ledger=f"LedgerTable-{suffix}")
    _create(dynamodb_client, "AccountsTable", tables.accounts)
    _create(dynamodb_client, "LedgerTable", tables.ledger)
    return tables


def create_notices_table(dynamodb_client: "DynamoDBClient", suffix: str) -> str:
    """Create the table of notices, which only few tests need, and return its name."""
    name = f"NoticesTable-{suffix}"
    _create(dynamodb_client, "NoticesTable", name)
    return name


def _create(dynamodb_client: "DynamoDBClient", logical_id: str, name: str) -> None:
    request = create_table_request(load_template()["Resources"][logical_id]["Properties"])
    dynamodb_client.create_table(TableName=name, **request)
    dynamodb_client.get_waiter("table_exists").wait(
        TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 10}
    )


def create_table_request(properties: dict[str, Any]) -> dict[str, Any]:
    """Translate a table's properties into CreateTable; one that is not known here is a bug."""
    request: dict[str, Any] = {}
    for name, value in properties.items():
        if name in SAME_IN_CREATE_TABLE:
            request[name] = value
        elif name == "StreamSpecification":
            request[name] = {"StreamEnabled": True, **value}
        else:
            assert name in WITHOUT_EFFECT_IN_TESTS, f"create_tables does not know {name}"
    return request
