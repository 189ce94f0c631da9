"""The one way in which a command refuses: one line on stderr, exit status 2, no traceback."""

import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

from agent_credits.values.errors import RowNotUnderstood, RowsUnavailable
from agent_credits_cli.hints import as_typed

EXIT_STATUS: Final = 2
PROGRAM: Final = "agent-credits"


class CommandError(Exception):
    """What is wrong and what to do about it, in one line. Nothing catches it but `CommandGroup`.

    Raise it for what the operator can put right; a bug keeps its traceback. A command of ours that
    it names in back quotes is printed as it works where this one was typed.
    """


class CommandGroup(TyperGroup):
    """Commands whose refusals, and whose tables that do not answer, are one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CommandError, RowsUnavailable, RowNotUnderstood) as refusal:
            sys.stderr.write(f"{self.name or PROGRAM}: {as_typed(ctx, str(refusal))}\n")
            raise typer.Exit(EXIT_STATUS) from refusal
