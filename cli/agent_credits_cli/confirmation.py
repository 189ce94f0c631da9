"""Asking before a command does what cannot be undone."""

from typing import Annotated, Final

import typer

from agent_credits_cli.errors import CommandError
from agent_credits_cli.tables import err

NOT_DONE_EXIT_STATUS: Final = 1

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def confirm(question: str) -> None:
    """Go on only if the operator means it; the question is asked on stderr."""
    try:
        is_meant = typer.confirm(question, err=True)
    except typer.Abort:
        # The cursor is still behind the question.
        err().print()
        raise CommandError("nobody answered, so nothing was done; add --yes to do it") from None
    if not is_meant:
        err().print("Nothing was done.")
        raise typer.Exit(NOT_DONE_EXIT_STATUS)
