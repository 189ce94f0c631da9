"""The cost model applied to what was counted: ceilings and dollars of each design."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent_credits.aws.items import Item, account_from_item, account_item
from agent_credits.billing.directory import Directory
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.notices.announcements import AccountRecord, NoticeSettings, notices_of
from tests.benchmarks.agent_credits_design import rows_of
from tests.benchmarks.cost_model import (
    Dollars,
    LedgerClass,
    Measured,
    PriceFile,
    compare_ledger_classes,
    dollars_per_million_events,
    hot_account_ceiling,
)
from tests.benchmarks.counts import Counts
from tests.benchmarks.log_bytes import LogBytes
from tests.benchmarks.workloads import SIZES, hot_account
from tests.unit.builders import NOW, pause

ANNOUNCED_BATCHES = 10
# Between reading the row and having written it, the typical design makes these two requests.
TYPICAL_TURN_REQUESTS = 2
TYPICAL_REQUESTS = 5
# Between reading the row of a limit and writing it there is nothing but the transaction.
SPANNED_TURN_READS = 1


@dataclass(frozen=True, slots=True)
class Modelled:
    """What a design comes to on AWS, `events_per_batch` of one account being there at once."""

    design: str
    events_per_batch: int
    ceiling_per_second: float
    ceiling_per_second_slow: float
    dollars_per_million: Dollars
    total_dollars_per_million: float
    ledger_class: LedgerClass


def model(
    counts: Counts, announce_cpu: Mapping[int, float], log_bytes: LogBytes, file: PriceFile
) -> list[Modelled]:
    modelled = []
    for size in SIZES:
        for design, measured in _measured(counts, size, announce_cpu, log_bytes, file):
            dollars = dollars_per_million_events(measured, file.prices, file.assumptions)
            fast, slow = (
                hot_account_ceiling(measured, milliseconds)
                for milliseconds in (
                    file.assumptions.request_milliseconds,
                    file.assumptions.request_milliseconds_slow,
                )
            )
            ledger_class = compare_ledger_classes(measured, file.prices)
            modelled.append(
                Modelled(design, size, fast, slow, dollars, dollars.total, ledger_class)
            )
    return modelled


def _measured(
    counts: Counts,
    size: int,
    announce_cpu: Mapping[int, float],
    log_bytes: LogBytes,
    file: PriceFile,
) -> Iterator[tuple[str, Measured]]:
    """Yield each design's figures; what commits event by event does so at any size.

    Each logs like this project, and keeps its ledger in the same class of table.
    """
    transaction = file.assumptions.transaction_requests
    ours, spanned = (
        next(
            d
            for d in counts.depths
            if (d.design, d.accounts, d.events_per_batch) == (design, 1, size)
        ).warm_max
        for design in ("agent-credits", "agent-credits-spanned")
    )
    figures = {
        "agent-credits": (size, ours, ours),
        "agent-credits-spanned": (
            size,
            # One of them is the transaction.
            spanned - 1 + transaction,
            SPANNED_TURN_READS + transaction,
        ),
        "powertools": (1, TYPICAL_REQUESTS, TYPICAL_TURN_REQUESTS),
        "transaction-1": (1, transaction, transaction),
        "transaction-99": (size, transaction, transaction),
    }
    for design, (events, round_trips, turn_requests) in figures.items():
        cost = counts.cost(design, f"hot-{size}")
        yield (
            design,
            Measured(
                events=events,
                write_units=cost.write_units,
                row_write_units=cost.row_write_units,
                ledger_write_units=cost.ledger_write_units,
                read_units=cost.read_units,
                ledger_read_units=cost.ledger_read_units,
                round_trips=round_trips,
                turn_requests=turn_requests,
                debit_cpu_microseconds=cost.cpu_microseconds,
                announce_cpu_microseconds=announce_cpu[events],
                commit_log_bytes=log_bytes.of_commit[events],
                metrics_log_bytes=log_bytes.of_metrics,
                stored_bytes=cost.stored_bytes,
            ),
        )


def announce_cpu_microseconds() -> dict[int, float]:
    """Return what it takes to read both images of a commit and to find what they announce."""
    return {size: _announce_cpu(size) for size in SIZES}


def _announce_cpu(events_per_batch: int) -> float:
    images = _images(events_per_batch)
    settings = NoticeSettings("")
    began = time.process_time()
    for old, new in images:
        notices_of(AccountRecord(account_from_item(old), account_from_item(new)), settings)
    return (time.process_time() - began) / len(images) * 1e6


def _images(events_per_batch: int) -> Sequence[tuple[Item, Item]]:
    workload = hot_account(events_per_batch, ANNOUNCED_BATCHES, warm_up=0)
    rows = rows_of(workload)
    debits = Debits(rows, Directory(rows), pause)
    for batch in workload.batches:
        deliveries = [Delivery(str(number), body) for number, body in enumerate(batch)]
        debits.debit(deliveries, now=NOW, time_is_left=lambda: True)
    return [(account_item(old), account_item(new)) for old, new in rows.stream if old is not None]
