"""The boto3 clients that the functions call AWS with, made in one place with one configuration."""

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from agent_credits.aws.threads import CONNECTIONS_MAX

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

# A call ends within its function's timeout, whatever the service does. The types check parameters,
# and so does the service. A third check in botocore would cost a tenth of the processor time of
# recording a batch of a hundred.
CALLS = Config(
    connect_timeout=1,
    read_timeout=3,
    retries={"mode": "standard", "total_max_attempts": 3},
    max_pool_connections=CONNECTIONS_MAX,
    parameter_validation=False,
)


def dynamodb_client() -> "DynamoDBClient":
    return boto3.client("dynamodb", config=CALLS)


def s3_client() -> "S3Client":
    return boto3.client("s3", config=CALLS)


def secretsmanager_client() -> "SecretsManagerClient":
    return boto3.client("secretsmanager", config=CALLS)


def sns_client() -> "SNSClient":
    return boto3.client("sns", config=CALLS)


def sqs_client() -> "SQSClient":
    return boto3.client("sqs", config=CALLS)
