"""Every design that is compared does the same work, and does it right."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.events.agent_runs import parse_message
from agent_credits.values.credits import parse_credits
from agent_credits.values.principals import Principal
from tests.benchmarks.agent_credits_design import AgentCredits
from tests.benchmarks.counts import DESIGNS
from tests.benchmarks.design import GRANTED_MICROCREDITS, DynamoDBDesign
from tests.benchmarks.references.tables import read_row
from tests.benchmarks.workloads import Workload, hot_account, in_groups, users
from tests.integration.locked_moto import locked_moto

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

SUFFIX = "test"
TRIAL_MICROCREDITS = parse_credits("1")


@pytest.fixture
def dynamodb() -> Iterator["DynamoDBClient"]:
    with locked_moto():
        yield boto3.client("dynamodb")


@pytest.fixture(params=DESIGNS, ids=[design.name for design in DESIGNS])
def design(request: pytest.FixtureRequest) -> DynamoDBDesign:
    return request.param


def balance(client: "DynamoDBClient", design: DynamoDBDesign, principal: Principal) -> int:
    tables = design.tables(SUFFIX)
    if isinstance(design, AgentCredits):
        account = DynamoDBRows(client, tables["accounts"], tables["ledger"]).read_account(principal)
        assert account is not None
        return sum(grant.remaining_microcredits for grant in account.grants)
    return sum(read_row(client, tables["accounts"], str(principal)).pools.values())


def asked_for(workload: Workload) -> int:
    messages = [parse_message(body) for batch in workload.batches for body in batch]
    return sum(event.data.credits for message in messages for event in message.events)


def items_in_ledger(client: "DynamoDBClient", design: DynamoDBDesign) -> list[str]:
    pages = client.get_paginator("scan").paginate(TableName=design.tables(SUFFIX)["ledger"])
    keys = [item["sk"]["S"] for page in pages for item in page["Items"]]
    return [key for key in keys if key.startswith("EVENT#")]


def test_each_event_is_debited_once_however_often_and_by_whomever(
    design: DynamoDBDesign, dynamodb: "DynamoDBClient"
) -> None:
    workload = hot_account(7, 4, warm_up=0)
    design.create(dynamodb, SUFFIX, workload)
    (principal,) = users(1)
    before = balance(dynamodb, design, principal)
    first, second = (design.worker(dynamodb, SUFFIX, workload) for _ in range(2))

    debited = [first.debit(batch).events for batch in workload.batches]
    # The second worker knows nothing of what the first did, and the first not of the second.
    again = [worker.debit(b).events for b in workload.batches for worker in (second, first)]

    assert debited == [7, 7, 7, 7]
    assert set(again) == {0}
    assert balance(dynamodb, design, principal) == before - asked_for(workload)


def test_an_event_of_another_worker_in_between_is_not_lost(
    design: DynamoDBDesign, dynamodb: "DynamoDBClient"
) -> None:
    workload = hot_account(3, 6, warm_up=0)
    design.create(dynamodb, SUFFIX, workload)
    (principal,) = users(1)
    before = balance(dynamodb, design, principal)
    workers = [design.worker(dynamodb, SUFFIX, workload) for _ in range(2)]

    done = [workers[turn % 2].debit(batch) for turn, batch in enumerate(workload.batches)]

    assert sum(d.events for d in done) == 18
    assert balance(dynamodb, design, principal) == before - asked_for(workload)


def test_what_is_not_on_the_account_row_is_in_the_ledger(
    design: DynamoDBDesign, dynamodb: "DynamoDBClient"
) -> None:
    workload = in_groups(3, 3, groups_per_batch=3, group=5, warm_up=0)
    design.create(dynamodb, SUFFIX, workload)
    worker = design.worker(dynamodb, SUFFIX, workload)

    for batch in workload.batches:
        worker.debit(batch)

    # Of this project's the newest page of each account is on its row, and the one that the account
    # was found with is in the ledger instead.
    assert len(items_in_ledger(dynamodb, design)) == 3 * 3 * 5


def test_every_design_finds_accounts_that_hold_enough(
    design: DynamoDBDesign, dynamodb: "DynamoDBClient"
) -> None:
    workload = hot_account(1, 1, warm_up=0)

    design.create(dynamodb, SUFFIX, workload)

    held = balance(dynamodb, design, workload.principals[0])
    assert GRANTED_MICROCREDITS <= held <= GRANTED_MICROCREDITS + TRIAL_MICROCREDITS
