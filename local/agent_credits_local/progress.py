"""Progress of steps that take seconds: what is being done, and for how long."""

import contextlib
import threading
import time
from collections.abc import Iterator

from rich.console import Console

REFRESH_SECONDS = 0.2


@contextlib.contextmanager
def step(title: str, console: Console) -> Iterator[None]:
    """Show a running clock beside the title; print one line when the step is done."""
    started_at = time.monotonic()
    done = threading.Event()
    with console.status(title) as status:

        def tick() -> None:
            while not done.wait(REFRESH_SECONDS):
                status.update(f"{title}  {time.monotonic() - started_at:.0f} s")

        clock = threading.Thread(target=tick, daemon=True)
        clock.start()
        try:
            yield
        finally:
            done.set()
            clock.join()
    console.print(f"{title}  {time.monotonic() - started_at:.1f} s", highlight=False)
