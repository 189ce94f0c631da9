"""Carry out reloads: the only code that charges cards. One message at a time, in order per team."""

import os
from datetime import UTC, datetime
from functools import cache
from typing import Any, assert_never

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, ConfigDict

from agent_credits.aws.backoff import back_off
from agent_credits.aws.clients import (
    dynamodb_client,
    secretsmanager_client,
    sqs_client,
)
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.metrics import add_counts, add_counts_by, metrics_of
from agent_credits.aws.reload_queue import ReloadQueue, read_request
from agent_credits.aws.stripe_secret import StripeSecret
from agent_credits.payments.port import InvoicePayments
from agent_credits.payments.reload_saga import Granted, NotGranted, Open, ReloadSaga, Stale
from agent_credits.payments.stripe_payments import StripePayments


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    STACK_NAME: str
    ACCOUNTS_TABLE: str
    LEDGER_TABLE: str
    RELOADS_QUEUE_URL: str
    STRIPE_SECRET_ARN: str
    # Empty for Stripe itself; on a local stack, the address of a stand-in.
    STRIPE_API_BASE: str


def now() -> datetime:
    return datetime.now(UTC)


logger = Logger()
settings = Settings.model_validate(dict(os.environ))
metrics = metrics_of(settings.STACK_NAME)
rows = DynamoDBRows(dynamodb_client(), settings.ACCOUNTS_TABLE, settings.LEDGER_TABLE)
stripe_secret = StripeSecret(secretsmanager_client(), settings.STRIPE_SECRET_ARN, now)
stripe = StripePayments(stripe_secret, settings.STRIPE_API_BASE or None)
saga = ReloadSaga(rows, rows, {"stripe": stripe, "invoice": InvoicePayments()}, back_off)


@cache
def queue() -> ReloadQueue:
    """Return the queue; few payments stay open, so most cold starts need no client."""
    return ReloadQueue(sqs_client(), settings.RELOADS_QUEUE_URL)


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Fail the message while its reload is open; SQS redelivers it, as after any fault."""
    (record,) = event["Records"]
    request = read_request(record["body"])
    resolution = saga.resolve(request, now())
    fields = {"reload_id": request.reload_id, "principal": str(request.principal)}
    match resolution:
        case Granted(reservation):
            logger.info("granted", extra={**fields, "price_cents": reservation.price_cents})
            add_counts(metrics, {"ReloadsGranted": 1})
            spent = {reservation.currency: reservation.price_cents}
            add_counts_by(metrics, "ReloadSpendCents", "currency", spent)
        case NotGranted(cause):
            logger.info("declined", extra={**fields, "cause": cause})
            add_counts(metrics, {"ReloadsDeclined": 1})
        case Stale():
            logger.info("stale", extra=fields)
        case Open(reason=reason, is_followed_up=is_followed_up):
            logger.warning("open", extra={**fields, "reason": reason})
            add_counts(metrics, {"ReloadsOpen": 1})
            if is_followed_up and not request.follows_up:
                # Done: its follow-up keeps asking, and the team's other reloads need not wait.
                return {"batchItemFailures": []}
            queue().ask_again(record, request)
            return {"batchItemFailures": [{"itemIdentifier": record["messageId"]}]}
        case _:
            assert_never(resolution)
    return {"batchItemFailures": []}
