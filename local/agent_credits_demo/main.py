"""The command `agent-credits-demo`: it knows only the embedded stack, so it cannot reach AWS."""

import typer

from agent_credits_cli.conventions import CONTEXT_SETTINGS, Command, Version
from agent_credits_cli.errors import CommandGroup
from agent_credits_demo import replay, samples
from agent_credits_local.options import StateDir
from agent_credits_local.stack_state import StateFolder

app = typer.Typer(
    name="agent-credits-demo",
    cls=CommandGroup,
    context_settings=CONTEXT_SETTINGS,
    no_args_is_help=True,
    # Only a bug has a traceback, and the plain one is easier to report.
    pretty_exceptions_enable=False,
)
app.command(cls=Command)(samples.samples)
app.command(cls=Command)(replay.replay)


@app.callback()
def options(context: typer.Context, state_dir: StateDir, _version: Version = False) -> None:
    """Try the credit meter on this machine: the sample events, or a production trace."""
    context.obj = StateFolder(state_dir.absolute())
