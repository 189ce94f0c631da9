"""How long to wait before trying again: full jitter, doubling, bounded."""

import random
import time

FIRST_SECONDS = 0.025
LONGEST_SECONDS = 0.4


def back_off(attempts_lost: int) -> None:
    """Sleep for a random part of 50 ms after the first lost attempt, of at most 400 ms later."""
    time.sleep(random.uniform(0, min(FIRST_SECONDS * 2**attempts_lost, LONGEST_SECONDS)))
