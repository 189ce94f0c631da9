"""Every command takes `-h` and `--version`, and its help names values as usual."""

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agent_credits_cli.main import app
from agent_credits_demo.main import app as demo_app


def paths(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield prefix
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from paths(command, (*prefix, name))
        else:
            yield (*prefix, name)


COMMANDS = [
    pytest.param(program, path, id=" ".join((name, *path)))
    for name, program in (("agent-credits", app), ("agent-credits-demo", demo_app))
    for path in paths(typer.main.get_command(program))
]


@pytest.mark.parametrize(("program", "path"), COMMANDS)
def test_every_command_prints_the_version(program: typer.Typer, path: tuple[str, ...]) -> None:
    printed = CliRunner().invoke(program, [*path, "--version"])

    assert printed.exit_code == 0
    assert printed.output == f"agent-credits {importlib.metadata.version('agent-credits')}\n"


@pytest.mark.parametrize(
    "command", [("notices",), ("ledger", "user:ana"), ("dead-letters",), ("announcements", "list")]
)
def test_a_limit_that_no_list_can_have_is_wrong_usage(command: tuple[str, ...]) -> None:
    rejected = CliRunner().invoke(app, [*command, "--limit", "9" * 20])

    assert rejected.exit_code == 2
    assert "Invalid value for '--limit'" in rejected.stderr


@pytest.mark.parametrize(("program", "path"), COMMANDS)
def test_every_command_shows_help_without_types_of_python(
    program: typer.Typer, path: tuple[str, ...]
) -> None:
    short, long = (CliRunner().invoke(program, [*path, option]) for option in ("-h", "--help"))

    assert short.exit_code == 0
    assert short.output == long.output
    for unusual in ("<str>", "<bool>", "<int", "<path>", "{"):
        assert unusual not in short.output
