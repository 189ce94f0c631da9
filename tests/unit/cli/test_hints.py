"""A command in a message works as it is printed."""

import re
import shlex
import sys
import sysconfig
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from agent_credits_cli.hints import as_typed, typed
from agent_credits_cli.main import app
from agent_credits_demo.main import app as demo

SCRIPTS = Path(sysconfig.get_path("scripts"))


def context_of(*arguments: str, of: typer.Typer = app) -> typer.Context:
    """Return the context of a command line with these arguments, before it runs."""
    return typer.main.get_command(of).make_context(None, [*arguments])


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "agent-credits")])


def test_a_hint_works_as_it_is_printed(tmp_path: Path) -> None:
    runner, folder = CliRunner(), tmp_path / "a folder"

    refused = runner.invoke(app, ["--state-dir", str(folder), "account", "user:ana"])

    (hint,) = re.findall("`([^`]+)`", refused.stderr)
    program, *arguments = shlex.split(hint)
    assert Path(program) == SCRIPTS / "agent-credits"
    assert Path(program).is_file()
    assert arguments == ["--state-dir", str(folder), "local", "up"]
    assert runner.invoke(app, [*arguments, "--help"]).exit_code == 0


def test_a_hint_repeats_the_options_that_select_the_stack() -> None:
    context = context_of("--stack-name", "live", "--aws", "explain", "run-1")

    assert typed(context, "agent-credits watch --json") == (
        f"{SCRIPTS / 'agent-credits'} --aws --stack-name live watch --json"
    )


def test_a_hint_does_not_repeat_an_option_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AGENT_CREDITS_STATE_DIR", "elsewhere")

    assert typed(context_of("verify"), "agent-credits local up") == (
        f"{SCRIPTS / 'agent-credits'} local up"
    )


def test_each_program_finds_the_other_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    for program in ("agent-credits", "agent-credits-demo"):
        (tmp_path / "bin" / program).touch()
    monkeypatch.setattr(sys, "argv", ["bin/agent-credits-demo"])
    context = context_of("--state-dir", "here", "replay", of=demo)

    text = as_typed(
        context, "`agent-credits team orbit`, then `agent-credits-demo replay`, `other`"
    )

    assert text == (
        "`bin/agent-credits --state-dir here team orbit`,"
        " then `bin/agent-credits-demo --state-dir here replay`, `other`"
    )


def test_a_hint_falls_back_to_the_installed_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["-c"])

    assert typed(context_of("verify"), "agent-credits local up") == (
        f"{SCRIPTS / 'agent-credits'} local up"
    )
