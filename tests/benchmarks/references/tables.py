"""The tables of the reference designs on DynamoDB, and the account row they all keep.

The ledger is keyed by the event's identity, so that an event can stand in it once and a query
answers for a run. An account's entries in their order take an index; this project needs none.
"""

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from tests.benchmarks.references.events import Pools, accounts_of, integers, numbers
from tests.benchmarks.workloads import Workload

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ITEMS_PER_PUT = 25


@dataclass(frozen=True, slots=True)
class Row:
    """The account row; its version counts the commits."""

    account: str
    version: int
    pools: Pools


def create_accounts(store: "DynamoDBClient", table: str, workload: Workload) -> None:
    create_table(store, table, keys={"pk": "HASH"})
    rows = (row_item(Row(account, 1, pools)) for account, pools in accounts_of(workload))
    while items := list(islice(rows, ITEMS_PER_PUT)):
        puts = [{"PutRequest": {"Item": item}} for item in items]
        assert not store.batch_write_item(RequestItems={table: puts})["UnprocessedItems"]


def create_ledger(store: "DynamoDBClient", table: str) -> None:
    create_table(
        store,
        table,
        keys={"pk": "HASH", "sk": "RANGE"},
        index=("by_account", {"account": ("HASH", "S"), "version": ("RANGE", "N")}),
    )


def create_table(
    store: "DynamoDBClient",
    table: str,
    keys: dict[str, Any],
    index: tuple[str, dict[str, Any]] | None = None,
) -> None:
    request: dict[str, Any] = {
        "TableName": table,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": [{"AttributeName": name, "KeyType": kind} for name, kind in keys.items()],
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in keys],
    }
    if index is not None:
        name, index_keys = index
        request["AttributeDefinitions"] += [
            {"AttributeName": key, "AttributeType": type_} for key, (_, type_) in index_keys.items()
        ]
        schema = [{"AttributeName": key, "KeyType": kind} for key, (kind, _) in index_keys.items()]
        request["GlobalSecondaryIndexes"] = [
            {"IndexName": name, "KeySchema": schema, "Projection": {"ProjectionType": "ALL"}}
        ]
    store.create_table(**request)
    store.get_waiter("table_exists").wait(
        TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 10}
    )


def account_key(account: str) -> dict[str, Any]:
    return {"pk": {"S": f"ACCOUNT#{account}"}}


def row_item(row: Row) -> dict[str, Any]:
    version = {"N": str(row.version)}
    return {**account_key(row.account), "version": version, "pools": numbers(row.pools)}


def row_from_item(item: dict[str, Any]) -> Row:
    return Row(
        account=item["pk"]["S"].removeprefix("ACCOUNT#"),
        version=int(item["version"]["N"]),
        pools=integers(item["pools"]),
    )


def read_row(store: "DynamoDBClient", table: str, account: str) -> Row:
    response = store.get_item(TableName=table, Key=account_key(account), ConsistentRead=True)
    return row_from_item(response["Item"])
