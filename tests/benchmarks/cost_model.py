"""What the counts come to on AWS, by its published limits and prices. Every figure is a formula.

Nothing here was measured on AWS. Counts (units, round trips, bytes) are the same there; processor
time is this machine's, scaled to what Lambda gives; latencies are parameters.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

PRICES_FILE = Path(__file__).parent / "prices.toml"

MILLION = 1_000_000
BYTES_PER_GB = 1_000_000_000
MONTHS_PER_YEAR = 12
# DynamoDB: what one item, and with it one partition key, takes in a second.
ITEM_WRITE_UNITS_PER_SECOND = 1_000
# SQS: messages that one call receives or deletes.
MESSAGES_PER_CALL = 10
# Lambda: the memory that comes with one whole processor.
MEGABYTES_PER_PROCESSOR = 1_769
MEGABYTES_PER_GB = 1_024


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prices(_Strict):
    """US dollars; the field says per what. `infrequent_…` is of the table class of the ledger."""

    write_unit_per_million: float
    read_unit_per_million: float
    storage_per_gb_month: float
    infrequent_write_unit_per_million: float
    infrequent_read_unit_per_million: float
    infrequent_storage_per_gb_month: float
    recovery_per_gb_month: float
    sqs_request_per_million: float
    lambda_request_per_million: float
    lambda_gb_second: float
    sns_publish_per_million: float
    log_per_gb: float
    alarm_per_month: float
    dashboard_per_month: float
    custom_metric_per_month: float
    key_per_month: float
    secret_per_month: float


class Assumptions(_Strict):
    """What AWS does not fix and the counts do not say."""

    request_milliseconds: float
    request_milliseconds_slow: float
    transaction_requests: int
    messages_per_batch: int
    messages_per_send: int
    events_per_message: int
    debit_megabytes: int
    announce_megabytes: int
    records_per_announcement: int
    notices_per_thousand_events: float
    lambda_log_bytes_per_invocation: float
    idle_pollers_per_queue: int
    idle_poll_seconds: int


class PriceFile(_Strict):
    as_of: str
    region: str
    sources: tuple[str, ...]
    prices: Prices
    assumptions: Assumptions


@dataclass(frozen=True, slots=True)
class Measured:
    """What was counted and measured of a design, per event; `events` in each commit of an account.

    `round_trips` of a commit follow one another. `turn_requests`: those of them between reading the
    row and having written it, in which no other commit of the account can succeed. `ledger_…` units
    are part of all; what is stored is stored in the ledger. A commit logs one line, an invocation
    its metrics.
    """

    events: int
    write_units: float
    row_write_units: float
    ledger_write_units: float
    read_units: float
    ledger_read_units: float
    round_trips: float
    turn_requests: float
    debit_cpu_microseconds: float
    announce_cpu_microseconds: float
    commit_log_bytes: float
    metrics_log_bytes: float
    stored_bytes: float


@dataclass(frozen=True, slots=True)
class LedgerClass:
    """What a million events' entries cost in each table class of the ledger.

    Requests are paid for once, storage each month, from `break_even_months` on less in all.
    """

    standard_requests: float
    infrequent_requests: float
    standard_storage_month: float
    infrequent_storage_month: float
    break_even_months: float


@dataclass(frozen=True, slots=True)
class Dollars:
    """What a million events cost, by service."""

    sqs: float
    functions: float
    dynamodb: float
    sns: float
    logs: float
    storage: float

    @property
    def total(self) -> float:
        return self.sqs + self.functions + self.dynamodb + self.sns + self.logs + self.storage


def read_prices(path: Path = PRICES_FILE) -> PriceFile:
    return PriceFile.model_validate(tomllib.loads(path.read_text()))


def hot_account_ceiling(measured: Measured, request_milliseconds: float) -> float:
    """Return the events a second that one account can take: the lower of two limits.

    The row takes 1,000 write units a second, and one commit at a time.
    """
    by_units = ITEM_WRITE_UNITS_PER_SECOND / measured.row_write_units
    by_turns = measured.events / (measured.turn_requests * request_milliseconds / 1_000)
    return min(by_units, by_turns)


def dollars_per_million_events(
    measured: Measured, prices: Prices, assumptions: Assumptions
) -> Dollars:
    return Dollars(
        sqs=sqs_requests_per_event(assumptions) * prices.sqs_request_per_million,
        functions=_functions(measured, prices, assumptions),
        dynamodb=(
            (measured.write_units - measured.ledger_write_units) * prices.write_unit_per_million
            + (measured.read_units - measured.ledger_read_units) * prices.read_unit_per_million
            + _infrequent_requests(measured, prices)
        ),
        sns=assumptions.notices_per_thousand_events / 1_000 * prices.sns_publish_per_million,
        logs=_logs(measured, prices, assumptions),
        storage=_storage_for_a_year(measured, prices),
    )


def compare_ledger_classes(measured: Measured, prices: Prices) -> LedgerClass:
    standard_requests = (
        measured.ledger_write_units * prices.write_unit_per_million
        + measured.ledger_read_units * prices.read_unit_per_million
    )
    infrequent_requests = _infrequent_requests(measured, prices)
    standard_month = _gigabytes_stored(measured) * prices.storage_per_gb_month
    infrequent_month = _gigabytes_stored(measured) * prices.infrequent_storage_per_gb_month
    dearer, cheaper = infrequent_requests - standard_requests, standard_month - infrequent_month
    return LedgerClass(
        standard_requests, infrequent_requests, standard_month, infrequent_month, dearer / cheaper
    )


def _infrequent_requests(measured: Measured, prices: Prices) -> float:
    return (
        measured.ledger_write_units * prices.infrequent_write_unit_per_million
        + measured.ledger_read_units * prices.infrequent_read_unit_per_million
    )


def sqs_requests_per_event(assumptions: Assumptions) -> float:
    """A message is sent, received and deleted; Lambda does the latter two for ten at a time."""
    per_message = 1 / assumptions.messages_per_send + 2 / MESSAGES_PER_CALL
    return per_message / assumptions.events_per_message


def _functions(measured: Measured, prices: Prices, assumptions: Assumptions) -> float:
    """The accounts of a batch are committed one after the other, each waiting for its requests.

    Announce runs once for so many commits, and reads both images of each.
    """
    waiting = measured.round_trips * assumptions.request_milliseconds / 1_000 / measured.events
    debit_seconds = waiting + _billed_seconds(
        measured.debit_cpu_microseconds, assumptions.debit_megabytes
    )
    commits = 1 / measured.events
    announce_seconds = commits * _billed_seconds(
        measured.announce_cpu_microseconds, assumptions.announce_megabytes
    )
    gb_seconds = (
        debit_seconds * assumptions.debit_megabytes
        + announce_seconds * assumptions.announce_megabytes
    ) / MEGABYTES_PER_GB
    invocations = _invocations_per_event(measured, assumptions)
    return (
        gb_seconds * MILLION * prices.lambda_gb_second
        + invocations * prices.lambda_request_per_million
    )


def _invocations_per_event(measured: Measured, assumptions: Assumptions) -> float:
    """Return those of DebitRuns and of Announce."""
    events_per_batch = assumptions.messages_per_batch * assumptions.events_per_message
    commits = 1 / measured.events
    return 1 / events_per_batch + commits / assumptions.records_per_announcement


def _logs(measured: Measured, prices: Prices, assumptions: Assumptions) -> float:
    """A line for each commit; for each invocation its metrics, and what Lambda itself writes."""
    per_invocation = measured.metrics_log_bytes + assumptions.lambda_log_bytes_per_invocation
    bytes_per_event = (
        measured.commit_log_bytes / measured.events
        + per_invocation * _invocations_per_event(measured, assumptions)
    )
    return bytes_per_event * MILLION / BYTES_PER_GB * prices.log_per_gb


def _billed_seconds(cpu_microseconds: float, megabytes: int) -> float:
    """Return how long Lambda takes for so much work of one whole processor."""
    return cpu_microseconds / MILLION * max(1.0, MEGABYTES_PER_PROCESSOR / megabytes)


def _storage_for_a_year(measured: Measured, prices: Prices) -> float:
    """Stored, and kept recoverable to any second, from the day of the event on."""
    per_month = prices.infrequent_storage_per_gb_month + prices.recovery_per_gb_month
    return _gigabytes_stored(measured) * MONTHS_PER_YEAR * per_month


def _gigabytes_stored(measured: Measured) -> float:
    """Return what a million events leave in the ledger."""
    return measured.stored_bytes * MILLION / BYTES_PER_GB
