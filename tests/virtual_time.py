"""Workers that run side by side in virtual time: what they would take, whatever machine this is.

Each is a greenlet. A worker that sleeps lets the clock go on to whoever wakes next, so waiting and
computing take no time of their own, and a seed gives the same history each time.
"""

import heapq
import itertools
from collections.abc import Callable, Sequence

from greenlet import getcurrent, greenlet


class VirtualTime:
    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._waking: list[tuple[float, int, greenlet]] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Wait, for a worker; the others go on meanwhile."""
        self._wake(self.now + seconds, getcurrent())
        self._hub.switch()

    def run(self, workers: Sequence[Callable[[], None]]) -> None:
        """Run the workers from the same moment on until all have ended."""
        self._hub = getcurrent()
        for worker in workers:
            self._wake(self.now, greenlet(worker))
        while self._waking:
            self.now, _, worker = heapq.heappop(self._waking)
            worker.switch()

    def _wake(self, at: float, worker: greenlet) -> None:
        heapq.heappush(self._waking, (at, next(self._order), worker))
