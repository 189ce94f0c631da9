"""What an event costs, counted by the consumed capacity that the emulated DynamoDB reports."""

import uuid
from typing import TYPE_CHECKING

import pytest

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.directory import Directory
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.values.principals import Principal
from agent_credits_cli.target import Target
from tests.benchmarks.capacity import Consumed, consumption_of
from tests.unit.builders import (
    BIGCORP_TEAM,
    NOW,
    POLICY,
    body,
    grant_change,
    open_account,
    pause,
    usage,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


@pytest.fixture
def rows(stack: Target) -> DynamoDBRows:
    tables = stack.outputs
    return DynamoDBRows(stack.dynamodb, tables.accounts_table_name, tables.ledger_table_name)


@pytest.fixture
def team_id(rows: DynamoDBRows) -> str:
    """An enterprise team of its own, with an account that is well into its life."""
    rows.put_policy(POLICY)
    team_id = f"cost-{uuid.uuid4()}"
    rows.compare_and_set_team(BIGCORP_TEAM.model_copy(update={"team_id": team_id, "version": 1}))
    principal = Principal("team", team_id)
    open_account(
        rows,
        grant_change(str(uuid.uuid4()), "trial", "1", principal=principal),
        grant_change(str(uuid.uuid4()), "contract", "100000", principal=principal),
        grant_change(str(uuid.uuid4()), "contract", "100000", principal=principal),
    )
    return team_id


def cost(
    client: "DynamoDBClient", rows: DynamoDBRows, team_id: str, *, events_per_batch: int, runs: int
) -> tuple[Consumed, int]:
    """Debit batches of new events, some before the counting starts; return what the rest cost."""
    debits = Debits(rows, Directory(rows), pause)

    def debit_batch() -> None:
        run_ids = [str(uuid.uuid4()) for _ in range(runs)]
        deliveries = [
            Delivery(
                str(number),
                body(
                    usage(
                        str(uuid.uuid4()),
                        "0.734512",
                        run=run_ids[number % runs],
                        team=team_id,
                        user="somebody",
                    )
                ),
            )
            for number in range(events_per_batch)
        ]
        batch = debits.debit(deliveries, now=NOW, time_is_left=lambda: True)
        assert [outcome.name for outcome in batch.outcomes] == ["debited"] * events_per_batch

    for _ in range(10):
        debit_batch()
    batches = 120 if events_per_batch == 1 else 12
    with consumption_of(client) as consumed:
        for _ in range(batches):
            debit_batch()
    return consumed, batches * events_per_batch


@pytest.mark.parametrize(
    ("events_per_batch", "runs", "write_units_max", "read_units_max"),
    [
        pytest.param(1, 1, 2.25, 2, id="one event per batch"),
        pytest.param(100, 10, 1.1, 1.1, id="a hundred events per batch"),
    ],
)
def test_an_event_costs_no_more_than_promised(
    events_per_batch: int,
    runs: int,
    write_units_max: float,
    read_units_max: float,
    stack: Target,
    rows: DynamoDBRows,
    team_id: str,
) -> None:
    consumed, events = cost(
        stack.dynamodb, rows, team_id, events_per_batch=events_per_batch, runs=runs
    )

    print(f"{events_per_batch} per batch: {consumed.per_event(events)}")  # noqa: T201 -- The figures are the result.
    assert events >= 40
    assert 0 < consumed.write_units / events <= write_units_max
    assert 0 < consumed.read_units / events <= read_units_max
