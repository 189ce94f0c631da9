"""Every state that can be reached, breadth first: the search that the models share."""

import collections
from collections.abc import Callable, Iterable
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
    while frontier:
        for state in successors(frontier.popleft()):
            state = state._replace(workers=tuple(sorted(state.workers)))
            if state not in seen:
                check(state)
                seen.add(state)
                frontier.append(state)
        if len(seen) >= states_max:
            raise TooLarge(f"more than {states_max:,} states")
    return len(seen)
