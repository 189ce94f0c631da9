"""The events that every design is given: the same bodies, in the same batches, in the same order.

Identifiers are random as UUIDs are, but from a seed, so that a run can be repeated to the byte.
Amounts are those of the production trace.
"""

import itertools
import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache

from agent_credits.billing.limits import TeamLimit
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team
from agent_credits.values.credits import MICROCREDITS_MAX, format_credits
from agent_credits.values.principals import Principal
from agent_credits_demo.trace import (
    TRACE_EVENTS,
    TRACE_FILE,
    ReplayOptions,
    Request,
    TracedEvent,
    plan_replay,
    read_trace,
)
from agent_credits_local.checkout import this_checkout
from tests.unit.builders import ACME, POLICY, body, finished, requested, usage

# As many events as a run of a hundred to a batch has in tests/e2e/test_cost.py.
RUN_EVENTS = 10
EVENTS_OF_A_RESERVING_RUN = 3
UNIFORM_ACCOUNTS = 1_000
UNIFORM_BATCH = 100
TRACE_ACCOUNTS = 40
# BatchSize and BatchingWindowSeconds of a queue that is busy.
BATCH_MESSAGES_MAX = 100
BATCHING_WINDOW_SECONDS = 1.0

# Events of one account in a batch, for which costs are modelled.
SIZES = (1, 10, 100)

# The members of a team that are all active under one limit of the team.
MEMBERS = 200
# Credits that are never used up, so that events are counted and none is refused.
TEAM_LIMIT = TeamLimit(scope="team", period="month", microcredits=MICROCREDITS_MAX)
MEMBER_LIMIT = TeamLimit(scope="member", period="month", microcredits=MICROCREDITS_MAX)

TEAM_ID = "bench"

Batch = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """Accounts that exist, and batches of message bodies; the first few of them are not counted."""

    name: str
    title: str
    team: Team
    principals: tuple[Principal, ...]
    batches: tuple[Batch, ...]
    warm_up: int
    # How many events the accounts have on their newest page before the first batch, in turn. Where
    # events come one by one, a page with UUIDs is full at five: with one to five, a round over all
    # accounts flushes as many pages as any later round.
    events_on_page: tuple[int, ...] = (1, 2, 3, 4, 5)
    policy: BillingPolicy = POLICY

    @property
    def counted(self) -> tuple[Batch, ...]:
        return self.batches[self.warm_up :]

    @property
    def counted_events(self) -> int:
        return sum(len(batch) for batch in self.counted)


def users(count: int) -> tuple[Principal, ...]:
    return tuple(Principal("user", f"user-{number:05d}") for number in range(count))


def team_of_everybody(team_id: str = TEAM_ID, owner: str = "user-00000") -> Team:
    """Return a team that takes every user, and whose unattended runs its owner pays."""
    tenure = ACME.tenures[0].model_copy(update={"owner": owner})
    return ACME.model_copy(
        update={"team_id": team_id, "version": 1, "members": "*", "tenures": (tenure,)}
    )


def hot_account(events_per_batch: int, batches: int, *, warm_up: int, seed: int = 1) -> Workload:
    """One account, so many of its events in each batch."""
    chance = random.Random(seed)
    (principal,) = users(1)
    return Workload(
        name=f"hot-{events_per_batch}",
        title=f"one account, {events_per_batch:,} a batch",
        team=team_of_everybody(),
        principals=(principal,),
        batches=tuple(
            tuple(_bodies([principal] * events_per_batch, chance)) for _ in range(warm_up + batches)
        ),
        warm_up=warm_up,
    )


def uniform(
    batches: int, *, warm_up: int, accounts: int = UNIFORM_ACCOUNTS, seed: int = 1
) -> Workload:
    """Many accounts, each as likely as any other; about one event per account and batch."""
    chance = random.Random(seed)
    principals = users(accounts)
    return Workload(
        name="uniform",
        title=f"{accounts:,} accounts alike, {UNIFORM_BATCH} a batch",
        team=team_of_everybody(),
        principals=principals,
        batches=tuple(
            tuple(_bodies(chance.choices(principals, k=UNIFORM_BATCH), chance))
            for _ in range(warm_up + batches)
        ),
        warm_up=warm_up,
    )


def with_limits(workload: Workload, *limits: TeamLimit) -> Workload:
    return replace(workload, team=workload.team.model_copy(update={"limits": limits}))


def batches_of(principals: Sequence[Principal], size: int, *, seed: int) -> Iterator[Batch]:
    """Yield batches without end, each of so many events of accounts drawn at random."""
    chance = random.Random(seed)
    while True:
        yield tuple(_bodies(chance.choices(principals, k=size), chance))


def reserving(runs: int, *, warm_up: int, seed: int = 1) -> Workload:
    """One account and one run at a time: it reserves, reports usage and finishes, a batch each."""
    chance = random.Random(seed)
    (principal,) = users(1)
    rule = POLICY.rules[0].model_copy(
        update={"reserve": "estimate", "default_estimate_microcredits": 5_000_000}
    )
    return Workload(
        name="reserving-1",
        title="one account, runs that reserve, 1 a batch",
        team=team_of_everybody(),
        principals=(principal,),
        batches=tuple(
            (event,) for _ in range(warm_up + runs) for event in _events_of_a_run(principal, chance)
        ),
        warm_up=warm_up * EVENTS_OF_A_RESERVING_RUN,
        policy=POLICY.model_copy(update={"rules": (rule, *POLICY.rules[1:])}),
    )


def _events_of_a_run(principal: Principal, chance: random.Random) -> Iterator[str]:
    run, amount = _uuid(chance), format_credits(chance.choice(_amounts()))
    of = {"run": run, "team": TEAM_ID, "user": principal.id}
    yield body(requested(_uuid(chance), credits=amount, **of))
    yield body(usage(_uuid(chance), amount, **of))
    yield body(finished(_uuid(chance), **of))


def in_groups(
    accounts: int, batches: int, *, groups_per_batch: int, group: int, warm_up: int, seed: int = 1
) -> Workload:
    """Go round the accounts in turn: in each batch some of them, with so many events each."""
    chance = random.Random(seed)
    principals = users(accounts)
    in_turn = itertools.cycle(principals)

    def batch() -> Batch:
        together = itertools.islice(in_turn, groups_per_batch)
        return tuple(_bodies([p for principal in together for p in [principal] * group], chance))

    return Workload(
        name=f"accounts-{accounts}",
        title=f"{accounts:,} accounts in turn, {group} events each",
        team=team_of_everybody(),
        principals=principals,
        batches=tuple(batch() for _ in range(warm_up + batches)),
        warm_up=warm_up,
        events_on_page=(group,),
    )


def trace(limit: int = TRACE_EVENTS) -> list[Request]:
    """Read the first requests of the production trace."""
    return read_trace(this_checkout().root / "data" / TRACE_FILE, limit)


def azure_trace(events: int, *, warm_up: int) -> Workload:
    """The production trace, batched as it arrived: what comes within the window goes together."""
    requests = trace(events)
    options = ReplayOptions("bench", len(requests), TRACE_ACCOUNTS, 1)
    replay = plan_replay(requests, options)
    batches = tuple(
        tuple(event.body for event in batch)
        for batch in _as_arrived(replay.events, [request.time for request in requests])
    )
    return Workload(
        name="azure-trace",
        title=f"the Azure trace, {TRACE_ACCOUNTS} accounts",
        team=team_of_everybody(options.team_id, options.members[0]),
        principals=tuple(replay.principals),
        batches=batches,
        warm_up=warm_up,
    )


def _bodies(principals: Sequence[Principal], chance: random.Random) -> Iterator[str]:
    """Yield one event for each; an account's events make up runs of at most `RUN_EVENTS`."""
    run_of: dict[Principal, tuple[str, int]] = {}
    for principal in principals:
        run, events = run_of.get(principal, ("", RUN_EVENTS))
        if events == RUN_EVENTS:
            run, events = _uuid(chance), 0
        run_of[principal] = run, events + 1
        amount = format_credits(chance.choice(_amounts()))
        yield body(usage(_uuid(chance), amount, run=run, team=TEAM_ID, user=principal.id))


def _as_arrived(events: Sequence[TracedEvent], times: Sequence[str]) -> Iterator[list[TracedEvent]]:
    batch: list[TracedEvent] = []
    opened_at = 0.0
    for event, time in zip(events, times, strict=True):
        arrived_at = datetime.fromisoformat(time).timestamp()
        is_over = arrived_at >= opened_at + BATCHING_WINDOW_SECONDS
        if batch and (is_over or len(batch) == BATCH_MESSAGES_MAX):
            yield batch
            batch = []
        if not batch:
            opened_at = arrived_at
        batch.append(event)
    yield batch


@cache
def _amounts() -> tuple[int, ...]:
    return tuple(request.microcredits for request in trace())


def _uuid(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))
