"""Waiting until a queue is empty: every message was debited or rejected."""

import time
from dataclasses import dataclass
from typing import Final

from agent_credits_cli.queues import depth_of
from agent_credits_cli.tables import progress
from agent_credits_cli.target import Target

READ_EVERY_SECONDS: Final = 0.2
# SQS counts approximately, and between two receives a message may be counted nowhere.
EMPTY_READS: Final = 4
# A returned message is delivered again after the visibility timeout of 240 seconds, so a queue that
# does not get shorter for longer than that is stuck.
PATIENCE_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Drained:
    """`left` messages were still in the queue when the wait ended; 0 if all went well."""

    left: int
    seconds: float


def messages_in(target: Target, queue_url: str) -> int:
    """Return how many messages a queue holds, including those in flight."""
    return depth_of(target.sqs, queue_url).total


def drain(target: Target, title: str) -> Drained:
    """Wait, with a progress bar, until the queue of agent-run events is empty."""
    queue_url = target.outputs.agent_runs_queue_url
    started_at = improved_at = time.monotonic()
    fewest = most = messages_in(target, queue_url)
    empty_reads = 0
    with progress() as bar:
        task = bar.add_task(title, total=most)
        while empty_reads < EMPTY_READS and time.monotonic() < improved_at + PATIENCE_SECONDS:
            time.sleep(READ_EVERY_SECONDS)
            left = messages_in(target, queue_url)
            empty_reads = empty_reads + 1 if left == 0 else 0
            if left < fewest or left == 0:
                fewest, improved_at = left, time.monotonic()
            bar.update(task, completed=most - min(left, most))
        empty_since = time.monotonic() - (empty_reads * READ_EVERY_SECONDS)
    return Drained(messages_in(target, queue_url), empty_since - started_at)
