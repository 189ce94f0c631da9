"""A stack that requires signatures: what its own key signed is debited, and nothing else is."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from agent_credits_cli.commands import send as send_module
from agent_credits_cli.commands.dead_letters import DeadLetter, read_dead_letters
from agent_credits_cli.target import StackOutputs, Target, deployed_outputs, rows_of
from agent_credits_local.checkout import this_checkout
from agent_credits_local.deployment import Deployment
from agent_credits_local.stack_state import StateFolder
from agent_credits_local.target import LocalTarget
from tests.unit.builders import ACME, ANA, POLICY, body, grant_change, open_account, usage

STACK_NAME = "agent-credits-signed"
ANOTHER_KEY = "a-key-of-the-right-length-that-nobody-put-into-the-secret"
SECONDS_MAX = 60.0
LOOK_EVERY_SECONDS = 0.5
LETTERS_MAX = 10


@pytest.fixture(scope="module")
def signed_stack(stack: LocalTarget, stack_folder: StateFolder) -> Iterator[Target]:
    """A second stack beside the one of the other tests, of what was built for that one."""
    assert stack.endpoint_url
    deployment = Deployment(
        stack_folder,
        this_checkout(),
        stack.endpoint_url,
        stack.payment_stand_in.endpoint_url,
        stack.slack_stand_in.endpoint_url,
        Console(stderr=True),
    )
    deployment.deploy(STACK_NAME, "RequireSignedEvents=true")
    outputs = deployed_outputs(stack.session, stack.config, stack.endpoint_url, STACK_NAME)
    yield replace(stack, outputs=StackOutputs.of(outputs, STACK_NAME))
    # Its functions would go on polling beside those of the tests that follow.
    stack.session.client(
        "cloudformation", endpoint_url=stack.endpoint_url, config=stack.config
    ).delete_stack(StackName=STACK_NAME)


@pytest.fixture
def key(signed_stack: Target) -> str:
    """The key that was made with the stack, from where a producer gets it."""
    secret_arn = signed_stack.outputs.event_signing_secret_arn
    assert secret_arn
    secret = signed_stack.secretsmanager.get_secret_value(SecretId=secret_arn)["SecretString"]
    (value,) = json.loads(secret).values()
    return str(value)


@pytest.fixture
def send(
    signed_stack: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str | None], None]:
    """Send an event by the command line, signed with this key unless it is None."""
    monkeypatch.setattr(send_module, "connect", lambda _: signed_stack)
    app = typer.Typer()
    app.command()(send_module.send)

    def send(event_id: str, key: str | None) -> None:
        options = []
        if key is not None:
            file = tmp_path / event_id
            file.write_text(key)
            options = [f"--sign-with=k1:{file}"]
        sent = CliRunner().invoke(app, ["-", *options], input=body(usage(event_id)))
        assert sent.exit_code == 0, sent.output

    return send


def recorded(target: Target) -> list[str]:
    account = rows_of(target).read_account(ANA)
    assert account is not None
    return [entry.identity.id for entry in account.entries if entry.identity.realm == "RUN"]


def once_decided(target: Target, debited: int, rejected: int) -> list[DeadLetter]:
    """Return what was set aside when so many events are debited and so many messages rejected."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        letters = read_dead_letters(target, LETTERS_MAX, datetime.now(UTC))
        if len(letters) == rejected and len(recorded(target)) == debited:
            return letters
        assert time.monotonic() < deadline, f"{len(letters)} rejected, {recorded(target)} debited"
        time.sleep(LOOK_EVERY_SECONDS)


def test_only_what_a_key_of_the_stack_signed_is_debited(
    signed_stack: Target, key: str, send: Callable[[str, str | None], None]
) -> None:
    rows = rows_of(signed_stack)
    rows.put_policy(POLICY)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
    open_account(rows, grant_change("g-1", credits="1000"))

    send("unsigned", None)
    send("forged", ANOTHER_KEY)
    send("signed", key)

    letters = once_decided(signed_stack, debited=1, rejected=2)
    assert recorded(signed_stack) == ["signed"]
    assert {letter.event_ids: letter.code for letter in letters} == {
        ("unsigned",): "unsigned",
        ("forged",): "bad_signature",
    }
