"""`agent-credits watch`: prints notices as they are published."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Final

import typer

from agent_credits.notices.slack_messages import slack_message
from agent_credits_cli.slack_view import slack_view
from agent_credits_cli.subscription import subscribed
from agent_credits_cli.tables import AsJson, err, out, print_json_line
from agent_credits_cli.target import connect

LONG_POLL_SECONDS: Final = 20
FOREVER: Final = float("inf")


def watch(
    context: typer.Context,
    seconds: Annotated[
        float | None,
        typer.Option("--for", metavar="SECONDS", min=0, help="Stop after this many seconds."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print each notice when it is published, as Slack shows it, until Ctrl-C.

    With --json, print the CloudEvents as NDJSON.
    """
    target = connect(context)
    with _ends_on_signal(), subscribed(target) as notices:
        err().print(f"watching the notices of {target.name}; stop with Ctrl-C", soft_wrap=True)
        # Counted from now: a slow subscription must not use up the time to watch.
        left = FOREVER if seconds is None else seconds
        ends_at = time.monotonic() + left
        while left > 0:
            for published in notices.receive(int(min(LONG_POLL_SECONDS, left + 1))):
                if as_json:
                    print_json_line(published.notice)
                else:
                    out().print(slack_view(slack_message(published).to_dict()), "")
            left = ends_at - time.monotonic()


@contextmanager
def _ends_on_signal() -> Iterator[None]:
    """End on Ctrl-C and SIGTERM only after the queue and the subscription are removed."""

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        err().print("stopped watching")
    finally:
        signal.signal(signal.SIGTERM, before)
