"""The command `agent-credits`: the options for every command, and the commands themselves.

The one place where the operator's commands meet the embedded stack.
"""

from typing import Annotated

import typer

from agent_credits_cli.commands import (
    account,
    announcements,
    apply,
    dead_letters,
    explain,
    grant,
    ledger,
    limits,
    notices,
    outputs,
    release,
    report,
    reservations,
    send,
    status,
    sweep,
    team,
    verify,
    watch,
)
from agent_credits_cli.conventions import CONTEXT_SETTINGS, Command, Version
from agent_credits_cli.errors import CommandGroup
from agent_credits_cli.target import choose
from agent_credits_local import commands as local
from agent_credits_local.options import StateDir
from agent_credits_local.stack_state import StateFolder
from agent_credits_local.target import connect_to_local

app = typer.Typer(
    name="agent-credits",
    cls=CommandGroup,
    context_settings=CONTEXT_SETTINGS,
    no_args_is_help=True,
    # Only a bug has a traceback, and the plain one is easier to report.
    pretty_exceptions_enable=False,
)
app.add_typer(local.app, name="local")
app.add_typer(notices.app, name="notices")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(announcements.app, name="announcements")
for command in (
    apply.apply,
    send.send,
    grant.grant,
    account.account,
    reservations.reservations,
    release.release,
    team.team,
    limits.limits,
    report.report,
    ledger.ledger,
    explain.explain,
    watch.watch,
    verify.verify,
    sweep.sweep,
    status.status,
    outputs.outputs,
):
    app.command(cls=Command)(command)


@app.callback()
def options(
    context: typer.Context,
    state_dir: StateDir,
    aws: Annotated[
        bool,
        typer.Option(
            "--aws",
            help="Use a stack on AWS, not the local stack (or set AGENT_CREDITS_TARGET=aws).",
        ),
    ] = False,
    stack_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name of the stack on AWS."),
    ] = None,
    _version: Version = False,
) -> None:
    """Meter the credits of AI-agent runs: send events, read accounts, verify the ledger."""
    context.obj = choose(
        aws=aws,
        stack_name=stack_name,
        state_path=state_dir.absolute(),
        connect_to_local=lambda path: connect_to_local(StateFolder(path)),
    )
