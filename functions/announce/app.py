"""Publish what was committed: notices derived from the accounts table's change stream."""

import os
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict

from agent_credits.announcements import Commit, NoticeSettings, notices_of
from agent_credits.items import account_from_item
from agent_credits.topic import NoticesTopic

CALLS = Config(
    connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3}
)


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    NOTICES_TOPIC_ARN: str
    PROBLEM_TYPE_BASE_URL: str


logger = Logger()
metrics = Metrics()
settings = Settings.model_validate(dict(os.environ))
notice_settings = NoticeSettings(settings.PROBLEM_TYPE_BASE_URL)
topic = NoticesTopic(boto3.client("sns", config=CALLS), settings.NOTICES_TOPIC_ARN)


@metrics.log_metrics
@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Publish the notices of each record in order; answer with the first that could not be.

    The stream comes again from that record on, so that order is kept and no notice is lost.
    """
    published = 0
    for record in event["Records"]:
        image = record["dynamodb"]
        old = account_from_item(image["OldImage"]) if "OldImage" in image else None
        commit = Commit(old, account_from_item(image["NewImage"]))
        for notice in notices_of(commit, notice_settings):
            try:
                topic.publish(notice)
            except (BotoCoreError, ClientError):
                logger.exception("not published", extra={"notice_id": notice.id})
                metrics.add_metric("NoticesPublished", MetricUnit.Count, published)
                return {"batchItemFailures": [{"itemIdentifier": image["SequenceNumber"]}]}
            published += 1
            logger.info("published", extra=notice.log_fields)
    metrics.add_metric("NoticesPublished", MetricUnit.Count, published)
    return {"batchItemFailures": []}
