"""The counters count what they say they do."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import boto3
import pytest

from tests.benchmarks.capacity import consumption_of, read_units, write_units_of_inserts
from tests.benchmarks.references.tables import create_table
from tests.benchmarks.round_trips import round_trips_of
from tests.integration.locked_moto import locked_moto

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEY = {"pk": {"S": "a"}}


@pytest.fixture
def dynamodb() -> Iterator["DynamoDBClient"]:
    with locked_moto():
        client = boto3.client("dynamodb")
        create_table(client, "table", keys={"pk": "HASH"})
        yield client


def item_of(size: int) -> dict[str, dict[str, str]]:
    return {**KEY, "text": {"S": "x" * (size - len("pk" + "a" + "text"))}}


@pytest.mark.parametrize(("size", "units"), [(100, 1), (4096, 1), (4097, 2)])
def test_a_strong_read_costs_a_unit_for_each_4_kb_begun(size: int, units: int) -> None:
    asked = {"TableName": "table", "ConsistentRead": True}

    assert read_units({"Item": item_of(size)}, asked) == {"table": units}


def test_a_key_that_names_no_item_costs_a_unit_as_well() -> None:
    asked = {
        "RequestItems": {
            "table": {"Keys": [KEY] * 3, "ConsistentRead": True},
            "another": {"Keys": [KEY], "ConsistentRead": True},
        }
    }

    units = read_units({"Responses": {"table": [item_of(5000)]}}, asked)

    assert units == {"table": 2 + 1 + 1, "another": 1}


def test_a_cheaper_read_is_not_counted_as_a_strong_one() -> None:
    with pytest.raises(AssertionError, match="eventually consistent"):
        read_units({}, {"ConsistentRead": False})


def test_an_insertion_costs_a_unit_for_each_kb_begun() -> None:
    statement = "INSERT INTO \"table\" VALUE {'pk': ?, 'text': ?}"
    statements = [
        {"Statement": statement, "Parameters": list(item_of(size).values())}
        for size in (1024, 1025)
    ]

    assert write_units_of_inserts({"Statements": statements}) == {"table": 1 + 2}


def test_requests_and_units_are_counted_while_the_counting_lasts(
    dynamodb: "DynamoDBClient",
) -> None:
    dynamodb.put_item(TableName="table", Item=KEY)
    with consumption_of(dynamodb) as consumed:
        dynamodb.put_item(TableName="table", Item=KEY)
        dynamodb.get_item(TableName="table", Key=KEY, ConsistentRead=True)
    dynamodb.get_item(TableName="table", Key=KEY, ConsistentRead=True)

    assert consumed.requests == {"PutItem": 1, "GetItem": 1}
    assert (consumed.write_units, consumed.read_units) == (1, 1)
    assert consumed.write_units_by_table == {"table": 1}


def test_a_call_that_fails_is_not_passed_over(dynamodb: "DynamoDBClient") -> None:
    with consumption_of(dynamodb), pytest.raises(AssertionError, match="PutItem failed"):
        dynamodb.put_item(
            TableName="table", Item=KEY, ConditionExpression="attribute_exists(nowhere)"
        )


def test_calls_that_follow_one_another_are_round_trips_of_their_own(
    dynamodb: "DynamoDBClient",
) -> None:
    with round_trips_of(dynamodb, hold_up=lambda: None) as round_trips:
        for _ in range(3):
            dynamodb.put_item(TableName="table", Item=KEY)

    assert round_trips.sequential == 3


def test_calls_made_side_by_side_are_one_round_trip(dynamodb: "DynamoDBClient") -> None:
    all_made = Barrier(4, timeout=30)
    with (
        round_trips_of(dynamodb, hold_up=all_made.wait) as round_trips,
        ThreadPoolExecutor(4) as pool,
    ):
        for _ in range(2):
            list(pool.map(lambda _: dynamodb.put_item(TableName="table", Item=KEY), range(4)))

    assert round_trips.sequential == 2
