"""The options of both command lines for the embedded stack: its state folder and its port."""

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
        metavar="DIR",
        help="The folder of the local stack's state.",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        show_default=f"{PORT_DEFAULT}",
        help="The port on this machine; 0 means any free one.",
    ),
]


def state_folder_of(context: typer.Context) -> StateFolder:
    """Return the state folder, for a command line that uses only the embedded stack."""
    folder = context.find_object(StateFolder)
    assert folder is not None, "the main command takes --state-dir before any other command runs"
    return folder
