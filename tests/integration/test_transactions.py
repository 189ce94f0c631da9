"""What no emulator does with a transaction: each reason for which DynamoDB cancels one.

The codes are those of its documentation of `TransactWriteItems`.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.stub import Stubber
from urllib3 import HTTPResponse

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.items import account_item, account_key, limit_row_item, team_item
from agent_credits.commit.rows import LostTogether
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.values.errors import RowNotUnderstood, RowsUnavailable
from tests.conformance.samples import full_account
from tests.unit.builders import ACME, ANA, BEN, NOW

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

OF_TEAM = LimitKey("acme", "team", "acme", "month")
NOTHING = {"Code": "None"}
CONFLICT = {"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"}


def limit_row(version: int) -> LimitRow:
    return LimitRow(OF_TEAM, NOW + timedelta(days=9), version, drawn_microcredits=version)


def condition_failed(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "Code": "ConditionalCheckFailed",
        "Message": "The conditional request failed",
        "Item": item,
    }


@pytest.fixture
def rows(client: "DynamoDBClient") -> DynamoDBRows:
    return DynamoDBRows(client, "accounts", "ledger")


Attempt = Callable[..., LostTogether | None]


@pytest.fixture
def attempt(stub: Stubber, rows: DynamoDBRows) -> Attempt:
    """Write the accounts of two members and the row of their limit; it is canceled for reasons."""

    def canceled_for(*reasons: dict[str, Any]) -> LostTogether | None:
        stub.add_client_error(
            "transact_write_items",
            "TransactionCanceledException",
            "Transaction cancelled, please refer cancellation reasons for specific reasons",
            modeled_fields={"CancellationReasons": list(reasons)},
        )
        return rows.compare_and_set_together(
            [Account(ANA, version=6), Account(BEN, version=3)], [limit_row(9)]
        )

    return canceled_for


def test_every_row_is_written_under_its_own_version_and_asked_for_if_it_has_moved(
    stub: Stubber, rows: DynamoDBRows
) -> None:
    opened, moved, row = Account(ANA, version=1), Account(BEN, version=3), limit_row(9)
    expected = {"TableName": "accounts", "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    stub.add_response(
        "transact_write_items",
        {},
        {
            "TransactItems": [
                {
                    "Put": {
                        **expected,
                        "Item": account_item(opened),
                        "ConditionExpression": "attribute_not_exists(pk)",
                    }
                },
                {
                    "Put": {
                        **expected,
                        "Item": account_item(moved),
                        "ConditionExpression": "version = :read_version",
                        "ExpressionAttributeValues": {":read_version": {"N": "2"}},
                    }
                },
                {
                    "Put": {
                        **expected,
                        "Item": limit_row_item(row),
                        "ConditionExpression": "version = :read_version",
                        "ExpressionAttributeValues": {":read_version": {"N": "8"}},
                    }
                },
            ],
        },
    )

    assert rows.compare_and_set_together([opened, moved], [row]) is None


def test_a_lost_race_returns_the_rows_that_have_moved(attempt: Attempt) -> None:
    ben, row = full_account(BEN, version=4), limit_row(12)

    lost = attempt(
        NOTHING, condition_failed(account_item(ben)), condition_failed(limit_row_item(row))
    )

    assert lost == LostTogether((ben,), (row,))


def test_a_conflict_with_another_transaction_is_a_lost_race_without_rows(attempt: Attempt) -> None:
    assert attempt(NOTHING, NOTHING, CONFLICT) == LostTogether(conflicts=True)


def test_a_conflict_over_one_row_hides_no_other_row_that_has_moved(attempt: Attempt) -> None:
    ana = full_account(ANA, version=7)

    lost = attempt(condition_failed(account_item(ana)), NOTHING, CONFLICT)

    assert lost == LostTogether((ana,), conflicts=True)


@pytest.mark.parametrize(
    "code",
    [
        "ItemCollectionSizeLimitExceeded",
        "ProvisionedThroughputExceeded",
        "ThrottlingError",
        "ValidationError",
    ],
)
def test_any_other_reason_is_a_fault_and_no_lost_race(code: str, attempt: Attempt) -> None:
    reason = {"Code": code, "Message": "as DynamoDB puts it"}

    with pytest.raises(RowsUnavailable, match="TransactionCanceledException"):
        attempt(CONFLICT, condition_failed(account_item(full_account(BEN, version=4))), reason)


def test_a_row_that_was_deleted_meanwhile_is_a_fault_and_no_commit(attempt: Attempt) -> None:
    without_item = {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed"}

    with pytest.raises(RowsUnavailable, match="a row is missing"):
        attempt(NOTHING, without_item, NOTHING)


def test_a_row_of_a_newer_version_that_won_raises_our_own_error(attempt: Attempt) -> None:
    unreadable = {**limit_row_item(limit_row(12)), "counts": {"S": "[]"}}

    with pytest.raises(RowNotUnderstood, match="LIMIT#acme#team#acme#month"):
        attempt(NOTHING, NOTHING, condition_failed(unreadable))


@pytest.mark.parametrize(
    "code", ["TransactionInProgressException", "ThrottlingException", "InternalServerError"]
)
def test_a_fault_of_the_whole_call_raises_rows_unavailable(
    code: str, stub: Stubber, rows: DynamoDBRows
) -> None:
    stub.add_client_error("transact_write_items", code)

    with pytest.raises(RowsUnavailable, match=code):
        rows.compare_and_set_together([Account(ANA, version=1)], [limit_row(1)])


def test_a_commit_to_a_row_that_a_transaction_is_moving_has_lost_its_race(
    stub: Stubber, rows: DynamoDBRows
) -> None:
    there = full_account(ANA, version=7)
    stub.add_client_error("put_item", "TransactionConflictException")
    stub.add_response(
        "get_item",
        {"Item": account_item(there)},
        {"TableName": "accounts", "Key": account_key(ANA), "ConsistentRead": True},
    )

    assert rows.compare_and_set(Account(ANA, version=7)) == there


def test_a_team_that_a_transaction_is_changing_has_moved(stub: Stubber, rows: DynamoDBRows) -> None:
    there = ACME.model_copy(update={"version": 7})
    stub.add_client_error("put_item", "TransactionConflictException")
    stub.add_response("get_item", {"Item": team_item(there)})

    assert rows.compare_and_set_team(ACME.model_copy(update={"version": 7})) == there


def test_opening_a_row_that_a_transaction_is_opening_is_tried_again_later(
    stub: Stubber, rows: DynamoDBRows
) -> None:
    stub.add_client_error("put_item", "TransactionConflictException")
    stub.add_response("get_item", {})

    with pytest.raises(RowsUnavailable, match="a transaction is opening the row"):
        rows.compare_and_set(Account(ANA, version=1))


def test_each_transaction_has_a_token_of_its_own(
    client: "DynamoDBClient", rows: DynamoDBRows
) -> None:
    tokens: list[str] = []

    def answer(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        tokens.append(json.loads(request.body)["ClientRequestToken"])
        return AWSResponse(
            request.url, 200, {}, HTTPResponse(BytesIO(b"{}"), preload_content=False)
        )

    client.meta.events.register("before-send.dynamodb.TransactWriteItems", answer)
    for version in (1, 2):
        rows.compare_and_set_together([Account(ANA, version=version)], [limit_row(version)])

    assert len(set(tokens)) == len(tokens) == 2
