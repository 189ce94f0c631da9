"""The clients of AWS that the functions call with.

They are made by botocore, the part of boto3 that calls: boto3 itself adds resources and S3
transfers, which nothing here uses and every cold start would load. Clients of one session share
what it has read about the services.
"""

from typing import TYPE_CHECKING, cast

from botocore.config import Config

if TYPE_CHECKING:
    from botocore.session import Session
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

# A call ends within the time of its function, whatever the service does. What a call is given is
# checked by the types here and by the service; checking it a third time, value by value, would be a
# tenth of what recording a batch of a hundred computes.
CALLS = Config(
    connect_timeout=1,
    read_timeout=3,
    retries={"mode": "standard", "total_max_attempts": 3},
    parameter_validation=False,
)


def dynamodb_client(session: "Session") -> "DynamoDBClient":
    return cast("DynamoDBClient", session.create_client("dynamodb", config=CALLS))


def secretsmanager_client(session: "Session") -> "SecretsManagerClient":
    return cast("SecretsManagerClient", session.create_client("secretsmanager", config=CALLS))


def sns_client(session: "Session") -> "SNSClient":
    return cast("SNSClient", session.create_client("sns", config=CALLS))


def sqs_client(session: "Session") -> "SQSClient":
    return cast("SQSClient", session.create_client("sqs", config=CALLS))
