"""The one way in which a command fails: one line on stderr, exit status 2, no traceback."""

import sys
from typing import Any, Final

import typer
from botocore.exceptions import BotoCoreError, ClientError
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


# A missing permission is a `ClientError`, and only its own words name the action.
FAILURES: Final = (CommandError, RowsUnavailable, RowNotUnderstood, BotoCoreError, ClientError)


class CommandGroup(TyperGroup):
    """Commands whose errors are reported in one line, and so is an AWS that does not answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.help = in_paragraphs(self.help)

    def get_params(self, ctx: Any) -> list[Any]:
        return by_convention(ctx, super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FAILURES as error:
            program = ctx.find_root().command.name or PROGRAM
            sys.stderr.write(f"{program}: {as_typed(ctx, str(error))}\n")
            raise typer.Exit(EXIT_STATUS) from error


def has_subcommand(context: typer.Context) -> bool:
    """Return whether a command of this group follows, and not the group's own.

    Options in front of it belong to the group's own command, and would be silently without effect.
    """
    if context.invoked_subcommand is None:
        return False
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            raise CommandError(
                f"{parameter.opts[0]} has no effect in front of {context.invoked_subcommand};"
                " leave it out, or put it behind"
            )
    return True
