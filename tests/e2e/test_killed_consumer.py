"""Consumers that are killed in the middle of a batch lose nothing and count nothing twice."""

import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent_credits_cli.checkout import this_checkout
from agent_credits_cli.local_state import StateFolder
from agent_credits_cli.replay import run_replay
from agent_credits_cli.target import Target
from agent_credits_cli.trace import TRACE_FILE, Replay, ReplayOptions, plan_replay, read_trace

EVENTS = 2_000
PACK = 20
KILLS = 3
# A killed consumer's messages come again after this, instead of after the template's minutes.
VISIBILITY_SECONDS = 5
WATCHED_SECONDS_MAX = 60


@pytest.fixture
def quick_visibility(stack: Target) -> Iterator[None]:
    queue_url = stack.outputs.agent_runs_queue_url
    before = stack.sqs.get_queue_attributes(
        QueueUrl=queue_url, AttributeNames=["VisibilityTimeout"]
    )["Attributes"]
    stack.sqs.set_queue_attributes(
        QueueUrl=queue_url, Attributes={"VisibilityTimeout": str(VISIBILITY_SECONDS)}
    )
    yield
    stack.sqs.set_queue_attributes(
        QueueUrl=queue_url, Attributes={"VisibilityTimeout": before["VisibilityTimeout"]}
    )


def in_flight(stack: Target) -> int:
    attributes = stack.sqs.get_queue_attributes(
        QueueUrl=stack.outputs.agent_runs_queue_url,
        AttributeNames=["ApproximateNumberOfMessagesNotVisible"],
    )["Attributes"]
    return int(attributes["ApproximateNumberOfMessagesNotVisible"])


def consumers(emulator_pid: int) -> list[int]:
    """Return the processes that run `debit_runs`: children of the emulator that we started."""
    children = subprocess.run(
        ["/bin/ps", "-ww", "-o", "pid=,args=", "--ppid", str(emulator_pid)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    return [int(line.split()[0]) for line in children if "DebitRuns" in line]


@contextmanager
def killing_consumers(stack: Target, emulator_pid: int) -> Iterator[list[int]]:
    """Kill a consumer, up to `KILLS` times, whenever messages are in flight."""
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        ends_at = time.monotonic() + WATCHED_SECONDS_MAX
        while len(killed) < KILLS and not done.is_set() and time.monotonic() < ends_at:
            fresh = [pid for pid in consumers(emulator_pid) if pid not in killed]
            if fresh and in_flight(stack) > 0:
                os.kill(fresh[0], signal.SIGKILL)
                killed.append(fresh[0])
            done.wait(0.05)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()


def planned() -> Replay:
    requests = read_trace(this_checkout().root / "data" / TRACE_FILE, EVENTS)
    return plan_replay(requests, ReplayOptions(secrets.token_hex(3), EVENTS, 20, 2))


@pytest.mark.usefixtures("quick_visibility")
def test_consumers_killed_in_the_middle_of_a_batch_lose_nothing(
    stack: Target, stack_folder: StateFolder
) -> None:
    state = stack_folder.read()
    assert state is not None

    with killing_consumers(stack, state.emulator.pid) as killed:
        replayed = run_replay(stack, planned(), pack=PACK, is_repeat=False)

    assert killed
    assert replayed.problems == ()
    assert replayed.verified.findings == ()
    assert sum(bill.events for bill in replayed.bills) == EVENTS
