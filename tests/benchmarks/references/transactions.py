"""(b) One transaction per event; (c) one per account and batch, of at most 99 events.

A transaction takes at most 100 actions: the account row and 99 entries. As this project does, a
worker starts from the row that it wrote last, so that a read is needed only after a lost race.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_credits.aws.backoff import back_off
from tests.benchmarks.design import Done, drop_tables
from tests.benchmarks.references.events import Usage, draw, entry_item, read_usage
from tests.benchmarks.references.tables import (
    Row,
    create_accounts,
    create_ledger,
    read_row,
    row_item,
)
from tests.benchmarks.workloads import Workload

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ATTEMPTS_MAX = 1_000
# Of a hundred actions one is the account row.
EVENTS_PER_TRANSACTION_MAX = 99


@dataclass(frozen=True)
class Transactions:
    name: str
    title: str
    events_per_transaction: int

    def tables(self, suffix: str) -> dict[str, str]:
        return {
            "accounts": f"{self.name}-accounts-{suffix}",
            "ledger": f"{self.name}-ledger-{suffix}",
        }

    def create(self, store: "DynamoDBClient", suffix: str, workload: Workload) -> None:
        create_accounts(store, self.tables(suffix)["accounts"], workload)
        create_ledger(store, self.tables(suffix)["ledger"])

    def drop(self, store: "DynamoDBClient", suffix: str) -> None:
        drop_tables(store, self.tables(suffix))

    def worker(self, store: "DynamoDBClient", suffix: str, workload: Workload) -> "Transacting":
        return Transacting(store, self.tables(suffix), workload, self.events_per_transaction)


TRANSACTION_PER_EVENT = Transactions("transaction-1", "(b) a transaction per event", 1)
TRANSACTION_PER_BATCH = Transactions(
    "transaction-99", "(c) a transaction per account and batch", EVENTS_PER_TRANSACTION_MAX
)


class Transacting:
    def __init__(
        self,
        store: "DynamoDBClient",
        tables: dict[str, str],
        workload: Workload,
        events_per_transaction: int,
    ) -> None:
        self._store = store
        self._tables = tables
        self._team = workload.team
        self._events_per_transaction = events_per_transaction
        self._warm: dict[str, Row] = {}

    def learn_settings(self) -> None:
        """Read nothing: the reference designs are given the settings."""

    def debit(self, bodies: Sequence[str]) -> Done:
        done = Done(0)
        for account, events in self._transactions(read_usage(bodies, self._team)):
            debited = self._commit(account, events)
            done = Done(done.events + debited.events, done.races_lost + debited.races_lost)
        return done

    def _transactions(self, events: Sequence[Usage]) -> Iterator[tuple[str, list[Usage]]]:
        by_account: dict[str, dict[Any, Usage]] = {}
        for usage in events:
            by_account.setdefault(usage.account, {})[usage.event.identity] = usage
        for account, unique in by_account.items():
            usages, size = list(unique.values()), self._events_per_transaction
            for start in range(0, len(usages), size):
                yield account, usages[start : start + size]

    def _commit(self, account: str, events: list[Usage]) -> Done:
        canceled = self._store.exceptions.TransactionCanceledException
        for races_lost in range(ATTEMPTS_MAX):
            row = self._warm.pop(account, None)
            row = row or read_row(self._store, self._tables["accounts"], account)
            after, actions = self._actions(row, events)
            try:
                self._store.transact_write_items(TransactItems=actions)
            except canceled as error:
                _, *of_entries = error.response["CancellationReasons"]
                # An entry that is there already was debited already.
                events = [
                    usage
                    for usage, reason in zip(events, of_entries, strict=True)
                    if reason["Code"] != "ConditionalCheckFailed"
                ]
                if not events:
                    return Done(0, races_lost)
                back_off(races_lost + 1)
                continue
            self._warm[account] = after
            return Done(len(events), races_lost)
        raise AssertionError(f"{account}: lost {ATTEMPTS_MAX} races in a row")

    def _actions(self, row: Row, events: Sequence[Usage]) -> tuple[Row, list[Any]]:
        """Return the row as it will be, and the actions that write it and the entries."""
        pools, entries = row.pools, []
        for usage in events:
            draws, pools = draw(pools, usage.billing.pools, usage.event.data.credits)
            entry = {
                "TableName": self._tables["ledger"],
                "Item": entry_item(usage, draws, row.version + 1),
                "ConditionExpression": "attribute_not_exists(pk)",
            }
            entries.append({"Put": entry})
        after = Row(row.account, row.version + 1, pools)
        put = {
            "TableName": self._tables["accounts"],
            "Item": row_item(after),
            "ConditionExpression": "version = :read",
            "ExpressionAttributeValues": {":read": {"N": str(row.version)}},
        }
        return after, [{"Put": put}, *entries]
