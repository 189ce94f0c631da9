"""The one way in which a command refuses: one line on stderr, exit status 2, no traceback."""

import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

from agent_credits.values.errors import RowNotUnderstood, RowsUnavailable

EXIT_STATUS: Final = 2


class CommandError(Exception):
    """What is wrong and what to do about it, in one line. Nothing catches it but `CommandGroup`.

    Raise it for what the operator can put right; a bug keeps its traceback.
    """


class CommandGroup(TyperGroup):
    """Commands whose refusals, and whose tables that do not answer, are one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CommandError, RowsUnavailable, RowNotUnderstood) as refusal:
            sys.stderr.write(f"agent-credits: {refusal}\n")
            raise typer.Exit(EXIT_STATUS) from refusal
