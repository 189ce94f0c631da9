"""What both command lines ask about the embedded stack: where its state is, and its port."""

from pathlib import Path
from typing import Annotated

import typer

from agent_credits_local.checkout import this_checkout
from agent_credits_local.embedded_stack import PORT_DEFAULT
from agent_credits_local.stack_state import StateFolder

StateDir = Annotated[
    Path,
    typer.Option(
        envvar="AGENT_CREDITS_STATE_DIR",
        show_default=".local in the checkout",
        default_factory=lambda: this_checkout().root / ".local",
        help="Where the local stack keeps its state.",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        show_default=f"{PORT_DEFAULT}",
        help="The port on this machine; 0 takes any free one.",
    ),
]


def state_folder_of(context: typer.Context) -> StateFolder:
    """Return the folder of a command line that talks to nothing but the embedded stack."""
    folder = context.find_object(StateFolder)
    assert folder is not None, "the main command takes --state-dir before any other command runs"
    return folder
