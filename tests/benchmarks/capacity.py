"""What the calls of a DynamoDB client consume, as the emulator reports it.

MiniStack's model of consumed capacity was compared with the real service by its authors, indexes
and transactions included. Of GetItem and BatchGetItem it reports nothing, and of each inserting
statement one unit whatever its size: what these cost is computed here from the sizes of the items,
a unit for each 4 KB that is read and for each KB that is written.
"""

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_credits.aws.items import Item, item_bytes
from tests.ledger_statements import inserted_item

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

WRITES = {"PutItem", "UpdateItem", "BatchWriteItem", "TransactWriteItems"}
INSERTS = {"BatchExecuteStatement"}
READS_OF_ITEMS = {"GetItem", "BatchGetItem"}
READS = READS_OF_ITEMS | {"Query"}


@dataclass
class Consumed:
    """What the calls of a client cost while it is counted; `index_write_units` are part of all."""

    write_units: float = 0
    index_write_units: float = 0
    read_units: float = 0
    write_units_by_table: Counter[str] = field(default_factory=Counter)
    read_units_by_table: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)

    def per_event(self, events: int) -> str:
        requests = ", ".join(f"{name} {n / events:.3f}" for name, n in self.requests.items())
        return (
            f"{self.write_units / events:.3f} write units, {self.read_units / events:.3f} read "
            f"units, {self.requests.total() / events:.3f} requests per event ({requests})"
        )


@contextmanager
def consumption_of(client: "DynamoDBClient") -> Iterator[Consumed]:
    """Count the client's calls, from whichever threads they are made; none of them may fail."""
    consumed = Consumed()
    lock = threading.Lock()

    def ask(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        params["ReturnConsumedCapacity"] = "INDEXES"
        context["params"] = params

    def add(parsed: dict[str, Any], model: Any, context: dict[str, Any], **_: Any) -> None:
        assert model.name in WRITES | INSERTS | READS, f"{model.name} is not counted"
        # A write that lost its condition is paid for as well, but the emulator does not say it.
        assert "Error" not in parsed, f"{model.name} failed: {parsed['Error']}"
        with lock:
            consumed.requests[model.name] += 1
            if model.name in READS_OF_ITEMS:
                by_table = read_units(parsed, context["params"])
                consumed.read_units += by_table.total()
                consumed.read_units_by_table.update(by_table)
                return
            if model.name in INSERTS:
                by_table = write_units_of_inserts(context["params"])
                consumed.write_units += by_table.total()
                consumed.write_units_by_table.update(by_table)
                return
            capacity = parsed["ConsumedCapacity"]
            for table in capacity if isinstance(capacity, list) else [capacity]:
                if model.name in READS:
                    consumed.read_units += table["CapacityUnits"]
                    consumed.read_units_by_table[table["TableName"]] += table["CapacityUnits"]
                    continue
                indexes = table.get("GlobalSecondaryIndexes", {}).values()
                consumed.write_units += table["CapacityUnits"]
                consumed.write_units_by_table[table["TableName"]] += table["CapacityUnits"]
                consumed.index_write_units += sum(index["CapacityUnits"] for index in indexes)

    events = client.meta.events
    events.register("before-parameter-build.dynamodb", ask)
    events.register("after-call.dynamodb", add)
    try:
        yield consumed
    finally:
        events.unregister("before-parameter-build.dynamodb", ask)
        events.unregister("after-call.dynamodb", add)


def read_units(parsed: dict[str, Any], params: dict[str, Any]) -> Counter[str]:
    """Return what strongly consistent reads of single items cost, by table.

    It is a unit for each 4 KB begun; a key that names no item costs a unit as well.
    """
    if "RequestItems" not in params:
        assert params["ConsistentRead"], "what an eventually consistent read costs is not counted"
        return Counter({params["TableName"]: _units_of_4_kb(parsed.get("Item"))})
    units: Counter[str] = Counter()
    for name, asked in params["RequestItems"].items():
        assert asked["ConsistentRead"], "likewise"
        found = parsed["Responses"].get(name, [])
        missing = len(asked["Keys"]) - len(found)
        units[name] = sum(_units_of_4_kb(item) for item in found) + missing
    return units


def write_units_of_inserts(params: dict[str, Any]) -> Counter[str]:
    """Return what insertions cost, by table: a unit for each KB begun."""
    units: Counter[str] = Counter()
    for table, item in map(inserted_item, params["Statements"]):
        units[table] += math.ceil(item_bytes(item) / 1024)
    return units


def _units_of_4_kb(item: Item | None) -> int:
    return max(1, math.ceil(item_bytes(item or {}) / 4096))
