"""A part of a production trace through the embedded stack, some of it twice and all shuffled."""

import secrets

import pytest

from agent_credits_cli.errors import CommandError
from agent_credits_cli.target import Target
from agent_credits_demo.replay_run import Replayed, run_replay
from agent_credits_demo.trace import TRACE_FILE, Replay, ReplayOptions, plan_replay, read_trace
from agent_credits_local.checkout import this_checkout

EVENTS = 300
# Several events in one message, and several messages in one batch.
PACK = 3


@pytest.fixture(scope="module")
def planned() -> Replay:
    requests = read_trace(this_checkout().root / "data" / TRACE_FILE, EVENTS)
    return plan_replay(requests, ReplayOptions(secrets.token_hex(3), EVENTS, 20, 1))


@pytest.fixture(scope="module")
def replayed(stack: Target, planned: Replay) -> Replayed:
    return run_replay(stack, planned, pack=PACK, is_repeat=False)


def test_each_event_counts_once_and_every_sum_is_exact(replayed: Replayed) -> None:
    assert replayed.problems == ()
    assert replayed.verified.findings == ()
    assert sum(bill.events for bill in replayed.bills) == EVENTS
    assert any(bill.shortfall_microcredits for bill in replayed.bills)


@pytest.mark.usefixtures("replayed")
def test_replaying_everything_again_changes_nothing(stack: Target, planned: Replay) -> None:
    again = run_replay(stack, planned, pack=1, is_repeat=True)

    assert again.problems == ()
    assert again.verified.findings == ()


def test_an_unknown_replay_cannot_be_repeated(stack: Target) -> None:
    requests = read_trace(this_checkout().root / "data" / TRACE_FILE, 1)
    unknown = plan_replay(requests, ReplayOptions("never", 1, 1, 1))

    with pytest.raises(CommandError, match="has not seen the replay never-1-1-1"):
        run_replay(stack, unknown, pack=1, is_repeat=True)
