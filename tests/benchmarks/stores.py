"""The stores that designs are measured on, and the connections to them."""

import time
from typing import TYPE_CHECKING, Any

import psycopg

from agent_credits_cli.target import LOCAL_CLIENT_CONFIG, local_session

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def connect(address: str, added_seconds: float = 0) -> Any:
    """Connect to an emulator of DynamoDB by its URL, or to PostgreSQL by its connection string.

    `added_seconds` are added to each request, for the network that a store on this machine lacks.
    """
    if not address.startswith("http"):
        assert not added_seconds, "only requests to DynamoDB are held up"
        return psycopg.connect(address, autocommit=True)
    client = dynamodb_client(address)
    if added_seconds:
        client.meta.events.register("before-call.dynamodb", lambda **_: time.sleep(added_seconds))
    return client


def dynamodb_client(endpoint_url: str) -> "DynamoDBClient":
    return local_session().client("dynamodb", endpoint_url=endpoint_url, config=LOCAL_CLIENT_CONFIG)
