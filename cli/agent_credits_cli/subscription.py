"""A temporary subscription to the notices.

A topic keeps nothing, so a new queue is subscribed. It receives what is published from now on, and
it is always removed at the end.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from agent_credits.notices.published import Published, read_envelope
from agent_credits_cli.target import Target

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

QUEUE_PREFIX: Final = "agent-credits-watch-"
# If this process is killed, its queue keeps no notice for longer than this.
RETENTION_SECONDS: Final = 3_600
MESSAGES_PER_RECEIVE: Final = 10


class Watch:
    """A subscription to the topic, and the notices that it receives."""

    def __init__(self, sqs: "SQSClient", queue_url: str) -> None:
        self._sqs = sqs
        self._queue_url = queue_url

    def receive(self, wait_seconds: int) -> list[Published]:
        """Return notices as soon as there are any, or none after the wait; each comes only once."""
        messages = self._sqs.receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=MESSAGES_PER_RECEIVE,
            WaitTimeSeconds=wait_seconds,
        ).get("Messages", [])
        if messages:
            self._sqs.delete_message_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ],
            )
        return [read_envelope(message["Body"]) for message in messages]


@contextmanager
def subscribed(target: Target) -> Iterator[Watch]:
    """Subscribe a new queue to the topic; remove both at the end."""
    name = f"{QUEUE_PREFIX}{uuid.uuid4().hex[:12]}"
    topic_arn = target.outputs.notices_topic_arn
    queue_url = target.sqs.create_queue(
        QueueName=name, Attributes={"MessageRetentionPeriod": str(RETENTION_SECONDS)}
    )["QueueUrl"]
    try:
        queue_arn = target.sqs.get_queue_attributes(
            QueueUrl=queue_url, AttributeNames=["QueueArn"]
        )["Attributes"]["QueueArn"]
        target.sqs.set_queue_attributes(
            QueueUrl=queue_url, Attributes={"Policy": _only_the_topic_sends(queue_arn, topic_arn)}
        )
        # Not raw delivery, because only the envelope has the e-mail's subject.
        subscription_arn = target.sns.subscribe(
            TopicArn=topic_arn, Protocol="sqs", Endpoint=queue_arn, ReturnSubscriptionArn=True
        )["SubscriptionArn"]
        try:
            yield Watch(target.sqs, queue_url)
        finally:
            target.sns.unsubscribe(SubscriptionArn=subscription_arn)
    finally:
        target.sqs.delete_queue(QueueUrl=queue_url)


def _only_the_topic_sends(queue_arn: str, topic_arn: str) -> str:
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "sns.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": queue_arn,
                    "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
                }
            ],
        }
    )
