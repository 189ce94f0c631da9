"""What is compared: a design that records events, and one of its workers.

Every design is asked for the same: to debit each event once, from pools in their order; to tell an
account's balance, its entries in their order, and everything about a run; and to notice an event
that comes again, or comes again with another payload.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agent_credits.aws.items import item_bytes
from tests.benchmarks.workloads import Workload

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

GRANTED_MICROCREDITS = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a batch: how many events were debited, and how often a race was lost for it.

    `commits`: of accounts, by designs that tell.
    """

    events: int
    races_lost: int = 0
    commits: int = 0


class Worker(Protocol):
    def learn_settings(self) -> None:
        """Read what concerns no account in particular, as the first batch of all would."""
        ...

    def debit(self, bodies: Sequence[str]) -> Done:
        """Debit every event, whatever other workers do meanwhile."""
        ...


class Design(Protocol):
    """`store` is a connection to where the tables are; `suffix` tells one run's from another's."""

    name: str
    title: str

    def create(self, store: Any, suffix: str, workload: Workload) -> None:
        """Create the tables and open the workload's accounts."""
        ...

    def drop(self, store: Any, suffix: str) -> None:
        """Remove what `create` created."""
        ...

    def worker(self, store: Any, suffix: str, workload: Workload) -> Worker:
        """Return a worker that has seen nothing yet."""
        ...


class DynamoDBDesign(Design, Protocol):
    def tables(self, suffix: str) -> dict[str, str]:
        """Return the names of the tables by what they hold; `expiring` is not kept for a year."""
        ...


def drop_tables(client: "DynamoDBClient", tables: Mapping[str, str]) -> None:
    for name in tables.values():
        client.delete_table(TableName=name)


def stored_bytes(client: "DynamoDBClient", table: str) -> int:
    """Return what DynamoDB bills as stored: the items, 100 bytes for each, and likewise indexes."""
    description = client.describe_table(TableName=table)["Table"]
    copies = 1 + len(description.get("GlobalSecondaryIndexes", []))
    pages = client.get_paginator("scan").paginate(TableName=table)
    return sum((item_bytes(item) + 100) * copies for page in pages for item in page["Items"])
