"""moto behind one lock, so that it keeps what DynamoDB promises: a conditional write is atomic.

On its own moto reads, compares and writes in steps that threads can fall between: several writers
then win one compare-and-set, and a test of concurrency proves nothing. Every request passes through
one function, and with one lock around that each request is one step, as it is on AWS.

PartiQL's INSERT is put right as well: moto's own ignores the parameters of a statement, and
overwrites an item that is there.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import botocore.loaders
import botocore.session
import moto
from moto.core.botocore_stubber import BotocoreStubber
from moto.dynamodb.exceptions import ConditionalCheckFailed
from moto.dynamodb.models import DynamoDBBackend

from tests.ledger_statements import inserted_item

REGION = "us-east-1"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
}

# What botocore knows of the services. It is megabytes of JSON, the same for every session, and a
# test that read it again would mostly do that.
SERVICES = botocore.loaders.create_loader()


@contextmanager
def locked_moto() -> Iterator[None]:
    """Serve every call of boto3 from memory, one at a time, with nothing there at first."""
    lock = threading.Lock()
    answer = BotocoreStubber.__call__

    def answer_alone(stubber: BotocoreStubber, *args: Any, **kwargs: Any) -> Any:
        with lock:
            return answer(stubber, *args, **kwargs)

    def insert(backend: DynamoDBBackend, statements: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [_insert(backend, statement) for statement in statements]

    # Without a profile or endpoint, because moto answers only for the addresses of AWS itself.
    elsewhere = {name: v for name, v in os.environ.items() if not name.startswith("AWS_")}
    with (
        mock.patch.dict("os.environ", elsewhere | ENVIRONMENT, clear=True),
        mock.patch.object(botocore.session, "create_loader", return_value=SERVICES),
        mock.patch.object(BotocoreStubber, "__call__", answer_alone),
        mock.patch.object(DynamoDBBackend, "batch_execute_statement", insert),
        moto.mock_aws(),
    ):
        yield


def _insert(backend: DynamoDBBackend, statement: dict[str, Any]) -> dict[str, Any]:
    table, item = inserted_item(statement)
    try:
        backend.put_item(table, item, condition_expression="attribute_not_exists(pk)")
    except ConditionalCheckFailed:
        message = "Duplicate primary key exists in table"
        return {"Error": {"Code": "DuplicateItem", "Message": message}, "TableName": table}
    return {"TableName": table}
