"""Calls side by side in threads, and how many at most.

Lambda freezes a function's threads between invocations. So no call may be under way when a handler
returns: it would continue in the middle of a later invocation, with a connection that has died.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final, TypeVar

Result = TypeVar("Result")

# How many accounts a worker commits at once. A batch of a hundred accounts is written in two
# rounds. docs/explanation/speed.md says what other numbers came to.
COMMITS_AT_ONCE: Final = 50
# How many calls read or flush at once. A batch of a hundred events makes six: for its receipts, and
# for the previous page with a hundred receipts.
CALLS_AT_ONCE: Final = 8
# Each call needs a connection of its own: a client with fewer would open and close some each time.
CONNECTIONS_MAX: Final = COMMITS_AT_ONCE + CALLS_AT_ONCE


class Threads:
    """Implements `SideBySide`. Its threads start with the first calls, and stay for the next ones.

    A call must not wait for another one on the same threads: all of them could be waiting.
    """

    def __init__(self, threads_max: int = COMMITS_AT_ONCE) -> None:
        self._pool = ThreadPoolExecutor(threads_max)

    def __call__(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """Return the results in the order of the calls. A single call uses no thread.

        If one fails, its error is raised after the others have ended.
        """
        if len(calls) <= 1:
            return [call() for call in calls]
        made = [self._pool.submit(call) for call in calls]
        wait(made)
        return [call.result() for call in made]
