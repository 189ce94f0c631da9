"""A figure that passes its bound is noticed, whichever it is."""

from dataclasses import replace

import pytest

from tests.benchmarks.cost_model import Dollars, LedgerClass
from tests.benchmarks.counts import EVENTS_PER_BATCH, Counts
from tests.benchmarks.gates import (
    SPANNED_UNITS_MAX,
    Gate,
    gate_on_hot_account,
    gates_on_counts,
    gates_on_spanned_rates,
)
from tests.benchmarks.modelled import Modelled
from tests.benchmarks.spanned_limit import SpannedRate
from tests.benchmarks.write_path import Cost, Depth

GOOD = Cost(
    design="agent-credits",
    workload="hot-1",
    events=100,
    write_units=1.05,
    index_write_units=0,
    row_write_units=0.05,
    ledger_write_units=1,
    read_units=1,
    ledger_read_units=1,
    requests=0.07,
    cpu_microseconds=300,
    stored_bytes=640,
)
TYPICAL = replace(GOOD, design="powertools", write_units=5, requests=5)
DEPTH = Depth("agent-credits", 1, 1, warm_min=2, warm_max=2, cold_min=3, cold_max=3)
DEPTH_OF_MANY = Depth("agent-credits", 1_000, 100, warm_min=3, warm_max=3, cold_min=4, cold_max=4)
DEPTH_SPANNED = Depth("agent-credits-spanned", 1, 1, 4, 4, 4, 4)
COUNTS = Counts(
    costs=(
        *(replace(GOOD, workload=f"hot-{size}") for size in EVENTS_PER_BATCH),
        replace(GOOD, workload="reserving-1", write_units=2.24),
        replace(GOOD, workload="counted-1"),
        *(
            replace(GOOD, design="agent-credits-spanned", workload=workload, transactions=1)
            for workload in SPANNED_UNITS_MAX
        ),
        TYPICAL,
    ),
    cold=(GOOD, replace(GOOD, workload="hot-100")),
    few_and_many_accounts=(GOOD, GOOD),
    depths=(DEPTH, DEPTH_OF_MANY, DEPTH_SPANNED),
)


def broken(counts: Counts) -> list[str]:
    return [gate.name for gate in gates_on_counts(counts) if not gate.holds]


def with_cost(workload: str, design: str = "agent-credits", **figures: float) -> Counts:
    costs = [
        replace(c, **figures) if (c.design, c.workload) == (design, workload) else c
        for c in COUNTS.costs
    ]
    return replace(COUNTS, costs=tuple(costs))


def test_good_figures_pass() -> None:
    assert broken(COUNTS) == []


@pytest.mark.parametrize(
    ("counts", "name"),
    [
        (with_cost("hot-1", write_units=2.26), "write units of an event at 1 a batch"),
        (
            with_cost("reserving-1", write_units=2.26),
            "write units of an event of a run that reserves",
        ),
        (with_cost("hot-100", write_units=1.105), "write units of an event at 100 a batch"),
        (with_cost("hot-1", transactions=0.01), "transactions where no limit spans accounts"),
        (with_cost("counted-1", transactions=0.01), "transactions where no limit spans accounts"),
        (
            with_cost("counted-1", write_units=2.26),
            "write units of an event under a limit of one account",
        ),
        (
            with_cost("hot-1", "agent-credits-spanned", write_units=5.26),
            "write units under a spanned limit, hot-1",
        ),
        (
            with_cost("members-100", "agent-credits-spanned", write_units=2.76),
            "write units under a spanned limit, members-100",
        ),
        (
            replace(COUNTS, depths=(DEPTH, replace(DEPTH_SPANNED, warm_max=5))),
            "round trips in a row at 1 a batch, spanned limit",
        ),
        (with_cost("hot-100", requests=0.09), "requests of an event at 100 a batch"),
        (with_cost("hot-1", stored_bytes=900), "bytes stored of an event at 1 a batch"),
        (with_cost("hot-1", write_units=2.51), "share of (a)'s write units, hot-1"),
        (with_cost("hot-1000", write_units=1.1), "cost of an event, hot-1000 to hot-100"),
        (
            replace(COUNTS, cold=(replace(GOOD, read_units=2.1), COUNTS.cold[1])),
            "read units of an event at 1 a batch, cold",
        ),
        (
            replace(COUNTS, few_and_many_accounts=(GOOD, replace(GOOD, read_units=1.2))),
            "cost of an event, 10,000 accounts to 10",
        ),
        (
            replace(COUNTS, depths=(replace(DEPTH, warm_max=5),)),
            "round trips in a row at 1 a batch, warm",
        ),
        (
            replace(COUNTS, depths=(replace(DEPTH, cold_max=6),)),
            "round trips in a row at 1 a batch, cold",
        ),
        (
            replace(COUNTS, depths=(DEPTH, replace(DEPTH_OF_MANY, warm_max=5))),
            "round trips in a row, 1,000 accounts alike, warm",
        ),
        (
            replace(COUNTS, depths=(DEPTH, replace(DEPTH_OF_MANY, cold_max=5))),
            "round trips in a row, 1,000 accounts alike, cold",
        ),
    ],
)
def test_a_figure_past_its_bound_is_named(counts: Counts, name: str) -> None:
    assert name in broken(counts)


def test_a_bound_itself_is_not_passed() -> None:
    assert Gate("sum of tenths", 0.1 + 0.2, 0.3).holds
    assert Gate("ratio", 20, 20, is_least=True).holds
    assert not Gate("ratio", 19.9, 20, is_least=True).holds


def spanned(workers: int, commits: int, events: int) -> SpannedRate:
    return SpannedRate(workers, 10, 1.0, events, commits, transactions=40, lost=0, came_back=0)


@pytest.mark.parametrize(
    ("of_one", "of_eight", "broken_gates"),
    [
        (spanned(1, 300, 320), spanned(8, 100, 240), []),
        (spanned(1, 300, 320), spanned(8, 99, 240), ["commits/s under one limit at 10 a batch"]),
        (
            spanned(1, 300, 320),
            spanned(8, 230, 239),
            ["events/s under one limit at 10 a batch, 8 workers to 1"],
        ),
    ],
)
def test_workers_that_share_a_limit_are_held_to_what_they_leave_each_other(
    of_one: SpannedRate, of_eight: SpannedRate, broken_gates: list[str]
) -> None:
    of_single_events = replace(of_one, events_per_batch=1, commits=1)

    gates = gates_on_spanned_rates([of_one, of_eight, of_single_events])

    assert [gate.name for gate in gates if not gate.holds] == broken_gates


def modelled(design: str, ceiling_per_second: float) -> Modelled:
    nothing = Dollars(0, 0, 0, 0, 0, 0)
    return Modelled(design, 100, ceiling_per_second, 0, nothing, 0, LedgerClass(0, 0, 0, 0, 0))


@pytest.mark.parametrize(("events_per_second", "holds"), [(2_000, True), (1_999, False)])
def test_a_hot_account_is_held_to_what_the_counts_come_to(
    events_per_second: float, holds: bool
) -> None:
    gate = gate_on_hot_account(
        [modelled("agent-credits", events_per_second), modelled("transaction-1", 100)]
    )

    assert gate.holds is holds
