"""Consume agent-run events from SQS and debit them; a message is done once it is recorded."""

import os
from datetime import UTC, datetime
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, ConfigDict

from agent_credits.aws.backoff import back_off
from agent_credits.aws.clients import (
    dynamodb_client,
    secretsmanager_client,
    sqs_client,
)
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.run_queue import RunQueue
from agent_credits.aws.signing_keys import SigningKeys
from agent_credits.billing.directory import Directory
from agent_credits.events.signatures import ATTRIBUTE
from agent_credits.intake.debits import DebitedBatch, Debits, Delivery
from agent_credits.values.errors import Contended, QueueUnavailable

# No commit is begun with less time left. It takes milliseconds, or seconds where its calls are
# retried; one that is cut off is redelivered, and harmless.
COMMIT_TIME_MS = 10_000


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    ACCOUNTS_TABLE: str
    LEDGER_TABLE: str
    AGENT_RUNS_QUEUE_URL: str
    # Empty where events need no signature.
    EVENT_SIGNING_SECRET_ARN: str


def now() -> datetime:
    return datetime.now(UTC)


logger = Logger()
metrics = Metrics()
settings = Settings.model_validate(dict(os.environ))
rows = DynamoDBRows(dynamodb_client(), settings.ACCOUNTS_TABLE, settings.LEDGER_TABLE)
signing_keys = (
    SigningKeys(secretsmanager_client(), settings.EVENT_SIGNING_SECRET_ARN, now)
    if settings.EVENT_SIGNING_SECRET_ARN
    else None
)
debits = Debits(rows, Directory(rows), back_off, signing_keys)


@cache
def run_queue() -> RunQueue:
    """Messages rarely have to go back, so a cold start does without this client."""
    return RunQueue(sqs_client(), settings.AGENT_RUNS_QUEUE_URL)


@metrics.log_metrics
@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer with exactly the messages that hold an event which is not recorded."""
    receipt_handles = {r["messageId"]: r["receiptHandle"] for r in event["Records"]}
    batch = debits.debit(
        [Delivery(r["messageId"], r["body"], _signature(r)) for r in event["Records"]],
        now=now(),
        time_is_left=lambda: context.get_remaining_time_in_millis() > COMMIT_TIME_MS,
    )
    _log(batch)
    hopeful = batch.postponed.keys() | batch.waiting.keys()
    hopeless = [receipt_handles[m] for m in batch.rejected if m not in hopeful]
    # Who lost the races of a busy account wins a little later, and a reload takes seconds; the
    # visibility timeout is minutes.
    contended = {m for m, error in batch.postponed.items() if isinstance(error, Contended)}
    soon = [r for r in event["Records"] if r["messageId"] in contended | batch.waiting.keys()]
    if hopeless or soon:
        try:
            run_queue().return_at_once(hopeless)
            run_queue().return_soon({r["receiptHandle"]: _receives(r) for r in soon})
        except QueueUnavailable as fault:
            logger.warning("messages return only later", extra={"reason": str(fault)})
    failures = [{"itemIdentifier": message_id} for message_id in batch.failed_message_ids]
    return {"batchItemFailures": failures}


def _signature(record: dict[str, Any]) -> str | None:
    # An attribute of another type than String has no string value.
    value: str | None = record.get("messageAttributes", {}).get(ATTRIBUTE, {}).get("stringValue")
    return value


def _receives(record: dict[str, Any]) -> int:
    return int(record["attributes"]["ApproximateReceiveCount"])


def _log(batch: DebitedBatch) -> None:
    for outcome in batch.outcomes:
        logger.info(outcome.name, extra=outcome.log_fields)
    for reported in batch.reported:
        logger.info("provider rejected", extra=reported.log_fields)
    for message_id, reload_id in batch.waiting.items():
        logger.info("waiting", extra={"message_id": message_id, "reload_id": reload_id})
    for message_id, rejection in batch.rejected.items():
        extra = {"message_id": message_id, "code": rejection.code, "reason": rejection.reason}
        logger.warning("rejected", extra=extra)
    for message_id, error in batch.postponed.items():
        reason = (
            "the function's time is up" if error is None else f"{type(error).__name__}: {error}"
        )
        logger.error("postponed", extra={"message_id": message_id, "reason": reason})
    metrics.add_metric("CompareAndSetRetries", MetricUnit.Count, batch.retries)
    metrics.add_metric("MessagesRejected", MetricUnit.Count, len(batch.rejected))
    metrics.add_metric("RunsFailed", MetricUnit.Count, batch.runs_failed)
