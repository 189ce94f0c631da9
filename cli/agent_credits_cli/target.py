"""Where a command talks to: the embedded stack unless AWS is asked for by name.

The embedded stack gets dummy keys, an explicit endpoint and nothing of the caller's configuration,
so a command meant for it cannot reach an account. AWS needs `--aws` (or AGENT_CREDITS_TARGET=aws)
together with the name of a stack, and then uses the caller's credentials like any other AWS tool.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
import botocore.exceptions
import botocore.session
import pydantic
import typer
from botocore.config import Config
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal

from agent_credits.events.signatures import SignatureMode
from agent_credits_cli.errors import CommandError
from agent_credits_cli.local_state import StateFolder
from agent_credits_cli.payment_stand_in import PaymentStandIn
from agent_credits_cli.slack_stand_in import SlackStandIn

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

LOCAL_REGION: Final = "us-east-1"
LOCAL_KEY: Final = "test"

CLIENT_CONFIG: Final = Config(
    connect_timeout=5,
    # Longer than the longest wait of SQS, which is 20 seconds.
    read_timeout=30,
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=32,
)
# A proxy would not find the loopback address of this machine.
LOCAL_CLIENT_CONFIG: Final = CLIENT_CONFIG.merge(Config(proxies={}))


class StackOutputs(BaseModel):
    """The outputs of the template that commands use, under their names in the template."""

    model_config = ConfigDict(frozen=True, alias_generator=to_pascal)

    agent_runs_queue_url: str
    agent_runs_dead_letter_queue_url: str
    reloads_queue_url: str
    sweeps_queue_url: str
    notices_topic_arn: str
    accounts_table_name: str
    ledger_table_name: str
    event_signatures: SignatureMode = "off"
    event_signing_secret_arn: str | None = None


@dataclass(frozen=True)
class Choice:
    """What the options in front of every command say about where it talks to."""

    state_folder: StateFolder
    aws_stack_name: str | None = None


@dataclass(frozen=True)
class Target:
    """A deployed stack, and clients that talk to it."""

    name: str
    session: boto3.Session
    config: Config
    endpoint_url: str | None
    outputs: StackOutputs
    # Where a local stack's reloads are paid; on AWS that is Stripe itself.
    payment_stand_in: PaymentStandIn | None = None
    # Where its notices for Slack are posted.
    slack_stand_in: SlackStandIn | None = None

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
    def logs(self) -> "CloudWatchLogsClient":
        return self.session.client("logs", endpoint_url=self.endpoint_url, config=self.config)


def choose(*, aws: bool, stack_name: str | None, state_path: Path) -> Choice:
    """Turn the options of the command line, and the environment behind them, into a choice."""
    wanted = os.environ.get("AGENT_CREDITS_TARGET", "local")
    if wanted not in ("local", "aws"):
        raise CommandError(f"AGENT_CREDITS_TARGET is {wanted!r}; set it to `local` or `aws`")
    if not aws and wanted == "local":
        if stack_name is not None:
            raise CommandError("--stack-name names a stack on AWS; add --aws, or leave it out")
        return Choice(StateFolder(state_path))
    if stack_name is None:
        raise CommandError("which stack on AWS? name it with --stack-name")
    return Choice(StateFolder(state_path), aws_stack_name=stack_name)


def choice_of(context: typer.Context) -> Choice:
    choice = context.find_object(Choice)
    assert choice is not None, "the main command chooses before any other command runs"
    return choice


def connect(context: typer.Context) -> Target:
    """The target of a command. This is the only call a command needs."""
    choice = choice_of(context)
    if choice.aws_stack_name is None:
        return connect_to_local(choice.state_folder)
    return connect_to_aws(choice.aws_stack_name)


def connect_to_local(folder: StateFolder) -> Target:
    state = folder.read()
    if state is None or not state.is_usable():
        raise CommandError("the local stack is not up; start it with `agent-credits local up`")
    return Target(
        name="the local stack",
        session=local_session(),
        config=LOCAL_CLIENT_CONFIG,
        endpoint_url=state.emulator.endpoint_url,
        outputs=_checked(state.outputs, "the local stack"),
        payment_stand_in=state.payment_stand_in,
        slack_stand_in=state.slack_stand_in,
    )


def connect_to_aws(stack_name: str) -> Target:
    try:
        session = boto3.Session()
        outputs = deployed_outputs(session, CLIENT_CONFIG, None, stack_name)
    except (
        botocore.exceptions.ClientError,
        botocore.exceptions.HTTPClientError,
        botocore.exceptions.NoCredentialsError,
        botocore.exceptions.NoRegionError,
        botocore.exceptions.ProfileNotFound,
    ) as error:
        raise CommandError(
            f"AWS does not tell about the stack {stack_name} ({error});"
            " check its name, and your credentials and region"
        ) from error
    name = f"the stack {stack_name} in {session.region_name}"
    return Target(
        name=name,
        session=session,
        config=CLIENT_CONFIG,
        endpoint_url=None,
        outputs=_checked(outputs, name),
    )


def local_session() -> boto3.Session:
    """A session that takes nothing from the caller's environment or configuration files."""
    unconfigured = botocore.session.Session()
    # The session's own setter takes None for "not set", and would then ask the environment.
    settings = unconfigured.get_component("config_store")
    settings.set_config_variable("profile", None)
    settings.set_config_variable("config_file", os.devnull)
    settings.set_config_variable("credentials_file", os.devnull)
    return boto3.Session(
        aws_access_key_id=LOCAL_KEY,
        aws_secret_access_key=LOCAL_KEY,
        region_name=LOCAL_REGION,
        botocore_session=unconfigured,
    )


def deployed_outputs(
    session: boto3.Session, config: Config, endpoint_url: str | None, stack_name: str
) -> Mapping[str, str]:
    cloudformation = session.client("cloudformation", endpoint_url=endpoint_url, config=config)
    (stack,) = cloudformation.describe_stacks(StackName=stack_name)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def _checked(outputs: Mapping[str, str], name: str) -> StackOutputs:
    try:
        return StackOutputs.model_validate(outputs)
    except pydantic.ValidationError as error:
        missing = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise CommandError(
            f"{name} has no output {missing}; deploy this version of the template to it"
        ) from error
