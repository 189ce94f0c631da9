"""The command `agent-credits-demo`: it knows the embedded stack alone, so it cannot reach AWS."""

import typer

from agent_credits_cli.errors import CommandGroup
from agent_credits_demo import replay, samples
from agent_credits_local.options import StateDir
from agent_credits_local.stack_state import StateFolder

app = typer.Typer(
    name="agent-credits-demo",
    cls=CommandGroup,
    no_args_is_help=True,
    # A traceback is for a bug, and then the plain one is the one to report.
    pretty_exceptions_enable=False,
)
app.command()(samples.samples)
app.command()(replay.replay)


@app.callback()
def options(context: typer.Context, state_dir: StateDir) -> None:
    """Try the credit meter on this machine: the sample events, or a production trace."""
    context.obj = StateFolder(state_dir.absolute())
