"""The stack that a command works on: the embedded one, unless AWS is asked for explicitly.

AWS needs `--aws` (or AGENT_CREDITS_TARGET=aws) and the name of a stack, and then uses the caller's
credentials like any other AWS tool. `main` passes in how to connect to the embedded stack, so that
no command depends on it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import boto3
import botocore.exceptions
import pydantic
import typer
from botocore.config import Config
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal

from agent_credits.events.signatures import SignatureMode
from agent_credits_cli.errors import CommandError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import StackTypeDef
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient


from agent_credits.aws.dynamodb_rows import DynamoDBRows

CLIENT_CONFIG: Final = Config(
    connect_timeout=5,
    # Longer than the longest wait of SQS, which is 20 seconds.
    read_timeout=30,
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=32,
)


class StackOutputs(BaseModel):
    """The outputs of the template that commands use, under their names in the template."""

    model_config = ConfigDict(frozen=True, alias_generator=to_pascal)

    agent_runs_queue_url: str
    agent_runs_dead_letter_queue_url: str
    reloads_queue_url: str
    reloads_dead_letter_queue_url: str
    sweeps_queue_url: str
    sweeps_dead_letter_queue_url: str
    notices_topic_arn: str
    announce_function_name: str
    announce_failures_bucket_name: str
    notices_table_name: str
    accounts_table_name: str
    ledger_table_name: str
    event_signatures: SignatureMode = "off"
    event_signing_secret_arn: str | None = None
    # Only where ApiEnabled is true.
    producers_api_url: str | None = None
    people_api_url: str | None = None
    # Only where SlackNotices is true.
    slack_queue_url: str | None = None
    slack_dead_letter_queue_url: str | None = None

    @classmethod
    def of(cls, outputs: Mapping[str, str], stack: str) -> Self:
        """Check the outputs of a stack. Raises `CommandError` if one is missing."""
        try:
            return cls.model_validate(outputs)
        except pydantic.ValidationError as error:
            missing = ", ".join(str(problem["loc"][0]) for problem in error.errors())
            raise CommandError(
                f"{stack} has no output {missing}; deploy this version of the template to it"
            ) from error


@dataclass(frozen=True)
class Target:
    """A deployed stack, and clients that talk to it."""

    # `name` is how messages name the stack; `stack_name` is its name in CloudFormation.
    name: str
    stack_name: str
    session: boto3.Session
    config: Config
    endpoint_url: str | None
    outputs: StackOutputs

    @cached_property
    def dynamodb(self) -> "DynamoDBClient":
        return self.session.client("dynamodb", endpoint_url=self.endpoint_url, config=self.config)

    @cached_property
    def sqs(self) -> "SQSClient":
        return self.session.client("sqs", endpoint_url=self.endpoint_url, config=self.config)

    @cached_property
    def sns(self) -> "SNSClient":
        return self.session.client("sns", endpoint_url=self.endpoint_url, config=self.config)

    @cached_property
    def secretsmanager(self) -> "SecretsManagerClient":
        return self.session.client(
            "secretsmanager", endpoint_url=self.endpoint_url, config=self.config
        )

    @cached_property
    def cloudformation(self) -> "CloudFormationClient":
        return self.session.client(
            "cloudformation", endpoint_url=self.endpoint_url, config=self.config
        )

    @cached_property
    def cloudwatch(self) -> "CloudWatchClient":
        return self.session.client("cloudwatch", endpoint_url=self.endpoint_url, config=self.config)

    @cached_property
    def logs(self) -> "CloudWatchLogsClient":
        return self.session.client("logs", endpoint_url=self.endpoint_url, config=self.config)

    @cached_property
    def s3(self) -> "S3Client":
        return self.session.client("s3", endpoint_url=self.endpoint_url, config=self.config)

    @cached_property
    def functions(self) -> "LambdaClient":
        return self.session.client("lambda", endpoint_url=self.endpoint_url, config=self.config)

    def posted_to_slack(self) -> Sequence[Mapping[str, Any]] | None:
        """Return what this stack has posted to Slack so far; None if only Slack knows."""
        return None

    def reachable(self, outputs: Mapping[str, str]) -> Mapping[str, str]:
        """Return the stack's outputs with addresses that this machine can reach."""
        return outputs


@dataclass(frozen=True)
class Choice:
    """The stack that the options before the command select."""

    # The folder of the local stack's state, and how to connect to the stack of such a folder.
    state_path: Path
    connect_to_local: Callable[[Path], Target]
    aws_stack_name: str | None = None


def choose(
    *,
    aws: bool,
    stack_name: str | None,
    state_path: Path,
    connect_to_local: Callable[[Path], Target],
) -> Choice:
    """Return the choice that the options of the command line and the environment make."""
    wanted = os.environ.get("AGENT_CREDITS_TARGET", "local")
    if wanted not in ("local", "aws"):
        raise CommandError(f"AGENT_CREDITS_TARGET is {wanted!r}; set it to `local` or `aws`")
    if not aws and wanted == "local":
        if stack_name is not None:
            raise CommandError("--stack-name names a stack on AWS; add --aws, or leave it out")
        return Choice(state_path, connect_to_local)
    if stack_name is None:
        raise CommandError("no stack on AWS is named; name it with --stack-name")
    return Choice(state_path, connect_to_local, aws_stack_name=stack_name)


def choice_of(context: typer.Context) -> Choice:
    choice = context.find_object(Choice)
    assert choice is not None, "the main command chooses before any other command runs"
    return choice


def connect(context: typer.Context) -> Target:
    """Return the target of a command. A command needs no other call of this module."""
    choice = choice_of(context)
    if choice.aws_stack_name is None:
        return choice.connect_to_local(choice.state_path)
    return connect_to_aws(choice.aws_stack_name)


def aws_session() -> boto3.Session:
    """Return a session in AWS_REGION, as AWS's own tools; boto3 reads AWS_DEFAULT_REGION alone."""
    return boto3.Session(region_name=os.environ.get("AWS_REGION") or None)


def connect_to_aws(stack_name: str) -> Target:
    try:
        session = aws_session()
        outputs = deployed_outputs(session, CLIENT_CONFIG, None, stack_name)
    except botocore.exceptions.NoRegionError as error:
        raise CommandError(
            f"no AWS region is set; set AWS_REGION to the region of the stack {stack_name}"
        ) from error
    except botocore.exceptions.NoCredentialsError as error:
        raise CommandError(
            "no AWS credentials were found; sign in with `aws sso login`, or set AWS_PROFILE"
        ) from error
    except (
        botocore.exceptions.ClientError,
        botocore.exceptions.HTTPClientError,
        botocore.exceptions.ProfileNotFound,
    ) as error:
        raise CommandError(
            f"{error}; so the stack {stack_name} cannot be read: check its name, and your"
            " credentials and region"
        ) from error
    name = f"the stack {stack_name} in {session.region_name}"
    return Target(
        name=name,
        stack_name=stack_name,
        session=session,
        config=CLIENT_CONFIG,
        endpoint_url=None,
        outputs=StackOutputs.of(outputs, name),
    )


def deployed_outputs(
    session: boto3.Session, config: Config, endpoint_url: str | None, stack_name: str
) -> Mapping[str, str]:
    cloudformation = session.client("cloudformation", endpoint_url=endpoint_url, config=config)
    return outputs_of(described(cloudformation, stack_name))


def described(client: "CloudFormationClient", stack_name: str) -> "StackTypeDef":
    (stack,) = client.describe_stacks(StackName=stack_name)["Stacks"]
    return stack


def outputs_of(stack: "StackTypeDef") -> dict[str, str]:
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def rows_of(target: Target) -> DynamoDBRows:
    outputs = target.outputs
    return DynamoDBRows(target.dynamodb, outputs.accounts_table_name, outputs.ledger_table_name)
