"""Commands of the operator against rows of a test, without a stack to look up."""

from collections.abc import Callable
from types import ModuleType

import pytest
import typer

from agent_credits_cli.errors import CommandGroup
from agent_credits_cli.target import Target


def app_of(
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    *commands: tuple[ModuleType, Callable[..., None]],
) -> typer.Typer:
    """Return an application of these commands, each connected to this target."""
    app = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)
    for module, command in commands:
        monkeypatch.setattr(module, "connect", lambda _: target)
        app.command()(command)
    return app
