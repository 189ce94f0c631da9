"""The clients of AWS that the functions call with.

They are made by botocore, the part of boto3 that calls: boto3 itself adds resources and S3
transfers, which nothing here uses and every cold start would load. Clients of one session share
what it has read about the services.
"""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from botocore.config import Config
from botocore.loaders import Loader
from botocore.session import get_session

if TYPE_CHECKING:
    from botocore.session import Session
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

# What the functions need of botocore's data: see the README there.
SERVICE_MODELS = Path(__file__).with_name("service_models")

# A call ends within the time of its function, whatever the service does. What a call is given is
# checked by the types here and by the service; checking it a third time, value by value, would be a
# tenth of what recording a batch of a hundred computes.
CALLS = Config(
    connect_timeout=1,
    read_timeout=3,
    retries={"mode": "standard", "total_max_attempts": 3},
    parameter_validation=False,
)


class ServiceModels(Loader):
    """Reads botocore's data: the small copy before the whole, and otherwise as botocore does."""

    def __init__(self, search_paths: list[str]) -> None:
        own = search_paths.index(self.BUILTIN_DATA_PATH)
        super().__init__(
            extra_search_paths=[*search_paths[:own], str(SERVICE_MODELS), *search_paths[own:]],
            include_default_search_paths=False,
        )

    def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002 - all have it.
        """Return the services that the functions call: a client of another one is refused.

        Botocore itself looks into the folder of every service of AWS, twice for each session. The
        price: STS is refused too, so that credentials cannot come from a role that a profile names;
        Lambda's come from the environment.
        """
        return sorted(path.name for path in SERVICE_MODELS.iterdir() if path.is_dir())

    def is_builtin_path(self, path: str) -> bool:
        """Return whether this is data of botocore's own, which the small copy is, too.

        Botocore takes endpoints from elsewhere for an override of what its rules say: one that it
        refuses beside dual-stack endpoints, and that hides the endpoints of an account.
        """
        return path.startswith(str(SERVICE_MODELS)) or super().is_builtin_path(path)


def aws_session() -> "Session":
    """Return a session that reads of the services only what the functions call.

    Botocore would read the whole model of each service that a client is made for, and the endpoints
    of all services: a seventh of what a cold start of `debit_runs` computes. It looks for each file
    along a search path. So models that somebody put into AWS_DATA_PATH or ~/.aws/models come first,
    and what is not in the layer, like the rules of endpoints, comes from the botocore that runs,
    whichever that is.
    """
    session = get_session()
    searched = session.get_component("data_loader").search_paths
    session.register_component("data_loader", ServiceModels(searched))
    return session


def dynamodb_client(session: "Session") -> "DynamoDBClient":
    return cast("DynamoDBClient", session.create_client("dynamodb", config=CALLS))


def secretsmanager_client(session: "Session") -> "SecretsManagerClient":
    return cast("SecretsManagerClient", session.create_client("secretsmanager", config=CALLS))


def sns_client(session: "Session") -> "SNSClient":
    return cast("SNSClient", session.create_client("sns", config=CALLS))


def sqs_client(session: "Session") -> "SQSClient":
    return cast("SQSClient", session.create_client("sqs", config=CALLS))
