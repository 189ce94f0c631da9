"""A message has one disposition: that of the event that needs it back first."""

from itertools import permutations

import pytest

from agent_credits.commit.changes import Waiting
from agent_credits.events.agent_runs import Rejection
from agent_credits.intake.dispositions import (
    Disposition,
    Done,
    Rejected,
    RetryLater,
    RetrySoon,
    combined,
)
from agent_credits.values.errors import Contended, RowsUnavailable

REJECTED = Rejected(Rejection("malformed", "event 1 is not a JSON object"))
LATER = RetryLater(RowsUnavailable("throttled"))
WAITING = RetrySoon(Waiting("reload:user:ana:2"))
CONTENDED = RetrySoon(Contended("lost 10 races in a row", 10))


def test_a_message_is_done_when_all_its_events_are_done() -> None:
    assert combined([]) == combined([Done(), Done()]) == Done()


@pytest.mark.parametrize(
    ("dispositions", "expected"),
    [
        ([Done(), REJECTED], REJECTED),
        ([REJECTED, LATER], LATER),
        ([REJECTED, WAITING], WAITING),
        ([REJECTED, CONTENDED], CONTENDED),
        ([LATER, WAITING], WAITING),
        ([Done(), REJECTED, LATER, CONTENDED], CONTENDED),
    ],
)
def test_the_event_that_comes_back_first_decides_in_any_order(
    dispositions: list[Disposition], expected: Disposition
) -> None:
    for order in permutations(dispositions):
        assert combined(order) == expected


def test_the_first_rejection_of_a_message_is_named() -> None:
    other = Rejected(Rejection("unknown_team", "data.team_id names no team"))

    assert combined([REJECTED, other]) == REJECTED
