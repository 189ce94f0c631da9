"""What Lambda does around a handler: a cold start with an environment, events, a context."""

import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from aws_lambda_powertools import Metrics
from aws_lambda_powertools.metrics.provider.cold_start import reset_cold_start_flag

from tests.template import load_template

ROOT = Path(__file__).parents[2]

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


@dataclass
class Context:
    """The part of Lambda's context that handlers read; the time left is passed in."""

    remaining_milliseconds: int = 30_000
    function_name: str = "function"
    memory_limit_in_mb: int = 1024
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:000000000000:function:function"
    aws_request_id: str = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_milliseconds


@dataclass
class Function:
    """A handler after its cold start, and what it has logged."""

    app: ModuleType
    log: io.StringIO = field(default_factory=io.StringIO)

    def invoke(self, event: dict[str, Any], context: Context | None = None) -> dict[str, Any]:
        # Lambda hands over JSON; what is not JSON could not arrive.
        event = json.loads(json.dumps(event))
        answer: dict[str, Any] = self.app.handler(event, context or Context())
        return answer

    def failed_ids(self, event: dict[str, Any], context: Context | None = None) -> list[str]:
        answer = self.invoke(event, context)
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    def lines(self, message: str) -> list[dict[str, Any]]:
        """Return the log lines with this message."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["message"] == message]


def variables_by_function() -> dict[str, set[str]]:
    """Return what the template names in the environment of each function."""
    template = load_template()
    of_all = template["Globals"]["Function"]["Environment"]["Variables"]
    functions = [
        resource["Properties"]
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::Serverless::Function"
    ]
    return {
        Path(function["CodeUri"]).name: {*of_all, *function["Environment"]["Variables"]}
        for function in functions
    }


def environment_of(function: str) -> dict[str, str]:
    """Return a function's environment variables, each with a valid value."""
    values = {
        "EVENT_SIGNATURES": "off",
        "EXPIRY_NOTICE_DAYS": "7",
    }
    return {name: values.get(name, "INFO") for name in variables_by_function()[function]}


def output_of(program: str, function: str, environment: Mapping[str, str]) -> str:
    """Run the program beside the function's `app`, in an interpreter that has loaded nothing."""
    folder = ROOT / "functions" / function
    return subprocess.run(
        [sys.executable, "-c", program],
        env={
            **environment,
            "PATH": os.environ["PATH"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "dummy",
            "AWS_SECRET_ACCESS_KEY": "dummy",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "PYTHONPATH": str(folder),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def forget_metrics() -> None:
    """Powertools keeps dimensions, and whether it has counted the cold start, in the process."""
    reset_cold_start_flag()
    metrics = Metrics()
    metrics.clear_default_dimensions()
    metrics.clear_metrics()


def cold_start(
    name: str, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> Function:
    """Import the function again, as a new Lambda environment does."""
    forget_metrics()
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", name)
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "AgentCredits")
    monkeypatch.setenv("POWERTOOLS_LOG_LEVEL", "INFO")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    module = f"functions.{name}.app"
    sys.modules.pop(module, None)
    function = Function(importlib.import_module(module))
    # Loggers outlive a cold start within one process, and so would the first one's stream.
    monkeypatch.setattr(function.app.logger.registered_handler, "stream", function.log)
    return function


def receive(sqs: "SQSClient", queue_url: str) -> list[dict[str, Any]]:
    """Return every message that is visible, as the records of a Lambda event."""
    records = []
    while messages := sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get(
        "Messages"
    ):
        records += [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
            }
            for message in messages
        ]
    return records


def send(sqs: "SQSClient", queue_url: str, bodies: Iterable[str]) -> list[str]:
    """Send the bodies and return the ids of their messages."""
    return [sqs.send_message(QueueUrl=queue_url, MessageBody=text)["MessageId"] for text in bodies]
