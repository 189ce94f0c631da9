"""Every state that can be reached, breadth first: the search that the models share."""

import collections
import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

# A named tuple with a field `workers`.
State = TypeVar("State", bound=Any)


class TooLarge(Exception):
    """The bounds leave more states than there is patience for; nothing is known to be wrong."""


def explored(
    first: State,
    successors: Callable[[State], Iterable[State]],
    check: Callable[[State], None],
    states_max: int,
) -> int:
    """Return how many states there are; raises what `check` raises at the first that is wrong.

    Workers are alike, so states that differ in their order alone are one.
    """
    seen = {first}
    frontier = collections.deque(seen)
    with _no_garbage_collection():
        while frontier:
            for state in successors(frontier.popleft()):
                workers = tuple(sorted(state.workers))
                if workers != state.workers:
                    state = state._replace(workers=workers)
                known = len(seen)
                # Added without looking first, so that it is hashed once.
                seen.add(state)
                if len(seen) > known:
                    check(state)
                    frontier.append(state)
            if len(seen) >= states_max:
                raise TooLarge(f"more than {states_max:,} states")
    return len(seen)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """States refer to no state, so there is no cycle to find; looking takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
