"""Sweep over all rows of a kind: one bounded step or visit per message."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, ConfigDict, Field

from agent_credits.aws.clients import dynamodb_client, sqs_client
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.metrics import add_counts, metrics_of
from agent_credits.aws.sweep_queue import SqsSweepQueue
from agent_credits.sweeps.balance_report_sweep import BalanceReportSweep
from agent_credits.sweeps.expiring_credits_sweep import ExpiringCreditsSweep
from agent_credits.sweeps.last_sweep import SweepName
from agent_credits.sweeps.reconciliation_sweep import ReconciliationSweep
from agent_credits.sweeps.sweep import (
    Step,
    Sweep,
    Visit,
    parse_sweep_message,
    take_step,
    take_visit,
)

# No visit starts with less time left than this. The slowest takes about half of it.
VISIT_TIME_MS = 20_000


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    STACK_NAME: str
    ACCOUNTS_TABLE: str
    LEDGER_TABLE: str
    SWEEPS_QUEUE_URL: str
    EXPIRY_NOTICE_DAYS: int = Field(gt=0)


logger = Logger()
settings = Settings.model_validate(dict(os.environ))
metrics = metrics_of(settings.STACK_NAME)
rows = DynamoDBRows(dynamodb_client(), settings.ACCOUNTS_TABLE, settings.LEDGER_TABLE)
queue = SqsSweepQueue(sqs_client(), settings.SWEEPS_QUEUE_URL)
sweeps: dict[SweepName, Sweep[Any]] = {
    "reconciliation": ReconciliationSweep(rows),
    "expiring_credits": ExpiringCreditsSweep(rows, timedelta(days=settings.EXPIRY_NOTICE_DAYS)),
    "balance_reports": BalanceReportSweep(rows),
}


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Handle the one message. A fault is raised, and the message is redelivered."""
    add_counts(metrics, {"SweepMessages": 1})
    (record,) = event["Records"]
    attributes = record["attributes"]
    sent_at = datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1_000, UTC)
    message = parse_sweep_message(record["body"], sent_at)
    now = datetime.now(UTC)
    match message:
        case Step():
            swept = take_step(
                sweeps[message.sweep],
                queue,
                message,
                attempt=int(attributes["ApproximateReceiveCount"]),
                now=now,
                time_is_left=lambda: context.get_remaining_time_in_millis() > VISIT_TIME_MS,
            )
        case Visit():
            swept = take_visit(sweeps[message.sweep], queue, message, now)
        case _:
            assert_never(message)
    if swept.ended is not None:
        rows.put_last_sweep(swept.ended)
    add_counts(metrics, {"RowsVisited": swept.rows})
    add_counts(metrics, swept.counts)
    logger.info("swept", extra={**message.model_dump(mode="json"), **swept.log_fields})
    return {"batchItemFailures": []}
