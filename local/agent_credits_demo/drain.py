"""Waiting until a queue is dry: everything that was sent has been debited or refused."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent_credits_cli.tables import progress
from agent_credits_cli.target import Target

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import QueueAttributeNameType

LOOK_EVERY_SECONDS: Final = 0.2
# SQS counts approximately, and between two receives a message may be counted nowhere.
DRY_LOOKS: Final = 4
# A message that was given back comes again only after the visibility timeout of 240 seconds, so a
# queue is stuck when it does not get any shorter for longer than that.
PATIENCE_SECONDS: Final = 300.0

_COUNTS: "Final[list[QueueAttributeNameType]]" = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
]


@dataclass(frozen=True, slots=True)
class Drained:
    """`left` messages were still there when patience ended; none if all went well."""

    left: int
    seconds: float


def messages_in(target: Target, queue_url: str) -> int:
    """Return how many messages a queue holds, also those that are being worked on."""
    attributes = target.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=_COUNTS)
    return sum(int(count) for count in attributes["Attributes"].values())


def drain(target: Target, title: str) -> Drained:
    """Wait, behind a progress bar, until the queue of agent-run events is dry."""
    queue_url = target.outputs.agent_runs_queue_url
    started_at = improved_at = time.monotonic()
    fewest = most = messages_in(target, queue_url)
    dry_looks = 0
    with progress() as bar:
        task = bar.add_task(title, total=most)
        while dry_looks < DRY_LOOKS and time.monotonic() < improved_at + PATIENCE_SECONDS:
            time.sleep(LOOK_EVERY_SECONDS)
            left = messages_in(target, queue_url)
            dry_looks = dry_looks + 1 if left == 0 else 0
            if left < fewest or left == 0:
                fewest, improved_at = left, time.monotonic()
            bar.update(task, completed=most - min(left, most))
        dry_at = time.monotonic() - (dry_looks * LOOK_EVERY_SECONDS)
    return Drained(messages_in(target, queue_url), dry_at - started_at)
