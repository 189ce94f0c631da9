"""Which designs are timed, on which stores, with how many workers."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import postgres_server
from tests.benchmarks.agent_credits_design import AgentCreditsInTurn
from tests.benchmarks.cost_model import Assumptions, read_prices
from tests.benchmarks.counts import OURS, SPANNED, TYPICAL
from tests.benchmarks.design import Design
from tests.benchmarks.references.postgres import LOCK_PER_BATCH, LOCK_PER_EVENT
from tests.benchmarks.references.transactions import TRANSACTION_PER_BATCH, TRANSACTION_PER_EVENT
from tests.benchmarks.stores import NEAR, Network
from tests.benchmarks.throughput import WORKERS, Crew, Rate, crew
from tests.benchmarks.workloads import MEMBERS
from tests.conformance.ministack import ministack

HOT, MANY = 1, 1_000
# This project, as it would be if a batch committed one account after another.
IN_TURN = AgentCreditsInTurn()
# What commits event by event is given small batches, so that it looks at its clock often enough.
SMALL_BATCH, LARGE_BATCH = 10, 100
OURS_IN_LARGE_BATCHES: tuple[Design, int] = (OURS, LARGE_BATCH)
PER_EVENT: tuple[Design, int] = (TRANSACTION_PER_EVENT, SMALL_BATCH)
PER_BATCH: tuple[Design, int] = (TRANSACTION_PER_BATCH, LARGE_BATCH - 1)
DESIGNS = (OURS_IN_LARGE_BATCHES, (OURS, 1), (TYPICAL, SMALL_BATCH), PER_EVENT, PER_BATCH)


@dataclass(frozen=True, slots=True)
class Run:
    design: Design
    accounts: int
    events_per_batch: int
    workers: int
    network: Network = NEAR


@dataclass(frozen=True, slots=True)
class Rates:
    """`skipped`: what was left out, and why."""

    rates: tuple[Rate, ...]
    skipped: dict[str, str]


def runs_on_dynamodb() -> list[Run]:
    hot = [Run(d, HOT, size, workers) for d, size in DESIGNS for workers in WORKERS]
    many = [
        # A batch of many accounts holds about one event of each, whatever its size.
        Run(design, MANY, size, workers)
        for design, size in DESIGNS
        if (design, size) != (OURS, 1)
        for workers in WORKERS
    ]
    return [*hot, *many, *runs_over_networks(read_prices().assumptions)]


def runs_on_postgres() -> list[Run]:
    designs = ((LOCK_PER_EVENT, SMALL_BATCH), (LOCK_PER_BATCH, LARGE_BATCH))
    return [
        Run(design, accounts, size, workers)
        for design, size in designs
        for accounts in (HOT, MANY)
        for workers in WORKERS
    ]


def far(assumptions: Assumptions) -> Network:
    """Return the network that the cost model assumes."""
    return Network(assumptions.request_milliseconds, assumptions.transaction_requests)


def runs_over_networks(assumptions: Assumptions) -> list[Run]:
    """One account again, with the latencies of the cost model, and many, side by side and in turn.

    Also with a transaction that takes no longer than any other request, to show what of the
    difference is that assumption's. The two designs that are compared may use as many workers as
    help them.
    """
    network = far(assumptions)
    slow = Network(assumptions.request_milliseconds_slow, assumptions.transaction_requests)
    flat = Network(assumptions.request_milliseconds)
    return [
        *(Run(design, HOT, size, 1, network) for design, size in DESIGNS),
        *(Run(design, HOT, size, 1, slow) for design, size in DESIGNS),
        *(Run(d, HOT, size, 1, flat) for d, size in (OURS_IN_LARGE_BATCHES, PER_EVENT, PER_BATCH)),
        *(
            Run(design, HOT, size, workers, network)
            for design, size in (OURS_IN_LARGE_BATCHES, PER_EVENT)
            for workers in WORKERS[1:]
        ),
        *runs_side_by_side(assumptions),
        *(Run(SPANNED, MEMBERS, LARGE_BATCH, workers, network) for workers in WORKERS),
    ]


def runs_side_by_side(assumptions: Assumptions) -> list[Run]:
    """Many accounts in a batch, committed one after another and side by side."""
    return [Run(design, MANY, LARGE_BATCH, 1, far(assumptions)) for design in (IN_TURN, OURS)]


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
        network=run.network,
    )


def steps() -> int:
    """Return how many times `take_rates` begins something."""
    on_postgres = runs_on_postgres() if postgres_server.why_unavailable() is None else []
    return len(runs_on_dynamodb()) + len(on_postgres)
