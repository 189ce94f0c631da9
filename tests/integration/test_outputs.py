"""`agent-credits outputs`, over a stack of CloudFormation: for people, programs and shells."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from botocore.stub import Stubber
from typer.testing import CliRunner, Result

from agent_credits_cli.commands import outputs
from agent_credits_cli.commands.outputs import variable_of
from agent_credits_cli.errors import CommandGroup
from agent_credits_cli.target import Target
from tests.template import load_template
from tests.unit.builders import NOW

# Nothing of it may be read by the shell.
HOSTILE = 'it\'s $HOME; `id` "$(id)" \\ *\nsecond line'
VALUES = {"NoticesTopicArn": "arn:aws:sns:us-east-1:1:notices", "AgentRunsQueueUrl": HOSTILE}

Run = Callable[..., Result]


def answer(stack_name: str) -> dict[str, Any]:
    return {
        "Stacks": [
            {
                "StackName": stack_name,
                "StackStatus": "CREATE_COMPLETE",
                "CreationTime": NOW,
                "Outputs": [{"OutputKey": n, "OutputValue": v} for n, v in VALUES.items()],
            }
        ]
    }


@pytest.fixture
def run(target: Target, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    # moto's CloudFormation needs the packages of every other service.
    stubber = Stubber(target.cloudformation)
    name = {"StackName": target.stack_name}
    for _ in range(2):
        stubber.add_response("describe_stacks", answer(target.stack_name), name)
    stubber.add_client_error("describe_stacks", "ValidationError", "no such stack")
    monkeypatch.setattr(outputs, "connect", lambda _: target)
    app = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)
    app.command()(outputs.outputs)
    app.callback()(lambda: None)
    with stubber:
        yield lambda *arguments: CliRunner().invoke(app, ["outputs", *arguments])


def test_a_shell_that_evaluates_the_exports_has_each_output_as_it_is(run: Run) -> None:
    exports = run("--export").stdout

    shown = subprocess.run(
        ["/bin/sh", "-euc", f'{exports}\nenv -0 | tr "\\0" "\\1"'],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    variables = dict(pair.split("=", 1) for pair in shown.split("\1") if "=" in pair)

    assert variables["AGENT_RUNS_QUEUE_URL"] == HOSTILE
    assert variables["NOTICES_TOPIC_ARN"] == VALUES["NoticesTopicArn"]


def test_outputs_are_listed_in_alphabetical_order(run: Run) -> None:
    as_json, as_lines = run("--json"), run()

    assert json.loads(as_json.stdout) == VALUES
    assert list(json.loads(as_json.stdout)) == sorted(VALUES)
    assert "NoticesTopicArn    arn:aws:sns:us-east-1:1:notices\n" in as_lines.stdout


def test_two_forms_at_once_are_rejected(run: Run) -> None:
    rejected = run("--export", "--json")

    assert rejected.exit_code == 2
    assert "leave out one" in rejected.stderr


def test_a_stack_that_is_gone_is_named(run: Run) -> None:
    run()
    run()

    failed = run()

    assert failed.exit_code == 2
    assert failed.stderr.startswith("agent-credits: An error occurred (ValidationError)")
    assert failed.stderr.count("\n") == 1


def test_each_output_of_the_template_has_a_variable_of_its_own() -> None:
    names = load_template()["Outputs"]

    variables = {variable_of(name) for name in names}

    assert len(variables) == len(names)
    assert all(variable.isidentifier() and variable.isupper() for variable in variables)
    assert {"AGENT_RUNS_QUEUE_URL", "STRIPE_SECRET_ARN", "SLACK_SECRET_ARN"} <= variables
