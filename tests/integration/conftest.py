"""Fixtures for integration tests: the stack's tables and queue in moto, from the template."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits_cli.target import CLIENT_CONFIG, StackOutputs, Target
from tests.integration.lambda_runtime import Function, cold_start
from tests.integration.locked_moto import locked_moto
from tests.integration.stack_tables import StackTables, create_notices_table, create_tables

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

_suffixes = map(str, itertools.count())


@pytest.fixture
def aws() -> Iterator[boto3.Session]:
    with locked_moto():
        yield boto3.Session()


@pytest.fixture
def dynamodb(aws: boto3.Session) -> "DynamoDBClient":
    return aws.client("dynamodb")


@pytest.fixture
def tables(dynamodb: "DynamoDBClient") -> StackTables:
    return create_tables(dynamodb, next(_suffixes))


@pytest.fixture
def notices_table(dynamodb: "DynamoDBClient") -> str:
    return create_notices_table(dynamodb, next(_suffixes))


@pytest.fixture
def rows(dynamodb: "DynamoDBClient", tables: StackTables) -> DynamoDBRows:
    return DynamoDBRows(dynamodb, tables.accounts, tables.ledger)


@pytest.fixture
def client(aws: boto3.Session) -> "DynamoDBClient":
    """Return the client that `stub` answers. It repeats no call by itself."""
    return aws.client("dynamodb", config=Config(retries={"total_max_attempts": 1}))


@pytest.fixture
def stub(client: "DynamoDBClient") -> Iterator[Stubber]:
    """Answers instead of the service, in the order in which the test adds the answers."""
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.fixture
def sqs(aws: boto3.Session) -> "SQSClient":
    return aws.client("sqs")


@pytest.fixture
def queue_url(sqs: "SQSClient") -> str:
    return sqs.create_queue(QueueName="agent-runs")["QueueUrl"]


@pytest.fixture
def target(aws: boto3.Session, tables: StackTables, notices_table: str, queue_url: str) -> Target:
    """What commands talk to: the tables and the queue, as a deployed stack would name them."""
    outputs = {
        "AgentRunsQueueUrl": queue_url,
        "AgentRunsDeadLetterQueueUrl": f"{queue_url}-dead-letters",
        "NoticesTopicArn": "arn:aws:sns:us-east-1:000000000000:notices",
        "AnnounceFunctionName": "announce",
        "AnnounceFailuresBucketName": "announce-failures",
        "NoticesTableName": notices_table,
        "AccountsTableName": tables.accounts,
        "LedgerTableName": tables.ledger,
        "ReloadsQueueUrl": f"{queue_url}-reloads.fifo",
        "ReloadsDeadLetterQueueUrl": f"{queue_url}-reloads-dead-letters.fifo",
        "SweepsQueueUrl": f"{queue_url}-sweeps.fifo",
        "SweepsDeadLetterQueueUrl": f"{queue_url}-sweeps-dead-letters.fifo",
    }
    return Target(
        name="moto",
        stack_name="agent-credits",
        session=aws,
        config=CLIENT_CONFIG,
        endpoint_url=None,
        outputs=StackOutputs.model_validate(outputs),
    )


@pytest.fixture
def sns(aws: boto3.Session) -> "SNSClient":
    return aws.client("sns")


@pytest.fixture
def topic_arn(sns: "SNSClient") -> str:
    return sns.create_topic(Name="notices")["TopicArn"]


@pytest.fixture
def inbox_url(sqs: "SQSClient", sns: "SNSClient", topic_arn: str) -> str:
    """A queue that is subscribed to every notice."""
    url = sqs.create_queue(QueueName="inbox")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=attributes["QueueArn"])
    return url


@pytest.fixture
def s3(aws: boto3.Session) -> "S3Client":
    return aws.client("s3")


@pytest.fixture
def failures_bucket(s3: "S3Client") -> str:
    # Of its own name, as the tables are: within another moto, this one does not begin empty.
    name = f"announce-failures-{next(_suffixes)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def debit_runs_environment(tables: StackTables, queue_url: str) -> dict[str, str]:
    return {
        "STACK_NAME": "agent-credits",
        "ACCOUNTS_TABLE": tables.accounts,
        "LEDGER_TABLE": tables.ledger,
        "AGENT_RUNS_QUEUE_URL": queue_url,
        "EVENT_SIGNATURES": "off",
        "EVENT_SIGNING_SECRET_ARN": "any",
    }


@pytest.fixture
def announce(
    topic_arn: str,
    notices_table: str,
    sqs: "SQSClient",
    failures_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Function:
    environment = {
        "STACK_NAME": "agent-credits",
        "NOTICES_TOPIC_ARN": topic_arn,
        "NOTICES_TABLE": notices_table,
        "PROBLEM_TYPE_BASE_URL": "https://docs.example.com",
        "RELOADS_QUEUE_URL": sqs.create_queue(
            QueueName="reloads.fifo", Attributes={"FifoQueue": "true"}
        )["QueueUrl"],
        "ANNOUNCE_FAILURES_BUCKET": failures_bucket,
    }
    return cold_start("announce", environment, monkeypatch)
