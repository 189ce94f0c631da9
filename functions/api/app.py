"""Answer requests of the HTTP API: the same decisions as the queue's, for a caller who waits."""

import os
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, ConfigDict

from agent_credits.api.tokens import Tokens
from agent_credits.aws.backoff import TimeBudget
from agent_credits.aws.clients import dynamodb_client, sqs_client
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.http_api import HttpApi
from agent_credits.aws.issuer import tokens_of
from agent_credits.aws.metrics import add_counts, metrics_of
from agent_credits.aws.reload_queue import ReloadQueue
from agent_credits.aws.threads import Threads
from agent_credits.billing.directory import Directory
from agent_credits.intake.debits import Debits

# No commit starts with less time left: one that is cut off leaves the caller without an answer.
COMMIT_TIME_MS = 5_000
# How long a request tries again while others change the same account, and how often at most.
CONTENTION_SECONDS = 2.0
ATTEMPTS_MAX = 400


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    STACK_NAME: str
    ACCOUNTS_TABLE: str
    LEDGER_TABLE: str
    RELOADS_QUEUE_URL: str
    PROBLEM_TYPE_BASE_URL: str
    PRODUCERS_API_ID: str
    PEOPLE_API_ID: str
    ISSUER: str
    AUDIENCE: str
    ISSUER_KEYS_URL: str


logger = Logger(location=None)
now = partial(datetime.now, UTC)
settings = Settings.model_validate(dict(os.environ))
metrics = metrics_of(settings.STACK_NAME)
rows = DynamoDBRows(dynamodb_client(), settings.ACCOUNTS_TABLE, settings.LEDGER_TABLE)
directory = Directory(rows)
budget = TimeBudget(CONTENTION_SECONDS)
debits = Debits(rows, directory, budget, side_by_side=Threads(), attempts_max=ATTEMPTS_MAX)


@cache
def tokens() -> Tokens:
    """Return what verifies tokens; producers' requests bring none."""
    return tokens_of(settings.ISSUER, settings.AUDIENCE, settings.ISSUER_KEYS_URL, now)


@cache
def reloads() -> ReloadQueue:
    """Return the queue of payments; few requests buy anything."""
    return ReloadQueue(sqs_client(), settings.RELOADS_QUEUE_URL)


api = HttpApi(
    rows,
    directory,
    debits,
    tokens,
    lambda request: reloads().send(request),
    budget,
    doors={settings.PRODUCERS_API_ID: "producers", settings.PEOPLE_API_ID: "people"},
    problem_type_base_url=settings.PROBLEM_TYPE_BASE_URL,
)


@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer one request; what it recorded is logged like the queue's events."""
    budget.begin()
    answered = api.answer(
        event, now(), lambda: context.get_remaining_time_in_millis() > COMMIT_TIME_MS
    )
    logger.append_keys(function_request_id=context.aws_request_id, trace_id=answered.trace_id)
    for line in answered.log_lines():
        getattr(logger, line.level)(line.message, extra=line.fields, exc_info=answered.fault)
    add_counts(metrics, answered.counts)
    return answered.response
