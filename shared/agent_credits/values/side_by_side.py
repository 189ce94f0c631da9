"""Calls that do not depend on one another, made one after another or at the same time.

Code that has such calls takes a `SideBySide` and does not start threads itself: a function makes
them in threads, and a test or the simulator in turn, so that the same seed gives the same history.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class SideBySide(Protocol):
    def __call__(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """Make the calls and return their results in the order of the calls.

        Every call has ended when this returns or raises.
        """
        ...


def in_turn(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    return [call() for call in calls]
