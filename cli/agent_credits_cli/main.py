"""The command `agent-credits`: options that hold for every command, and the commands themselves.

The one place where the operator's commands meet the embedded stack.
"""

from typing import Annotated

import typer

from agent_credits_cli.commands import (
    account,
    apply,
    dead_letters,
    explain,
    grant,
    ledger,
    notices,
    report,
    send,
    sweep,
    team,
    verify,
    watch,
)
from agent_credits_cli.errors import CommandGroup
from agent_credits_cli.target import choose
from agent_credits_local import commands as local
from agent_credits_local.options import StateDir
from agent_credits_local.stack_state import StateFolder
from agent_credits_local.target import connect_to_local

app = typer.Typer(
    name="agent-credits",
    cls=CommandGroup,
    no_args_is_help=True,
    # A traceback is for a bug, and then the plain one is the one to report.
    pretty_exceptions_enable=False,
)
app.add_typer(local.app, name="local")
app.add_typer(notices.app, name="notices")
app.command()(apply.apply)
app.command()(send.send)
app.command()(grant.grant)
app.command()(account.account)
app.command()(team.team)
app.command()(report.report)
app.command()(ledger.ledger)
app.command()(explain.explain)
app.command()(watch.watch)
app.command()(verify.verify)
app.command()(sweep.sweep)
app.command()(dead_letters.dead_letters)


@app.callback()
def options(
    context: typer.Context,
    state_dir: StateDir,
    aws: Annotated[
        bool,
        typer.Option(
            "--aws", help="Talk to AWS, not to the local stack (or AGENT_CREDITS_TARGET=aws)."
        ),
    ] = False,
    stack_name: Annotated[
        str | None,
        typer.Option(help="The stack on AWS to talk to."),
    ] = None,
) -> None:
    """Credits of AI-agent runs: feed the meter, look into accounts, verify the ledger."""
    context.obj = choose(
        aws=aws,
        stack_name=stack_name,
        state_path=state_dir.absolute(),
        connect_to_local=lambda path: connect_to_local(StateFolder(path)),
    )
