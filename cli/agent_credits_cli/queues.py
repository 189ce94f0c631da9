"""The queues of a stack by the names that commands give them, and how much is in each."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from agent_credits_cli.errors import CommandError
from agent_credits_cli.target import StackOutputs

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

QueueName = Literal["agent-runs", "reloads", "slack", "sweeps"]
QUEUE_NAMES: Final[tuple[QueueName, ...]] = get_args(QueueName)

_COUNTS: "Final[list[QueueAttributeNameType]]" = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
]


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of the stack, and the one that takes what keeps failing."""

    name: QueueName
    url: str
    dead_letters_url: str


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages a queue holds. SQS counts approximately."""

    waiting: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        return self.waiting + self.in_flight + self.delayed


def queues_of(outputs: StackOutputs, wanted: QueueName | None = None) -> tuple[Queue, ...]:
    """Return the queue of this name, or all that the stack has.

    Raises `CommandError` if it does not have this one.
    """
    urls: dict[QueueName, tuple[str | None, str | None]] = {
        "agent-runs": (outputs.agent_runs_queue_url, outputs.agent_runs_dead_letter_queue_url),
        "reloads": (outputs.reloads_queue_url, outputs.reloads_dead_letter_queue_url),
        "slack": (outputs.slack_queue_url, outputs.slack_dead_letter_queue_url),
        "sweeps": (outputs.sweeps_queue_url, outputs.sweeps_dead_letter_queue_url),
    }
    queues = tuple(
        Queue(name, url, dead_letters_url)
        for name, (url, dead_letters_url) in urls.items()
        if url and dead_letters_url and wanted in (None, name)
    )
    if not queues:
        raise CommandError(
            f"this stack has no queue {wanted}; it has one where SlackNotices is true"
        )
    return queues


def depth_of(client: "SQSClient", queue_url: str) -> Depth:
    counts = client.get_queue_attributes(QueueUrl=queue_url, AttributeNames=_COUNTS)["Attributes"]
    waiting, in_flight, delayed = (int(counts[name]) for name in _COUNTS)
    return Depth(waiting, in_flight, delayed)
