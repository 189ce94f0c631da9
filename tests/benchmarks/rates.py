"""Which designs are timed, on which stores, with how many workers."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import postgres_server
from tests.benchmarks.counts import OURS, TYPICAL
from tests.benchmarks.design import Design
from tests.benchmarks.references.postgres import LOCK_PER_BATCH, LOCK_PER_EVENT
from tests.benchmarks.references.transactions import TRANSACTION_PER_BATCH, TRANSACTION_PER_EVENT
from tests.benchmarks.throughput import WORKERS, Crew, Rate, crew
from tests.conformance.ministack import ministack

HOT, MANY = 1, 1_000
# As long as AWS publishes for a request of DynamoDB, in milliseconds: the middle of one digit.
NETWORK_MILLISECONDS = 5
# What commits event by event is given small batches, so that it looks at its clock often enough.
SMALL_BATCH, LARGE_BATCH = 10, 100


@dataclass(frozen=True, slots=True)
class Run:
    design: Design
    accounts: int
    events_per_batch: int
    workers: int
    added_milliseconds: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """`skipped`: what was left out, and why."""

    rates: tuple[Rate, ...]
    skipped: dict[str, str]


def runs_on_dynamodb() -> list[Run]:
    designs: tuple[tuple[Design, int], ...] = (
        (OURS, LARGE_BATCH),
        (OURS, 1),
        (TYPICAL, SMALL_BATCH),
        (TRANSACTION_PER_EVENT, SMALL_BATCH),
        (TRANSACTION_PER_BATCH, LARGE_BATCH - 1),
    )
    hot = [Run(d, HOT, size, workers) for d, size in designs for workers in WORKERS]
    many = [
        # A batch of many accounts holds about one event of each, whatever its size.
        Run(design, MANY, size, workers)
        for design, size in designs
        if (design, size) != (OURS, 1)
        for workers in WORKERS
    ]
    far = [Run(d, HOT, size, 1, NETWORK_MILLISECONDS) for d, size in designs]
    return [*hot, *many, *far]


def runs_on_postgres() -> list[Run]:
    designs = ((LOCK_PER_EVENT, SMALL_BATCH), (LOCK_PER_BATCH, LARGE_BATCH))
    return [
        Run(design, accounts, size, workers)
        for design, size in designs
        for accounts in (HOT, MANY)
        for workers in WORKERS
    ]


@contextmanager
def _ministack() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, ministack(Path(folder)) as endpoint_url:
        yield endpoint_url


def take_rates(begin: Callable[[str], None]) -> Rates:
    """Time every run, one after the other; `begin` is told each time what comes next."""
    stores: list[tuple[str, Callable[[], AbstractContextManager[str]], list[Run]]] = [
        ("MiniStack", _ministack, runs_on_dynamodb())
    ]
    skipped: dict[str, str] = {}
    reason = postgres_server.why_unavailable()
    if reason is None:
        stores.append(("PostgreSQL", postgres_server.postgres_server, runs_on_postgres()))
    else:
        skipped["PostgreSQL"] = reason
    rates = []
    with crew(max(WORKERS)) as workers:
        for name, start, runs in stores:
            with start() as address:
                for run in runs:
                    begin(f"{name}: {run.design.name}, {run.accounts:,} accounts")
                    rates.append(_rate(workers, name, address, run))
    return Rates(tuple(rates), skipped)


def _rate(workers: Crew, store: str, address: str, run: Run) -> Rate:
    return workers.rate(
        run.design,
        store,
        address,
        accounts=run.accounts,
        events_per_batch=run.events_per_batch,
        workers=run.workers,
        added_milliseconds=run.added_milliseconds,
    )


def steps() -> int:
    """Return how many times `take_rates` begins something."""
    on_postgres = runs_on_postgres() if postgres_server.why_unavailable() is None else []
    return len(runs_on_dynamodb()) + len(on_postgres)
