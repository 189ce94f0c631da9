"""Many workers in one thread: each is a greenlet that stops before every call to the outside.

Which worker goes on next is drawn from the seed, so that every interleaving of calls can come up
and each comes up again from its seed. What goes wrong at a call is decided here as well.
"""

import contextlib
import random
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from greenlet import greenlet

from agent_credits.values.errors import AgentCreditsError
from tests.simulation.faults import Crash, Faults

Result = TypeVar("Result")

TRACE_STEPS = 80
# For how long a frozen worker sleeps; its messages come to others, and what it knows grows old.
FROZEN_SECONDS = (0.5, 20, 300, 4_000, 90_000, 3_000_000)


class Scheduler:
    def __init__(self, randomness: random.Random, faults: Faults, now: datetime) -> None:
        self.random = randomness
        self.faults = faults
        self.now = now
        self.steps = 0
        self.late: list[Callable[[], object]] = []
        self.trace: deque[str] = deque(maxlen=TRACE_STEPS)

    def note(self, who: str, what: str) -> None:
        self.trace.append(f"{self.steps:>6} {self.now:%m-%d %H:%M:%S.%f} {who:<10} {what}")

    def land_one_late_write(self) -> None:
        if self.late:
            write = self.late.pop(self.random.randrange(len(self.late)))
            self.note("network", "a write of long ago is applied")
            with contextlib.suppress(AgentCreditsError):
                write()


class Worker:
    """One execution environment: what it keeps warm is lost in a crash, and only then."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.frozen_until: datetime | None = None
        self.skew = timedelta(milliseconds=scheduler.random.randint(-1500, 1500))
        self._invocation: greenlet | None = None
        self._frozen_at_call = False
        self.boot()

    def boot(self) -> None:
        """Begin with nothing but the code."""

    def next_invocation(self) -> Callable[[], None] | None:
        """Return what there is to do now, or None."""
        raise NotImplementedError

    def has_work(self) -> bool:
        """Tell whether an invocation would find something to do now."""
        raise NotImplementedError

    def before_resuming(self) -> None:
        """Put in place what is this worker's own, wherever the code keeps it globally."""

    @property
    def is_idle(self) -> bool:
        return self._invocation is None

    @property
    def is_frozen(self) -> bool:
        return self.frozen_until is not None and self.frozen_until > self.scheduler.now

    def can_go_on(self) -> bool:
        return not self.is_frozen and (self._invocation is not None or self.has_work())

    def clock(self) -> datetime:
        return self.scheduler.now + self.skew

    def go_on(self) -> bool:
        """Run until the next call; tell whether there was anything to run."""
        if self.is_frozen:
            return False
        if self._invocation is None:
            invoke = self.next_invocation()
            if invoke is None:
                return False
            self._invocation = greenlet(invoke)
        self.frozen_until = None
        self.before_resuming()
        try:
            self._invocation.switch()
        except Crash:
            self.scheduler.note(self.name, "crashed")
            self._invocation = None
            self.boot()
        else:
            if self._invocation.dead:
                self._invocation = None
        return True

    def call(
        self,
        kind: str,
        what: str,
        apply: Callable[[], Result],
        unavailable: type[AgentCreditsError],
    ) -> Result:
        """Make one call to the outside, with whatever goes wrong at it."""
        fault = self.scheduler.faults.at_call(kind)
        self._let_others_go_on()
        self.scheduler.note(self.name, f"{what} [{fault}]" if fault else what)
        match fault:
            case None:
                return apply()
            case "froze before":
                self._freeze()
                return apply()
            case "froze after":
                result = apply()
                self._freeze()
                return result
            case "retried after it was applied":
                apply()
                return apply()
            case "applied much later":
                self.scheduler.late.append(apply)
                raise unavailable(fault)
            case "crashed before":
                raise Crash
            case "crashed after":
                apply()
                raise Crash
            case "throttled":
                raise unavailable(fault)
            case "response lost":
                apply()
                raise unavailable(fault)
            case _:
                raise AssertionError(f"nobody knows the fault {fault}")

    def put_items(
        self,
        what: str,
        puts: list[Callable[[], object]],
        unavailable: type[AgentCreditsError],
    ) -> None:
        """Make a batched write: its items land one by one, in any order, perhaps not all."""
        fault = self.scheduler.faults.at_call("put items")
        self._let_others_go_on()
        self.scheduler.note(self.name, f"{what} [{fault}]" if fault else what)
        self.scheduler.random.shuffle(puts)
        lands = len(puts)
        match fault:
            case "throttled":
                raise unavailable(fault)
            case "crashed before":
                raise Crash
            case "froze before":
                self._freeze()
            case "cut short" | "cut short by a crash" | "items applied much later":
                lands = self.scheduler.random.randrange(len(puts))
        for number, put in enumerate(puts[:lands]):
            if number and self.scheduler.random.random() < 0.1:
                self._let_others_go_on()
            put()
        match fault:
            case "items applied much later":
                self.scheduler.late += puts[lands:]
                raise unavailable(fault)
            case "cut short" | "response lost":
                raise unavailable(fault)
            case "cut short by a crash" | "crashed after":
                raise Crash
            case "froze after":
                self._freeze()

    def _freeze(self) -> None:
        seconds = self.scheduler.random.choice(FROZEN_SECONDS)
        self.frozen_until = self.scheduler.now + timedelta(seconds=seconds)
        self._let_others_go_on()
        self.scheduler.note(self.name, f"goes on after {seconds} s")

    def _let_others_go_on(self) -> None:
        self.scheduler.steps += 1
        current = greenlet.getcurrent()
        if current.parent is not None:
            current.parent.switch()
