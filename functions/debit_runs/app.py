"""Consume agent-run events from SQS and debit them; a message is done once it is recorded."""

import logging
import os
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, ConfigDict

from agent_credits.aws.backoff import back_off
from agent_credits.aws.clients import dynamodb_client, secretsmanager_client, sqs_client
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.metrics import add_counts, add_counts_by, metrics_of
from agent_credits.aws.run_queue import RunQueue, deliveries, give_back
from agent_credits.aws.signing_keys import SigningKeys
from agent_credits.aws.threads import Threads
from agent_credits.billing.directory import Directory
from agent_credits.events.signatures import SignatureMode
from agent_credits.intake.debits import Debits

# No commit starts with less time left. It takes milliseconds, or seconds if its calls are retried.
# One that is cut off is harmless: its messages are redelivered.
COMMIT_TIME_MS = 10_000


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    STACK_NAME: str
    ACCOUNTS_TABLE: str
    LEDGER_TABLE: str
    AGENT_RUNS_QUEUE_URL: str
    EVENT_SIGNATURES: SignatureMode
    EVENT_SIGNING_SECRET_ARN: str


# Every byte of a log line is paid for, and each line comes from one place.
logger = Logger(location=None)
now = partial(datetime.now, UTC)
settings = Settings.model_validate(dict(os.environ))
metrics = metrics_of(settings.STACK_NAME)
rows = DynamoDBRows(dynamodb_client(), settings.ACCOUNTS_TABLE, settings.LEDGER_TABLE)
mode, keys = settings.EVENT_SIGNATURES, None
if mode != "off":
    keys = SigningKeys(secretsmanager_client(), settings.EVENT_SIGNING_SECRET_ARN, now)
debits = Debits(
    rows, Directory(rows), back_off, keys, Threads(), unsigned_counts=mode == "check-signed"
)


@cache
def run_queue() -> RunQueue:
    """Return the queue; messages rarely go back, so most cold starts need no client."""
    return RunQueue(sqs_client(), settings.AGENT_RUNS_QUEUE_URL)


@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Return exactly the messages that contain an unrecorded event."""
    # The rest of what `inject_lambda_context` would add is the same on every line.
    logger.append_keys(function_request_id=context.aws_request_id)
    batch = debits.debit(
        deliveries(event["Records"]),
        now=now(),
        time_is_left=lambda: context.get_remaining_time_in_millis() > COMMIT_TIME_MS,
    )
    for line in batch.log_lines(per_event=logger.log_level <= logging.DEBUG):
        getattr(logger, line.level)(line.message, extra=line.fields)
    batch = give_back(run_queue, event["Records"], batch)
    if batch.late:
        logger.warning("messages return only later", extra={"reason": str(batch.late[0])})
    add_counts(metrics, batch.counts)
    add_counts_by(metrics, "MessagesPostponed", "cause", batch.postponed)
    return {"batchItemFailures": [{"itemIdentifier": m} for m in batch.failed_message_ids]}
