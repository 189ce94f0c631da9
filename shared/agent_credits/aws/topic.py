"""The topic that notices are published to: readable text for e-mail, JSON for everything else."""

import json
from typing import TYPE_CHECKING

from agent_credits.notices.notice import SUBJECT_LENGTH_MAX, Notice
from agent_credits.values.display import shortened

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient


class NoticesTopic:
    def __init__(self, client: "SNSClient", topic_arn: str) -> None:
        self._client = client
        self._topic_arn = topic_arn

    def publish(self, notice: Notice) -> None:
        """Publish one notice. A fault is raised: the stream record is then delivered again, and
        the notice is published again under the same id."""
        cloudevent = json.dumps(notice.to_cloudevent())
        self._client.publish(
            TopicArn=self._topic_arn,
            Subject=shortened(notice.email_subject, SUBJECT_LENGTH_MAX),
            MessageStructure="json",
            Message=json.dumps({"default": cloudevent, "email": notice.email_text}),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in notice.attributes.items()
            },
        )
