"""The one way in which a command fails: one line on stderr, exit status 2, no traceback."""

import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

from agent_credits.values.errors import RowNotUnderstood, RowsUnavailable
from agent_credits_cli.conventions import by_convention, in_paragraphs
from agent_credits_cli.hints import as_typed

EXIT_STATUS: Final = 2
PROGRAM: Final = "agent-credits"


class CommandError(Exception):
    """What is wrong and what to do about it, in one line. Nothing catches it but `CommandGroup`.

    Raise it for what the operator can correct; a bug keeps its traceback. A command of ours in back
    quotes is printed so that it works where this one was typed.
    """


class CommandGroup(TyperGroup):
    """Commands whose errors, and whose tables that do not answer, are reported in one line."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.help = in_paragraphs(self.help)

    def get_params(self, ctx: Any) -> list[Any]:
        return by_convention(ctx, super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CommandError, RowsUnavailable, RowNotUnderstood) as error:
            program = ctx.find_root().command.name or PROGRAM
            sys.stderr.write(f"{program}: {as_typed(ctx, str(error))}\n")
            raise typer.Exit(EXIT_STATUS) from error
