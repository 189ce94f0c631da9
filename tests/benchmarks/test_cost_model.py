"""The formulas, on figures small enough to be checked in the head."""

from dataclasses import replace

import pytest

from tests.benchmarks.cost_model import (
    Assumptions,
    Measured,
    Prices,
    dollars_per_million_events,
    hot_account_ceiling,
    read_prices,
    sqs_requests_per_event,
)
from tests.template import load_template

PRICES = Prices(
    write_unit_per_million=1,
    read_unit_per_million=0.2,
    storage_per_gb_month=0.25,
    recovery_per_gb_month=0.25,
    sqs_request_per_million=0.5,
    lambda_request_per_million=0.2,
    lambda_gb_second=0.00001,
    sns_publish_per_million=0.5,
)
ASSUMPTIONS = Assumptions(
    request_milliseconds=5,
    request_milliseconds_slow=10,
    transaction_requests=2,
    messages_per_batch=100,
    messages_per_send=1,
    events_per_message=1,
    debit_megabytes=1024,
    announce_megabytes=512,
    records_per_announcement=10,
    notices_per_thousand_events=2,
)
MEASURED = Measured(
    events=10,
    write_units=1.5,
    row_write_units=0.1,
    read_units=1,
    round_trips=2,
    turn_requests=2,
    debit_cpu_microseconds=0,
    announce_cpu_microseconds=0,
    stored_bytes=1_000,
)


def dollars(measured: Measured = MEASURED, assumptions: Assumptions = ASSUMPTIONS):
    return dollars_per_million_events(measured, PRICES, assumptions)


def test_a_hot_account_is_bounded_by_one_commit_at_a_time() -> None:
    # Two requests of 5 ms are 100 commits a second, of ten events each.
    assert hot_account_ceiling(MEASURED, 5) == pytest.approx(1_000)
    assert hot_account_ceiling(MEASURED, 10) == pytest.approx(500)


def test_a_hot_account_is_bounded_by_the_units_that_one_item_takes() -> None:
    assert hot_account_ceiling(replace(MEASURED, row_write_units=2), 5) == pytest.approx(500)


def test_units_cost_what_the_price_file_says() -> None:
    assert dollars().dynamodb == pytest.approx(1.5 * 1 + 1 * 0.2)


def test_a_message_is_sent_alone_and_received_and_deleted_ten_at_a_time() -> None:
    assert sqs_requests_per_event(ASSUMPTIONS) == pytest.approx(1.2)
    packed = ASSUMPTIONS.model_copy(update={"events_per_message": 100})
    assert sqs_requests_per_event(packed) == pytest.approx(0.012)
    assert dollars().sqs == pytest.approx(1.2 * 0.5)


def test_a_function_is_paid_for_waiting_for_its_requests() -> None:
    # Two requests of 5 ms for ten events: 1 ms each, of 1 GB; an invocation for a hundred, and one
    # of Announce for ten commits of ten.
    waiting = 1_000_000 * 0.001 * 0.00001
    invocations = (0.01 + 0.01) * 0.2

    assert dollars().functions == pytest.approx(waiting + invocations)


def test_a_small_function_takes_longer_for_the_same_work() -> None:
    # 100 µs of a processor last 1,769 / 1,024 times as long where 1,024 MB are paid for.
    busy = dollars(replace(MEASURED, debit_cpu_microseconds=100))

    extra = busy.functions - dollars().functions
    assert extra == pytest.approx(1_000_000 * 100e-6 * 1_769 / 1_024 * 0.00001)


def test_announce_is_paid_for_by_the_commit() -> None:
    busy = dollars(replace(MEASURED, announce_cpu_microseconds=1_000))

    # A tenth of a commit per event, half a GB, 1,769 / 512 times as long: half of 1,769 / 512.
    extra = busy.functions - dollars().functions
    assert extra == pytest.approx(1_000_000 * 1e-3 / 10 * 1_769 / 512 * 0.5 * 0.00001)


def test_a_year_of_storage_is_paid_for_with_its_backups() -> None:
    # A million events of 1,000 bytes are one GB.
    assert dollars().storage == pytest.approx(12 * (0.25 + 0.25))


def test_only_failed_runs_are_published() -> None:
    assert dollars().sns == pytest.approx(0.002 * 0.5)


def test_the_total_is_the_sum_of_the_services() -> None:
    parts = dollars()

    total = parts.sqs + parts.functions + parts.dynamodb + parts.sns + parts.storage
    assert parts.total == pytest.approx(total)


def test_the_price_file_says_of_when_and_where_it_is() -> None:
    file = read_prices()

    assert file.as_of
    assert file.region
    assert all(source.startswith("https://aws.amazon.com/") for source in file.sources)


def test_the_price_file_assumes_what_the_template_deploys() -> None:
    template = load_template()
    debit_runs, announce = (
        template["Resources"][name]["Properties"] for name in ("DebitRuns", "Announce")
    )
    assumptions = read_prices().assumptions

    assert assumptions.messages_per_batch == template["Parameters"]["BatchSize"]["Default"]
    assert assumptions.debit_megabytes == debit_runs["MemorySize"]
    assert assumptions.announce_megabytes == announce["MemorySize"]
