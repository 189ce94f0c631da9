"""Processes that die during a replay and come back lose nothing and count nothing twice."""

from pathlib import Path

import pytest

from agent_credits_local.stack_state import StateFolder
from tests.e2e.kills import ACTS, run_kills, stack_to_kill

# `make kill-test SECONDS=600` runs for longer.
SECONDS = 6
EVENTS = 800


@pytest.mark.timeout(300)
def test_consumers_and_emulator_that_die_during_a_replay_lose_nothing(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)

    with stack_to_kill(folder) as stack:
        run = run_kills(folder, stack, SECONDS, seed=1, events=EVENTS)

    assert run.problems == []
    assert {act for act, times in run.deaths.items() if times} == {*ACTS}
    assert run.events >= EVENTS
