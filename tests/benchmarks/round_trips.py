"""How many round trips of a client follow one another, whatever runs beside them.

A call that was made before another one had answered does not depend on its answer, and the two
count as one round trip. So that calls made side by side really overlap, each is held up for longer
than it takes to make the next one. A machine that is busy can only add round trips to a piece of
work, never remove one, so of several alike the smallest number is that of the code.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

HELD_UP_SECONDS = 0.03


class RoundTrips:
    """The depth of the calls so far: each is one deeper than the deepest that answered before."""

    def __init__(self) -> None:
        self.sequential = 0
        self._lock = threading.Lock()

    def made(self) -> int:
        with self._lock:
            return self.sequential + 1

    def answered(self, depth: int) -> None:
        with self._lock:
            self.sequential = max(self.sequential, depth)


@contextmanager
def round_trips_of(
    client: "DynamoDBClient", hold_up: Callable[[], None] = lambda: time.sleep(HELD_UP_SECONDS)
) -> Iterator[RoundTrips]:
    round_trips = RoundTrips()

    def made(context: dict[str, Any], **_: Any) -> None:
        context["depth"] = round_trips.made()
        hold_up()

    def answered(context: dict[str, Any], **_: Any) -> None:
        round_trips.answered(context["depth"])

    events = client.meta.events
    events.register("before-call.dynamodb", made)
    events.register("after-call.dynamodb", answered)
    try:
        yield round_trips
    finally:
        events.unregister("before-call.dynamodb", made)
        events.unregister("after-call.dynamodb", answered)
