"""The write path counted: one worker, one workload, and what each event costs a design."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.capacity import consumption_of
from tests.benchmarks.design import DynamoDBDesign, Worker, stored_bytes
from tests.benchmarks.round_trips import HELD_UP_SECONDS, round_trips_of
from tests.benchmarks.workloads import (
    UNIFORM_ACCOUNTS,
    UNIFORM_BATCH,
    Batch,
    Workload,
    hot_account,
    uniform,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# Longer than it takes to make fifty calls on a busy machine, each of which computes for a
# millisecond or two.
HELD_UP_SECONDS_OF_MANY = 0.3


@dataclass(frozen=True, slots=True)
class Cost:
    """What an event costs on average; `events` is how many were counted.

    `row_write_units` are those of the account row, which no other partition can share the load of,
    and of the row of a limit;
    `ledger_…_units` those of the ledger, whose table is in a class with prices of its own.
    """

    design: str
    workload: str
    events: int
    write_units: float
    index_write_units: float
    row_write_units: float
    ledger_write_units: float
    read_units: float
    ledger_read_units: float
    requests: float
    cpu_microseconds: float
    stored_bytes: float
    transactions: float = 0


def count(
    client: "DynamoDBClient", design: DynamoDBDesign, workload: Workload, *, cold: bool
) -> Cost:
    """Run the workload, and count from the end of the warm-up on.

    All by one worker; or if `cold`, each batch by one that has seen no account, only the settings.
    """
    suffix = new_suffix()
    design.create(client, suffix, workload)
    worker = design.worker(client, suffix, workload)
    warm_up(worker, workload)
    workers = [worker for _ in workload.counted]
    if cold:
        workers = [_newcomer(client, design, suffix, workload) for _ in workload.counted]
    tables = design.tables(suffix)
    kept = [name for holds, name in tables.items() if holds != "expiring"]
    stored_before = sum(stored_bytes(client, name) for name in kept)
    with consumption_of(client) as consumed:
        started_at = time.process_time()
        for worker, batch in zip(workers, workload.counted, strict=True):
            debit_all(worker, batch)
        cpu_seconds = time.process_time() - started_at
    stored = sum(stored_bytes(client, name) for name in kept) - stored_before
    events = workload.counted_events
    design.drop(client, suffix)
    return Cost(
        design=design.name,
        workload=workload.name,
        events=events,
        write_units=consumed.write_units / events,
        index_write_units=consumed.index_write_units / events,
        row_write_units=consumed.write_units_by_table[tables["accounts"]] / events,
        ledger_write_units=consumed.write_units_by_table[tables["ledger"]] / events,
        read_units=consumed.read_units / events,
        ledger_read_units=consumed.read_units_by_table[tables["ledger"]] / events,
        requests=consumed.requests.total() / events,
        cpu_microseconds=cpu_seconds / events * 1e6,
        stored_bytes=stored / events,
        transactions=consumed.requests["TransactWriteItems"] / events,
    )


@dataclass(frozen=True, slots=True)
class Depth:
    """Sequential round trips of one batch: the fewest and the most of any batch.

    `cold`: of a worker that has not seen the accounts; it has read the team's settings.
    """

    design: str
    accounts: int
    events_per_batch: int
    warm_min: int
    warm_max: int
    cold_min: int
    cold_max: int


def count_round_trips(
    client: "DynamoDBClient",
    design: DynamoDBDesign,
    events_per_batch: int,
    batches: int,
    repeats: int,
) -> Depth:
    """Count several times and keep the smallest count of each batch; see `round_trips`."""
    runs = [
        _round_trips(
            client, design, hot_account(events_per_batch, 2 * batches, warm_up=1, seed=seed)
        )
        for seed in range(repeats)
    ]
    return _depth_of(design, 1, events_per_batch, runs)


def count_round_trips_of_many(
    client: "DynamoDBClient", design: DynamoDBDesign, batches: int, repeats: int
) -> Depth:
    """Count the same of batches of many accounts."""
    runs = [
        _round_trips(
            client,
            design,
            uniform(2 * batches, warm_up=1, seed=seed),
            HELD_UP_SECONDS_OF_MANY,
        )
        for seed in range(repeats)
    ]
    return _depth_of(design, UNIFORM_ACCOUNTS, UNIFORM_BATCH, runs)


def _depth_of(
    design: DynamoDBDesign, accounts: int, events_per_batch: int, runs: Sequence["_Run"]
) -> Depth:
    warm = [min(of_batch) for of_batch in zip(*(run.warm for run in runs), strict=True)]
    cold = [min(of_batch) for of_batch in zip(*(run.cold for run in runs), strict=True)]
    return Depth(
        design=design.name,
        accounts=accounts,
        events_per_batch=events_per_batch,
        warm_min=min(warm),
        warm_max=max(warm),
        cold_min=min(cold),
        cold_max=max(cold),
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """Round trips batch by batch: `warm` by one worker, `cold` each by a new one."""

    warm: list[int]
    cold: list[int]


def _round_trips(
    client: "DynamoDBClient",
    design: DynamoDBDesign,
    workload: Workload,
    held_up_seconds: float = HELD_UP_SECONDS,
) -> _Run:
    suffix = new_suffix()
    design.create(client, suffix, workload)
    worker = design.worker(client, suffix, workload)
    warm_up(worker, workload)
    half = len(workload.counted) // 2
    warm = [_depth(client, worker, batch, held_up_seconds) for batch in workload.counted[:half]]
    cold = []
    for batch in workload.counted[half:]:
        newcomer = _newcomer(client, design, suffix, workload)
        cold.append(_depth(client, newcomer, batch, held_up_seconds))
    design.drop(client, suffix)
    return _Run(warm, cold)


def _depth(client: "DynamoDBClient", worker: Worker, batch: Batch, held_up_seconds: float) -> int:
    with round_trips_of(client, lambda: time.sleep(held_up_seconds)) as round_trips:
        debit_all(worker, batch)
    return round_trips.sequential


def _newcomer(
    client: "DynamoDBClient", design: DynamoDBDesign, suffix: str, workload: Workload
) -> Worker:
    worker = design.worker(client, suffix, workload)
    worker.learn_settings()
    return worker


def warm_up(worker: Worker, workload: Workload) -> None:
    for batch in workload.batches[: workload.warm_up]:
        debit_all(worker, batch)


def debit_all(worker: Worker, batch: Sequence[str]) -> None:
    done = worker.debit(batch)
    assert done.events == len(batch), f"{done.events} of {len(batch)} events were debited"


def new_suffix() -> str:
    return uuid.uuid4().hex[:8]
