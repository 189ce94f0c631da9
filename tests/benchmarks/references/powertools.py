"""(a) What a typical project does: Powertools' idempotency around read, update and ledger put.

It is not exactly-once: a crash between the update and the ledger put leaves a debit without a
record, and the record of idempotency in progress, so that the event is debited again later.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)

from agent_credits.aws.backoff import back_off
from tests.benchmarks.design import Done, drop_tables
from tests.benchmarks.references.events import Usage, draw, entry_item, numbers, read_usage
from tests.benchmarks.references.tables import (
    account_key,
    create_accounts,
    create_ledger,
    create_table,
    read_row,
)
from tests.benchmarks.workloads import Workload
from tests.integration.lambda_runtime import Context

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ATTEMPTS_MAX = 1_000
IDENTITY = "[source, subject, id]"
PAYLOAD = "hash"


class PowertoolsPerEvent:
    name = "powertools"
    title = "(a) Powertools idempotency, update, put"

    def tables(self, suffix: str) -> dict[str, str]:
        return {
            "accounts": f"TypicalAccounts-{suffix}",
            "ledger": f"TypicalLedger-{suffix}",
            "expiring": f"TypicalIdempotency-{suffix}",
        }

    def create(self, store: "DynamoDBClient", suffix: str, workload: Workload) -> None:
        tables = self.tables(suffix)
        create_accounts(store, tables["accounts"], workload)
        create_ledger(store, tables["ledger"])
        create_table(store, tables["expiring"], keys={"id": "HASH"})

    def drop(self, store: "DynamoDBClient", suffix: str) -> None:
        drop_tables(store, self.tables(suffix))

    def worker(self, store: "DynamoDBClient", suffix: str, workload: Workload) -> "Typical":
        return Typical(store, self.tables(suffix), workload)


class Typical:
    def __init__(self, store: "DynamoDBClient", tables: dict[str, str], workload: Workload) -> None:
        self._store = store
        self._tables = tables
        self._team = workload.team
        self._debited = self._races_lost = 0
        layer = DynamoDBPersistenceLayer(tables["expiring"], boto3_client=store)
        config = IdempotencyConfig(
            event_key_jmespath=IDENTITY,
            payload_validation_jmespath=PAYLOAD,
            raise_on_no_idempotency_key=True,
            lambda_context=Context(),
        )
        self._once = idempotent_function(
            self._debit, data_keyword_argument="identity", persistence_store=layer, config=config
        )

    def learn_settings(self) -> None:
        """Read nothing: the reference designs are given the settings."""

    def debit(self, bodies: Sequence[str]) -> Done:
        self._debited = self._races_lost = 0
        for usage in read_usage(bodies, self._team):
            event = usage.event
            identity = {
                "source": event.source,
                "subject": event.subject,
                "id": event.id,
                "hash": event.payload_hash,
            }
            self._once(usage=usage, identity=identity)
        return Done(self._debited, self._races_lost)

    # Powertools takes the key from the argument that the function itself has no use for.
    def _debit(self, usage: Usage, identity: dict[str, Any]) -> dict[str, int]:  # noqa: ARG002
        for attempt in range(1, ATTEMPTS_MAX + 1):
            row = read_row(self._store, self._tables["accounts"], usage.account)
            draws, pools = draw(row.pools, usage.billing.pools, usage.event.data.credits)
            try:
                self._store.update_item(
                    TableName=self._tables["accounts"],
                    Key=account_key(usage.account),
                    UpdateExpression="SET pools = :pools, version = :next",
                    ConditionExpression="version = :read",
                    ExpressionAttributeValues={
                        ":pools": numbers(pools),
                        ":read": {"N": str(row.version)},
                        ":next": {"N": str(row.version + 1)},
                    },
                )
            except self._store.exceptions.ConditionalCheckFailedException:
                self._races_lost += 1
                back_off(attempt)
                continue
            self._store.put_item(
                TableName=self._tables["ledger"], Item=entry_item(usage, draws, row.version + 1)
            )
            self._debited += 1
            return draws
        raise AssertionError(f"{usage.account}: lost {ATTEMPTS_MAX} races in a row")
