"""Everything that is counted rather than timed: the same on any machine, so it can be gated on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent_credits.commit.write_protocol import CHANGES_PER_COMMIT_MAX
from tests.benchmarks import workloads
from tests.benchmarks.agent_credits_design import AgentCredits, AgentCreditsSpanned
from tests.benchmarks.design import DynamoDBDesign
from tests.benchmarks.references.powertools import PowertoolsPerEvent
from tests.benchmarks.references.transactions import TRANSACTION_PER_BATCH, TRANSACTION_PER_EVENT
from tests.benchmarks.workloads import Workload
from tests.benchmarks.write_path import (
    Cost,
    Depth,
    count,
    count_round_trips,
    count_round_trips_of_many,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

EVENTS_PER_BATCH = (1, 10, 100, 1_000)
FEW_ACCOUNTS, MANY_ACCOUNTS = 10, 10_000
GROUP, GROUPS_PER_BATCH = 10, 10
# Batches of a depth, warm and cold: enough that an account with one event a batch flushes a page.
DEPTH_BATCHES = 12
DEPTH_REPEATS = 3
# In each batch of many accounts, some of them flush a page.
DEPTH_BATCHES_OF_MANY = 1

# A hundred events of some seventy members in a batch, with a limit of their team and without.
MEMBERS = replace(
    workloads.uniform(3, warm_up=1, accounts=workloads.MEMBERS),
    name="members-100",
    title=f"{workloads.MEMBERS} members alike, {workloads.UNIFORM_BATCH} a batch",
)
# As many events as a page takes to fill, a few times over.
RESERVING = workloads.reserving(20, warm_up=4)

OURS = AgentCredits()
SPANNED = AgentCreditsSpanned()
TYPICAL = PowertoolsPerEvent()
DESIGNS: tuple[DynamoDBDesign, ...] = (
    OURS,
    TYPICAL,
    TRANSACTION_PER_EVENT,
    TRANSACTION_PER_BATCH,
)


@dataclass(frozen=True, slots=True)
class Counts:
    """`costs` are of a warm worker but for those of `cold`."""

    costs: tuple[Cost, ...]
    cold: tuple[Cost, ...]
    few_and_many_accounts: tuple[Cost, Cost]
    depths: tuple[Depth, ...]

    def cost(self, design: str, workload: str) -> Cost:
        (cost,) = [c for c in self.costs if (c.design, c.workload) == (design, workload)]
        return cost


# What is done one after the other, each with a title for the progress bar.
Task = tuple[str, Callable[["DynamoDBClient"], Cost | Depth]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is counted. The quick one leaves out what no gate asks for."""

    costs: tuple[tuple[DynamoDBDesign, Workload], ...]
    cold: tuple[Workload, ...]
    few_and_many_accounts: tuple[Workload, Workload]
    depths: tuple[tuple[DynamoDBDesign, int], ...]

    @property
    def steps(self) -> int:
        return len(self.costs) + len(self.cold) + 2 + len(self.depths) + 1


def quick_plan() -> Plan:
    hot = {size: _hot(size, events=60) for size in EVENTS_PER_BATCH}
    trace = workloads.azure_trace(200, warm_up=10)
    return Plan(
        costs=(
            *((OURS, workload) for workload in (*hot.values(), trace, RESERVING)),
            *((TYPICAL, workload) for workload in (hot[1], trace)),
            *_under_limits(hot),
        ),
        cold=(hot[1], hot[100]),
        few_and_many_accounts=_few_and_many_accounts(batches=10),
        depths=((OURS, 1), (OURS, 100), (SPANNED, 1)),
    )


def full_plan() -> Plan:
    hot = {size: _hot(size, events=100) for size in EVENTS_PER_BATCH}
    uniform = workloads.uniform(3, warm_up=1)
    trace = workloads.azure_trace(500, warm_up=20)
    return Plan(
        costs=(
            *(
                (design, without_warm_up(workload) if design is TYPICAL else workload)
                for workload in (*hot.values(), uniform, trace)
                for design in DESIGNS
            ),
            # None of the others reserves.
            (OURS, RESERVING),
            *_under_limits(hot),
        ),
        cold=(hot[1], hot[100]),
        few_and_many_accounts=_few_and_many_accounts(batches=50),
        depths=(
            *((OURS, size) for size in (1, 10, 100)),
            *((SPANNED, size) for size in (1, 10, 100)),
            *((design, 1) for design in (TYPICAL, TRANSACTION_PER_EVENT)),
            # A transaction takes 99 events, not 100.
            *((TRANSACTION_PER_BATCH, size) for size in (1, 99)),
        ),
    )


def take_counts(client: "DynamoDBClient", plan: Plan, begin: Callable[[str], None]) -> Counts:
    """Carry out a plan; `begin` is told each time what comes next."""

    def costs(pairs: Iterator[tuple[DynamoDBDesign, Workload]], *, cold: bool) -> Iterator[Cost]:
        for design, workload in pairs:
            begin(f"{design.name}: {workload.title}")
            yield count(client, design, workload, cold=cold)

    def depths() -> Iterator[Depth]:
        for design, size in plan.depths:
            begin(f"{design.name}: round trips at {size} a batch")
            yield count_round_trips(client, design, size, DEPTH_BATCHES, DEPTH_REPEATS)
        begin(f"{OURS.name}: round trips with many accounts in a batch")
        yield count_round_trips_of_many(client, OURS, DEPTH_BATCHES_OF_MANY, DEPTH_REPEATS)

    few, many = costs(iter([(OURS, w) for w in plan.few_and_many_accounts]), cold=True)
    return Counts(
        costs=tuple(costs(iter(plan.costs), cold=False)),
        cold=tuple(costs(iter([(OURS, workload) for workload in plan.cold]), cold=True)),
        few_and_many_accounts=(few, many),
        depths=tuple(depths()),
    )


def without_warm_up(workload: Workload) -> Workload:
    """Return only what is counted: for a design to which an event is like any other before it."""
    return replace(workload, batches=workload.counted, warm_up=0)


def _hot(events_per_batch: int, *, events: int) -> Workload:
    """One account, and a few batches that are counted; the pages before them are full ones."""
    if events_per_batch > CHANGES_PER_COMMIT_MAX:
        return workloads.hot_account(events_per_batch, batches=1, warm_up=1)
    batches = max(2, events // events_per_batch)
    return workloads.hot_account(events_per_batch, batches, warm_up=max(2, 10 // events_per_batch))


def _under_limits(hot: dict[int, Workload]) -> Iterator[tuple[DynamoDBDesign, Workload]]:
    """Yield what a limit costs: one on the account's own row, and one that spans accounts."""
    counted = workloads.with_limits(hot[1], workloads.MEMBER_LIMIT)
    yield OURS, replace(counted, name="counted-1", title=f"{hot[1].title}, limits of each member")
    yield OURS, MEMBERS
    yield from ((SPANNED, workload) for workload in (hot[1], hot[10], hot[100], MEMBERS))


def _few_and_many_accounts(batches: int) -> tuple[Workload, Workload]:
    few, many = (
        workloads.in_groups(
            accounts, batches, groups_per_batch=GROUPS_PER_BATCH, group=GROUP, warm_up=0
        )
        for accounts in (FEW_ACCOUNTS, MANY_ACCOUNTS)
    )
    return few, many
