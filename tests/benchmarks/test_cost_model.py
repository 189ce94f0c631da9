"""The formulas, on figures small enough to be checked in the head."""

from dataclasses import asdict, replace

import pytest

from tests.benchmarks.cost_model import (
    Assumptions,
    Measured,
    Prices,
    compare_ledger_classes,
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
    infrequent_write_unit_per_million=1.5,
    infrequent_read_unit_per_million=0.3,
    infrequent_storage_per_gb_month=0.05,
    recovery_per_gb_month=0.25,
    sqs_request_per_million=0.5,
    lambda_request_per_million=0.2,
    lambda_gb_second=0.00001,
    sns_publish_per_million=0.5,
    log_per_gb=0.5,
    alarm_per_month=0.1,
    dashboard_per_month=3,
    custom_metric_per_month=0.3,
    key_per_month=1,
    secret_per_month=0.4,
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
    lambda_log_bytes_per_invocation=300,
    idle_pollers_per_queue=5,
    idle_poll_seconds=20,
)
MEASURED = Measured(
    events=10,
    write_units=1.5,
    row_write_units=0.1,
    ledger_write_units=1,
    read_units=1,
    ledger_read_units=0.5,
    round_trips=2,
    turn_requests=2,
    debit_cpu_microseconds=0,
    announce_cpu_microseconds=0,
    commit_log_bytes=2_000,
    metrics_log_bytes=500,
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


def test_units_cost_what_the_price_file_says_for_the_class_of_their_table() -> None:
    of_accounts = 0.5 * 1 + 0.5 * 0.2
    of_ledger = 1 * 1.5 + 0.5 * 0.3

    assert dollars().dynamodb == pytest.approx(of_accounts + of_ledger)


def test_the_ledger_class_is_even_once_storage_has_saved_what_requests_cost_more() -> None:
    compared = compare_ledger_classes(MEASURED, PRICES)

    assert compared.standard_requests == pytest.approx(1 * 1 + 0.5 * 0.2)
    assert compared.infrequent_requests == pytest.approx(1 * 1.5 + 0.5 * 0.3)
    # A million events of 1,000 bytes are one GB.
    assert compared.standard_storage_month == pytest.approx(0.25)
    assert compared.infrequent_storage_month == pytest.approx(0.05)
    assert compared.break_even_months == pytest.approx((1.65 - 1.1) / (0.25 - 0.05))


def test_a_commit_logs_a_line_and_an_invocation_its_metrics_and_lambdas_own_lines() -> None:
    # A tenth of a commit per event; an invocation for a hundred events, and one of Announce for ten
    # commits of ten.
    bytes_per_event = 2_000 / 10 + (500 + 300) * (0.01 + 0.01)

    assert dollars().logs == pytest.approx(bytes_per_event / 1_000 * 0.5)


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
    assert dollars().storage == pytest.approx(12 * (0.05 + 0.25))


def test_only_failed_runs_are_published() -> None:
    assert dollars().sns == pytest.approx(0.002 * 0.5)


def test_the_total_is_the_sum_of_the_services() -> None:
    parts = dollars()

    assert parts.total == pytest.approx(sum(asdict(parts).values()))


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
    ledger, accounts = (
        template["Resources"][name]["Properties"] for name in ("LedgerTable", "AccountsTable")
    )
    assert ledger["TableClass"] == "STANDARD_INFREQUENT_ACCESS"
    assert "TableClass" not in accounts
