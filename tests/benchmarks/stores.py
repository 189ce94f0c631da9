"""The stores that designs are measured on, and the connections to them."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from botocore.config import Config

from agent_credits.aws.threads import CONNECTIONS_MAX
from agent_credits_local.session import LOCAL_CLIENT_CONFIG, local_session

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


@dataclass(frozen=True, slots=True)
class Network:
    """What a store on this machine lacks: a request takes so much longer, whatever it asks for.

    A transaction takes as long as so many requests, because it prepares and commits.
    """

    request_milliseconds: float = 0
    transaction_requests: int = 1

    @property
    def title(self) -> str:
        if not self.request_milliseconds:
            return "none"
        request = f"{self.request_milliseconds:g} ms a request"
        if self.transaction_requests == 1:
            return f"{request}, also a transaction"
        transaction = self.transaction_requests * self.request_milliseconds
        return f"{request}, {transaction:g} ms a transaction"

    def seconds(self, operation: str) -> float:
        requests = self.transaction_requests if operation == "TransactWriteItems" else 1
        return requests * self.request_milliseconds / 1_000


NEAR = Network()


def connect(address: str, network: Network = NEAR) -> Any:
    """Connect to an emulator of DynamoDB by its URL, or to PostgreSQL by its connection string."""
    if not address.startswith("http"):
        assert network == NEAR, "only requests to DynamoDB are held up"
        return psycopg.connect(address, autocommit=True)
    client = dynamodb_client(address)
    if network != NEAR:
        client.meta.events.register(
            "before-call.dynamodb", lambda model, **_: time.sleep(network.seconds(model.name))
        )
    return client


def dynamodb_client(endpoint_url: str) -> "DynamoDBClient":
    # With as many connections as the functions' client has.
    config = LOCAL_CLIENT_CONFIG.merge(Config(max_pool_connections=CONNECTIONS_MAX))
    return local_session().client("dynamodb", endpoint_url=endpoint_url, config=config)
