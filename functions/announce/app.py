"""Publish notices and reload requests, derived from the change stream of committed rows."""

import os
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict

from agent_credits.aws.clients import sns_client, sqs_client
from agent_credits.aws.metrics import add_counts_by
from agent_credits.aws.reload_queue import ReloadQueue
from agent_credits.aws.stream_records import change_of
from agent_credits.aws.topic import NoticesTopic
from agent_credits.notices.announcements import (
    AccountRecord,
    NoticeSettings,
    StreamRecord,
    notices_of,
    reload_requests,
)


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    STACK_NAME: str
    NOTICES_TOPIC_ARN: str
    PROBLEM_TYPE_BASE_URL: str
    RELOADS_QUEUE_URL: str


logger = Logger()
metrics = Metrics()
settings = Settings.model_validate(dict(os.environ))
# Other stacks in this account have metrics of the same names.
metrics.set_default_dimensions(stack=settings.STACK_NAME)
notice_settings = NoticeSettings(settings.PROBLEM_TYPE_BASE_URL)
topic = NoticesTopic(sns_client(), settings.NOTICES_TOPIC_ARN)


@cache
def reloads() -> ReloadQueue:
    """Return the queue; few commits request a reload, so most cold starts need no client."""
    return ReloadQueue(sqs_client(), settings.RELOADS_QUEUE_URL)


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Announce each record in order; return the first one that could not be announced.

    The stream is delivered again from that record on, so order is kept and no notice is lost.
    """
    published = 0
    for record in event["Records"]:
        image = record["dynamodb"]
        try:
            published += _announce(change_of(image))
        except (BotoCoreError, ClientError):
            logger.exception("not announced", extra={"sequence": image["SequenceNumber"]})
            metrics.add_metric("NoticesPublished", MetricUnit.Count, published)
            return {"batchItemFailures": [{"itemIdentifier": image["SequenceNumber"]}]}
    metrics.add_metric("NoticesPublished", MetricUnit.Count, published)
    return {"batchItemFailures": []}


def _announce(change: StreamRecord) -> int:
    for request in reload_requests(change) if isinstance(change, AccountRecord) else ():
        reloads().send(request)
        extra = {"reload_id": request.reload_id, "principal": str(request.principal)}
        logger.info("reload requested", extra=extra)
    notices = notices_of(change, notice_settings)
    for notice in notices:
        topic.publish(notice)
        add_counts_by(metrics, "NoticesPublished", "type", {notice.type: 1})
        logger.info("published", extra=notice.log_fields)
    return len(notices)
