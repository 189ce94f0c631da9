"""Post notices to Slack: each once, as fast as Slack accepts them, and without losing one."""

import os
from datetime import UTC, datetime
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
)
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, ConfigDict

from agent_credits.aws.cached_secret import CachedSecret
from agent_credits.aws.clients import (
    dynamodb_client,
    secretsmanager_client,
    sqs_client,
)
from agent_credits.aws.metrics import add_counts, add_counts_by, metrics_of
from agent_credits.notices.published import NotAnEnvelope, Published, read_envelope
from agent_credits.notices.slack_messages import slack_message
from agent_credits.notices.slack_posts import (
    NotPosted,
    SlackPosts,
    metric_of,
    parse_webhooks,
    retry_in_seconds,
)
from agent_credits.values.errors import SecretUnavailable

# Longer than a notice can be redelivered: its change may be set aside for 14 days before a replay.
# It then stays at most 4 days in the queue and 14 in the dead-letter queue, from which it may be
# redriven.
REMEMBERED_SECONDS = 35 * 24 * 60 * 60


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    STACK_NAME: str
    SLACK_QUEUE_URL: str
    SLACK_SECRET_ARN: str
    SLACK_POSTS_TABLE: str
    # Empty for Slack itself; on a local stack, the address of a stand-in.
    SLACK_API_BASE: str


def now() -> datetime:
    return datetime.now(UTC)


logger = Logger()
settings = Settings.model_validate(dict(os.environ))
metrics = metrics_of(settings.STACK_NAME)
sqs = sqs_client()
webhooks = CachedSecret(
    secretsmanager_client(),
    settings.SLACK_SECRET_ARN,
    now,
    lambda secret: parse_webhooks(secret, settings.SLACK_API_BASE),
)
posts = SlackPosts(now)
once = IdempotencyConfig(expires_after_seconds=REMEMBERED_SECONDS)
posted = DynamoDBPersistenceLayer(settings.SLACK_POSTS_TABLE, boto3_client=dynamodb_client())


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Post the one message; if that fails, set when it is redelivered, and return it."""
    (record,) = event["Records"]
    once.register_lambda_context(context)
    fields: dict[str, str] = {"message_id": record["messageId"]}
    try:
        published = read_envelope(record["body"])
        fields |= {"notice_id": published.id, "notice_type": published.type}
        fields |= {"team_id": published.team_id}
        url = webhooks().url_for(published.team_id)
        if url is None:
            # Skipped on purpose: the secret has no webhook for this team and no default.
            logger.info("no webhook", extra=fields)
        else:
            post(notice_id=published.id, url=url, published=published)
            logger.info("posted", extra=fields)
        add_counts(metrics, {"NoticesPosted": url is not None})
    except (NotPosted, NotAnEnvelope, SecretUnavailable, IdempotencyAlreadyInProgressError) as why:
        seconds = retry_in_seconds(why, int(record["attributes"]["ApproximateReceiveCount"]))
        extra = {**fields, "reason": str(why), "retry_in_seconds": seconds}
        logger.warning("not posted", extra=extra)
        add_counts(metrics, {metric_of(why): 1})
        add_counts_by(metrics, metric_of(why), "cause", {type(why).__name__: 1})
        sqs.change_message_visibility(
            QueueUrl=settings.SLACK_QUEUE_URL,
            ReceiptHandle=record["receiptHandle"],
            VisibilityTimeout=seconds,
        )
        return {"batchItemFailures": [{"itemIdentifier": record["messageId"]}]}
    return {"batchItemFailures": []}


# A delivery that fails leaves no record, and one that succeeds is not posted again. A delivery that
# is cut off after Slack accepted the message is posted twice: Slack has no idempotency key.
@idempotent_function(  # type: ignore[untyped-decorator]  # Powertools declares no types for it.
    data_keyword_argument="notice_id", config=once, persistence_store=posted
)
def post(*, notice_id: str, url: str, published: Published) -> None:
    posts.post(url, slack_message(published))
