"""Publish notices and reload requests, derived from the change stream of committed rows."""

import os
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import BotoCoreError, ClientError
from msgspec.structs import asdict
from pydantic import BaseModel, ConfigDict

from agent_credits.aws.announcer import Announced, Announcer
from agent_credits.aws.clients import dynamodb_client, s3_client, sns_client, sqs_client
from agent_credits.aws.kept_notices import KeptNotices, NoticesNotKept
from agent_credits.aws.metrics import add_counts, add_counts_by, metrics_of
from agent_credits.aws.reload_queue import ReloadQueue
from agent_credits.aws.set_aside import SetAsideRecords
from agent_credits.aws.topic import NoticesTopic
from agent_credits.notices.announcements import NoticeSettings
from agent_credits.notices.notice import Notice
from agent_credits.values.errors import NotAnnounceable


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    STACK_NAME: str
    NOTICES_TOPIC_ARN: str
    NOTICES_TABLE: str
    PROBLEM_TYPE_BASE_URL: str
    RELOADS_QUEUE_URL: str
    ANNOUNCE_FAILURES_BUCKET: str


logger = Logger()
settings = Settings.model_validate(dict(os.environ))
metrics = metrics_of(settings.STACK_NAME)
topic = NoticesTopic(sns_client(), settings.NOTICES_TOPIC_ARN)


@cache
def reloads() -> ReloadQueue:
    """Return the queue; few commits request a reload, so most cold starts need no client."""
    return ReloadQueue(sqs_client(), settings.RELOADS_QUEUE_URL)


@cache
def set_aside_records() -> SetAsideRecords:
    return SetAsideRecords(s3_client(), settings.ANNOUNCE_FAILURES_BUCKET)


@cache
def kept_notices() -> KeptNotices:
    """Return the table; few commits publish a notice, so most cold starts need no client."""
    return KeptNotices(dynamodb_client(), settings.NOTICES_TABLE)


announcer = Announcer(topic, reloads, NoticeSettings(settings.PROBLEM_TYPE_BASE_URL))


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Announce each record in order; return the first one that cannot be announced now.

    The stream is delivered again from that record on, so order is kept and no notice is lost. One
    that no retry would help is set aside: returned or raised, it would hold up those behind it.
    """
    published = list[Notice]()
    try:
        if "replay" in event:
            announced, replay = announcer.replay(event["replay"])
            published += _logged(announced)
            return asdict(replay)
        for record in event["Records"]:
            image = record["dynamodb"]
            try:
                published += _announced(record)
            except (BotoCoreError, ClientError):
                logger.exception("not announced", extra={"sequence": image["SequenceNumber"]})
                return {"batchItemFailures": [{"itemIdentifier": image["SequenceNumber"]}]}
        return {"batchItemFailures": []}
    finally:
        _count_and_keep(published)


def _announced(record: dict[str, Any]) -> list[Notice]:
    """Announce a record, or set it aside; return the notices that were published."""
    try:
        return _logged(announcer.announce(record))
    except NotAnnounceable as error:
        key = set_aside_records().put(record, error, datetime.now(UTC))
        # Without the text of what it was raised from, which may quote the row. The object has it.
        logger.error("set aside", extra={"object": key, "error": str(error)})
        add_counts(metrics, {"RecordsSetAside": 1})
        return []


def _logged(announced: Announced) -> list[Notice]:
    for request in announced.requests:
        extra = {"reload_id": request.reload_id, "principal": str(request.principal)}
        logger.info("reload requested", extra=extra)
    for notice in announced.notices:
        logger.info("published", extra=notice.log_fields)
    return list(announced.notices)


def _count_and_keep(published: list[Notice]) -> None:
    add_counts(metrics, {"NoticesPublished": len(published)})
    by_type = Counter[str](notice.type for notice in published)
    add_counts_by(metrics, "NoticesPublished", "type", by_type)
    try:
        if published:
            kept_notices().put_all(published, datetime.now(UTC))
    except NoticesNotKept as fault:
        # No failure of the records, which would be announced again.
        logger.exception("not kept", extra={"notices": fault.notices})
        add_counts(metrics, {"NoticesNotKept": fault.notices})
