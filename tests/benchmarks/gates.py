"""What must hold: bounds on what was counted, and on what the model makes of the counts.

What was timed is shown, and held to no bound: a slow machine is not the fault of the code.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent_credits.commit.write_protocol import CHANGES_PER_COMMIT_MAX
from tests.benchmarks.counts import EVENTS_PER_BATCH, Counts
from tests.benchmarks.modelled import Modelled
from tests.benchmarks.spanned_limit import SpannedRate
from tests.benchmarks.write_path import Cost

WRITE_UNITS_MAX = {1: 2.25, 100: 1.1}
RESERVING_UNITS_MAX = 2.25
COLD_READ_UNITS_MAX = {1: 2.0, 100: 1.1}
REQUESTS_MAX = {1: 2.25, 100: 0.08}
STORED_BYTES_MAX = {1: 760, 100: 660}
ROUND_TRIPS_WARM_MAX = 2
ROUND_TRIPS_COLD_MAX = 3
ROUND_TRIPS_OF_MANY_MAX = 4
# A transaction is billed twice the units, for the account's row and for that of the limit.
SPANNED_UNITS_MAX = {"hot-1": 5.25, "hot-100": 1.2, "members-100": 2.75}
ROUND_TRIPS_SPANNED_MAX = 4
SPANNED_COMMITS_PER_SECOND_MIN = 100
# What eight workers leave of the events a second of one: they lose races to each other.
SPANNED_SHARE_MIN = 0.75
SHARE_OF_TYPICAL_MAX = 0.5
ADVANTAGE_MIN = 20
SHARE_OF_LEAST_MAX = 1.25
# How the cost of an event may rise from one batch size to the next: by what a page of random
# identifiers happens to compress to.
RISE_MAX = 0.01
# On demand, a write unit costs five times what a read unit does.
READ_UNITS_PER_WRITE_UNIT = 5

# Sums of quarters and fifths are not exact in binary.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Gate:
    """`figure` must be at most `bound`, or at least, as `is_least` has it."""

    name: str
    figure: float
    bound: float
    is_least: bool = False

    @property
    def holds(self) -> bool:
        if self.is_least:
            return self.figure >= self.bound - ROUNDING
        return self.figure <= self.bound + ROUNDING


def gates_on_counts(counts: Counts) -> Iterator[Gate]:
    yield from _gates_on_own_costs(counts)
    yield _gate_on_reservations(counts)
    yield from _gates_on_limits(counts)
    yield from _gates_on_depths(counts)
    yield from _gates_beside_typical(counts)
    yield from _gates_on_growth(counts)


def _gates_on_own_costs(counts: Counts) -> Iterator[Gate]:
    cold = {cost.workload: cost for cost in counts.cold}
    for size in (1, 100):
        cost = counts.cost("agent-credits", f"hot-{size}")
        at = f"an event at {size} a batch"
        yield Gate(f"write units of {at}", cost.write_units, WRITE_UNITS_MAX[size])
        yield Gate(
            f"read units of {at}, cold", cold[f"hot-{size}"].read_units, COLD_READ_UNITS_MAX[size]
        )
        yield Gate(f"requests of {at}", cost.requests, REQUESTS_MAX[size])
        yield Gate(f"bytes stored of {at}", cost.stored_bytes, STORED_BYTES_MAX[size])


def _gate_on_reservations(counts: Counts) -> Gate:
    cost = counts.cost("agent-credits", "reserving-1")
    return Gate(
        "write units of an event of a run that reserves", cost.write_units, RESERVING_UNITS_MAX
    )


def _gates_on_limits(counts: Counts) -> Iterator[Gate]:
    """A limit on the account's own row costs nothing extra, and nothing is done by transactions."""
    alone = [cost for cost in counts.costs if cost.design == "agent-credits"]
    yield Gate("transactions where no limit spans accounts", sum(c.transactions for c in alone), 0)
    counted = counts.cost("agent-credits", "counted-1")
    name = "write units of an event under a limit of one account"
    yield Gate(name, counted.write_units, WRITE_UNITS_MAX[1])
    for workload, bound in SPANNED_UNITS_MAX.items():
        cost = counts.cost("agent-credits-spanned", workload)
        yield Gate(f"write units under a spanned limit, {workload}", cost.write_units, bound)


def gates_on_spanned_rates(rates: Sequence[SpannedRate]) -> Iterator[Gate]:
    """A batch as large as the queue's, or larger: then the limit's row takes enough commits."""
    for size in sorted({rate.events_per_batch for rate in rates} - {1}):
        of_size = {rate.workers: rate for rate in rates if rate.events_per_batch == size}
        slowest = min(rate.commits_per_second for rate in of_size.values())
        name = f"commits/s under one limit at {size} a batch"
        yield Gate(name, slowest, SPANNED_COMMITS_PER_SECOND_MIN, is_least=True)
        few, many = of_size[min(of_size)], of_size[max(of_size)]
        yield Gate(
            f"events/s under one limit at {size} a batch, {many.workers} workers to {few.workers}",
            many.events_per_second / few.events_per_second,
            SPANNED_SHARE_MIN,
            is_least=True,
        )


def _gates_on_depths(counts: Counts) -> Iterator[Gate]:
    for depth in counts.depths:
        if depth.accounts > 1:
            at = f"round trips in a row, {depth.accounts:,} accounts alike"
            yield Gate(f"{at}, warm", depth.warm_max, ROUND_TRIPS_OF_MANY_MAX)
            yield Gate(f"{at}, cold", depth.cold_max, ROUND_TRIPS_OF_MANY_MAX)
        elif depth.design == "agent-credits-spanned":
            at = f"round trips in a row at {depth.events_per_batch} a batch, spanned limit"
            yield Gate(at, depth.warm_max, ROUND_TRIPS_SPANNED_MAX)
        elif depth.design == "agent-credits" and depth.events_per_batch <= CHANGES_PER_COMMIT_MAX:
            at = f"round trips in a row at {depth.events_per_batch} a batch"
            yield Gate(f"{at}, warm", depth.warm_max, ROUND_TRIPS_WARM_MAX)
            yield Gate(f"{at}, cold", depth.cold_max, ROUND_TRIPS_COLD_MAX)


def _gates_beside_typical(counts: Counts) -> Iterator[Gate]:
    for typical in counts.costs:
        if typical.design == "powertools":
            ours = counts.cost("agent-credits", typical.workload)
            shares = {
                "write units": ours.write_units / typical.write_units,
                "units by price": _in_write_units(ours) / _in_write_units(typical),
            }
            for unit, share in shares.items():
                name = f"share of (a)'s {unit}, {typical.workload}"
                yield Gate(name, share, SHARE_OF_TYPICAL_MAX)


def _gates_on_growth(counts: Counts) -> Iterator[Gate]:
    by_size = [counts.cost("agent-credits", f"hot-{size}") for size in EVENTS_PER_BATCH]
    for smaller, larger in itertools.pairwise(by_size):
        name = f"cost of an event, {larger.workload} to {smaller.workload}"
        yield Gate(name, _in_write_units(larger) / _in_write_units(smaller), 1 + RISE_MAX)
    few, many = counts.few_and_many_accounts
    yield Gate(
        "cost of an event, 10,000 accounts to 10",
        _in_write_units(many) / _in_write_units(few),
        1 + RISE_MAX,
    )


def _in_write_units(cost: Cost) -> float:
    return cost.write_units + cost.read_units / READ_UNITS_PER_WRITE_UNIT


def gate_on_hot_account(modelled: Sequence[Modelled]) -> Gate:
    """One account at a hundred events a batch, beside a transaction per event.

    The model knows what decides on AWS: how many requests wait for one another, and for how long.
    """
    ours, theirs = (
        next(m for m in modelled if (m.design, m.events_per_batch) == (design, 100))
        for design in ("agent-credits", "transaction-1")
    )
    return Gate(
        "one account's events/s to (b)'s, modelled",
        ours.ceiling_per_second / theirs.ceiling_per_second,
        ADVANTAGE_MIN,
        is_least=True,
    )


def gate_on_cold_start(share_of_least: float) -> Gate:
    return Gate("import of debit_runs to the least's", share_of_least, SHARE_OF_LEAST_MAX)
