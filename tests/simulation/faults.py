"""What can go wrong at a call, and how often: drawn from the seed, so that histories differ.

A history enables some kinds and not others, and each at a rate of its own. If everything went wrong
all the time, few histories would come far enough to break anything interesting.
"""

import random
from collections import Counter
from collections.abc import Sequence


class Crash(BaseException):
    """The worker is gone, and its memory with it. No code under test can catch this."""


# What may happen to each kind of call; the names are what a report prints.
CALL_FAULTS: dict[str, tuple[str, ...]] = {
    "read": ("throttled", "crashed before", "crashed after", "froze before", "froze after"),
    "write": (
        "throttled",
        "response lost",
        "retried after it was applied",
        "applied much later",
        "crashed before",
        "crashed after",
        "froze before",
        "froze after",
    ),
    "put items": (
        "throttled",
        "response lost",
        "cut short",
        "cut short by a crash",
        "items applied much later",
        "crashed before",
        "crashed after",
        "froze before",
        "froze after",
    ),
}
# What happens to messages, to invocations and to time.
OTHER_FAULTS = (
    "message sent twice",
    "message delivered twice",
    "event sent again days later",
    "event sent again with another payload",
    "malformed message",
    "dead letters redriven a month later",
    "function's time was up",
    "clock jumped to a boundary",
    "clock jumped",
)
# What happens to transactions, in the histories with limits.
TOGETHER_FAULTS = ("transaction conflicted", "not all rows that moved were named")
RATES = (0.0, 0.01, 0.04, 0.1)


class Faults:
    def __init__(self, randomness: random.Random, *, enabled: bool = True) -> None:
        self._random = randomness
        self.enabled = enabled
        self.injected: Counter[str] = Counter()
        kinds = sorted({kind for kinds in CALL_FAULTS.values() for kind in kinds} | {*OTHER_FAULTS})
        self._rates = {kind: randomness.choice(RATES) for kind in kinds}
        self._tables = {name: self._table(kinds) for name, kinds in CALL_FAULTS.items()}

    def include(self, kinds: Sequence[str]) -> None:
        """Let these kinds happen as well, each at a rate of its own."""
        self._rates |= {kind: self._random.choice(RATES) for kind in kinds}

    def at_call(self, call: str) -> str | None:
        """Return what goes wrong at a call of this kind, if anything does."""
        if not self.enabled:
            return None
        drawn = self._random.random()
        for limit, kind in self._tables[call]:
            if drawn < limit:
                self.injected[kind] += 1
                return kind
        return None

    def happens(self, kind: str, scale: float = 1.0) -> bool:
        """Tell whether one of the other faults happens now."""
        if not self.enabled or self._random.random() >= self._rates[kind] * scale:
            return False
        self.injected[kind] += 1
        return True

    def _table(self, kinds: Sequence[str]) -> list[tuple[float, str]]:
        limit, table = 0.0, []
        for kind in kinds:
            limit += self._rates[kind]
            table.append((limit, kind))
        return table
