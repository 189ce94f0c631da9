"""How long to wait before trying again: full jitter, doubling, bounded."""

import random
import time
from collections.abc import Callable

from agent_credits.values.errors import Contended

FIRST_SECONDS = 0.025
LONGEST_SECONDS = 0.4
# Where somebody waits for the answer, pauses grow by as much with each lost attempt. With these,
# fifty writers of one row all succeed within 1.3 s, and stay below the 1,000 writes a second that a
# row takes: `python -m tests.benchmarks.api_latency`.
SOON_SECONDS = 0.005
SOON_SECONDS_LONGEST = 0.08


def back_off(attempts_lost: int) -> None:
    """Sleep for a random part of 50 ms after the first lost attempt, of at most 400 ms later."""
    time.sleep(random.uniform(0, longest_wait(attempts_lost)))


def longest_wait(attempts_lost: int) -> float:
    doubled: float = FIRST_SECONDS * 2**attempts_lost
    return min(doubled, LONGEST_SECONDS)


class TimeBudget:
    """A pause for a caller who waits: random as well, and no longer than a time in all.

    `begin` starts the time, for one request after another. Raises `Contended` when it is over.
    """

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self._ends_at = 0.0

    def begin(self) -> None:
        self._ends_at = self._clock() + self._seconds

    def __call__(self, attempts_lost: int) -> None:
        left = self._ends_at - self._clock()
        if left <= 0:
            raise Contended(f"lost {attempts_lost} races in {self._seconds} s", attempts_lost)
        longest = min(SOON_SECONDS * attempts_lost, SOON_SECONDS_LONGEST)
        # Those who have waited longest go first.
        self._sleep(random.uniform(0, longest * left / self._seconds))
