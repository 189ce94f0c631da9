"""The disposition of a message: exactly one of four, decided from those of its events.

A message is one unit for the queue: it is deleted, or it comes back whole. So the event that needs
the message back first decides. When it comes back, the others are handled again: recorded events
are recognised, and rejected ones are rejected again.
"""

from collections.abc import Iterable
from typing import assert_never

from msgspec import Struct

from agent_credits.commit.changes import Unsure, Waiting
from agent_credits.events.agent_runs import Rejection
from agent_credits.values.errors import AgentCreditsError, Contended


class Done(Struct, frozen=True):
    """Every event is recorded, now or earlier. Delete the message."""


class Rejected(Struct, frozen=True):
    """An event can never be recorded as it is, and no other event needs the message back.

    Send the message to the dead-letter queue now.
    """

    rejection: Rejection


class RetrySoon(Struct, frozen=True):
    """An event waits for a reload, or for the event before it, or others won every race.

    All end within seconds. Make the message visible again after a short wait.
    """

    cause: Waiting | Unsure | Contended


class RetryLater(Struct, frozen=True):
    """An event could not be recorded because of a fault, or because the function ran out of time.

    Let the message come back after its visibility timeout.
    """

    cause: AgentCreditsError


Disposition = Done | Rejected | RetrySoon | RetryLater


def combined(dispositions: Iterable[Disposition]) -> Disposition:
    """Return the disposition of a message from those of its events; the first wins a tie."""
    return max(dispositions, key=_precedence, default=Done())


def _precedence(disposition: Disposition) -> int:
    match disposition:
        case Done():
            return 0
        case Rejected():
            return 1
        case RetryLater():
            return 2
        case RetrySoon():
            return 3
        case _:
            assert_never(disposition)
