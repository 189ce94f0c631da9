"""Publish notices and reload requests, derived from the change stream of committed rows."""

import os
from datetime import UTC, datetime
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict

from agent_credits.aws.clients import dynamodb_client, sns_client, sqs_client
from agent_credits.aws.kept_notices import KeptNotices, NoticesNotKept
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
from agent_credits.notices.notice import Notice


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    STACK_NAME: str
    NOTICES_TOPIC_ARN: str
    NOTICES_TABLE: str
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


@cache
def kept_notices() -> KeptNotices:
    """Return the table; few commits publish a notice, so most cold starts need no client."""
    return KeptNotices(dynamodb_client(), settings.NOTICES_TABLE)


@metrics.log_metrics
@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Announce each record in order; return the first one that could not be announced.

    The stream is delivered again from that record on, so order is kept and no notice is lost.
    """
    published: list[Notice] = []
    for record in event["Records"]:
        image = record["dynamodb"]
        try:
            _announce(change_of(image), published)
        except (BotoCoreError, ClientError):
            logger.exception("not announced", extra={"sequence": image["SequenceNumber"]})
            _count_and_keep(published)
            return {"batchItemFailures": [{"itemIdentifier": image["SequenceNumber"]}]}
    _count_and_keep(published)
    return {"batchItemFailures": []}


def _announce(change: StreamRecord, published: list[Notice]) -> None:
    for request in reload_requests(change) if isinstance(change, AccountRecord) else ():
        reloads().send(request)
        extra = {"reload_id": request.reload_id, "principal": str(request.principal)}
        logger.info("reload requested", extra=extra)
    for notice in notices_of(change, notice_settings):
        topic.publish(notice)
        published.append(notice)
        logger.info("published", extra=notice.log_fields)


def _count_and_keep(published: list[Notice]) -> None:
    metrics.add_metric("NoticesPublished", MetricUnit.Count, len(published))
    try:
        if published:
            kept_notices().put_all(published, datetime.now(UTC))
    except NoticesNotKept as fault:
        # No failure of the records, which would be announced again.
        logger.exception("not kept", extra={"notices": fault.notices})
        metrics.add_metric("NoticesNotKept", MetricUnit.Count, fault.notices)
