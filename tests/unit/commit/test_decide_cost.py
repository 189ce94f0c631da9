"""The cost of deciding: an event takes as many calls in a large batch as in a small one."""

import sys
from types import FrameType
from typing import Any

from agent_credits.commit.changes import Past
from agent_credits.commit.decide import Decision, decide
from tests.memory_rows import MemoryRows
from tests.unit.builders import NOW, grant_change, open_account, run_changes, usage

FEW, MANY = 20, 200


def calls_of_deciding(events: int) -> tuple[int, Decision]:
    """Decide a batch of this many events, and count every call that it makes."""
    account = open_account(MemoryRows(), grant_change("g-1", credits="1000"))
    changes = run_changes(*(usage(f"e{n}", "0.5", run=f"run-{n}") for n in range(events)))
    calls = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        decision = decide(account, changes, Past(), NOW)
    finally:
        sys.setprofile(None)
    return calls, decision


def test_an_event_of_a_large_batch_takes_no_more_calls_than_one_of_a_small_batch() -> None:
    few, _ = calls_of_deciding(FEW)
    many, decision = calls_of_deciding(MANY)

    assert len(decision.results) == MANY
    assert many / MANY <= few / FEW
