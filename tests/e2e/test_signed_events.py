"""A live stack that begins to require signatures loses no event and keeps its key."""

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
from agent_credits_cli.dead_letters import DeadLetter, read_dead_letters
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


class SignedStack:
    """A second stack beside the one of the other tests, of what was built for that one."""

    def __init__(self, stack: LocalTarget, deployment: Deployment) -> None:
        self._stack = stack
        self._deployment = deployment

    def deploy(self, mode: str) -> Target:
        self._deployment.deploy(STACK_NAME, f"EventSignatures={mode}")
        stack = self._stack
        outputs = deployed_outputs(stack.session, stack.config, stack.endpoint_url, STACK_NAME)
        return replace(stack, stack_name=STACK_NAME, outputs=StackOutputs.of(outputs, STACK_NAME))


@pytest.fixture
def signed_stack(stack: LocalTarget, stack_folder: StateFolder) -> Iterator[SignedStack]:
    assert stack.endpoint_url
    deployment = Deployment(
        stack_folder,
        this_checkout(),
        stack.endpoint_url,
        stack.payment_stand_in.endpoint_url,
        stack.slack_stand_in.endpoint_url,
        Console(stderr=True),
    )
    yield SignedStack(stack, deployment)
    # Its functions would go on polling beside those of the tests that follow.
    stack.session.client(
        "cloudformation", endpoint_url=stack.endpoint_url, config=stack.config
    ).delete_stack(StackName=STACK_NAME)


def key_of(target: Target) -> str:
    """Return the key that was made with the stack, from where a producer gets it."""
    secret_arn = target.outputs.event_signing_secret_arn
    assert secret_arn
    secret = target.secretsmanager.get_secret_value(SecretId=secret_arn)["SecretString"]
    (value,) = json.loads(secret).values()
    return str(value)


@pytest.fixture
def send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Target, str, str | None], None]:
    """Send an event with the command line, signed with this key unless it is None."""
    app = typer.Typer()
    app.command()(send_module.send)

    def send(target: Target, event_id: str, key: str | None) -> None:
        monkeypatch.setattr(send_module, "connect", lambda _: target)
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
    """Wait for this many debits and rejections; return the rejected messages."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        letters = read_dead_letters(target, LETTERS_MAX, datetime.now(UTC))
        if len(letters) == rejected and len(recorded(target)) == debited:
            return letters
        assert time.monotonic() < deadline, f"{len(letters)} rejected, {recorded(target)} debited"
        time.sleep(LOOK_EVERY_SECONDS)


def test_a_live_stack_starts_to_require_signatures(
    signed_stack: SignedStack, send: Callable[[Target, str, str | None], None]
) -> None:
    changing_over = signed_stack.deploy("check-signed")
    key = key_of(changing_over)
    rows = rows_of(changing_over)
    rows.put_policy(POLICY)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
    open_account(rows, grant_change("g-1", credits="1000"))

    send(changing_over, "not-yet-signing", None)
    send(changing_over, "signing", key)
    send(changing_over, "forged", ANOTHER_KEY)

    once_decided(changing_over, debited=2, rejected=1)
    assert sorted(recorded(changing_over)) == ["not-yet-signing", "signing"]

    changed_over = signed_stack.deploy("require")
    assert key_of(changed_over) == key
    send(changed_over, "unsigned", None)
    send(changed_over, "signed", key)

    letters = once_decided(changed_over, debited=3, rejected=2)
    assert sorted(recorded(changed_over)) == ["not-yet-signing", "signed", "signing"]
    assert {letter.event_ids: letter.code for letter in letters} == {
        ("unsigned",): "unsigned",
        ("forged",): "bad_signature",
    }
