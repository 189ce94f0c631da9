"""An embedded stack in a folder of its own, for tests that stop it or replace what it holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from agent_credits_local import embedded_stack
from agent_credits_local.checkout import this_checkout
from agent_credits_local.stack_state import StateFolder


@contextmanager
def fresh_stack(path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(path)
    try:
        embedded_stack.up(folder, this_checkout(), port=0, console=Console(stderr=True))
        yield folder
    finally:
        embedded_stack.discard(folder)
