"""What a fixed estimate costs: runs that would have fitted and were rejected, on the Azure trace.

Each request of the trace is a run: it reserves a fixed estimate when it starts, and uses what it
really used when it ends. Its account holds exactly what all of its runs use, so every run would
fit, and every rejection is a false one: the estimate held credits that were not needed, or asked
for more than the run would use. It is the decision of the product, with a clock of the trace; no
emulator and no timing.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from agent_credits.billing.teams import bill
from agent_credits.commit.changes import Past, Recorded, RunChange
from agent_credits.commit.decide import decide
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.grants import Grant
from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Principal
from agent_credits_demo.trace import Request
from tests.benchmarks import workloads
from tests.unit.builders import ACME, POLICY, cloudevent, parsed

# The trace does not say how long a request took. This many milliseconds a generated token is what
# its authors report for such models, rounded.
MILLISECONDS_PER_TOKEN = 30
PERCENTILES = (90, 99)


@dataclass(frozen=True, slots=True)
class FalseRejections:
    """`estimate`: which figure of the trace every run reserves. `share`: of runs rejected."""

    estimate: str
    estimate_microcredits: int
    runs: int
    rejected: int
    overdrawn: int

    @property
    def share(self) -> float:
        return self.rejected / self.runs


def count_false_rejections(runs: int | None = None) -> list[FalseRejections]:
    """Replay the trace, or its first runs, for the mean and the percentiles of what they used."""
    requests = workloads.trace() if runs is None else workloads.trace(runs)
    amounts = sorted(request.microcredits for request in requests)
    estimates = {"mean": sum(amounts) // len(amounts)}
    for percent in PERCENTILES:
        estimates[f"{percent}th percentile"] = amounts[(len(amounts) * percent - 1) // 100]
    return [_replay(requests, name, estimate) for name, estimate in estimates.items()]


def _replay(requests: Sequence[Request], name: str, estimate: int) -> FalseRejections:
    members = workloads.users(workloads.TRACE_ACCOUNTS)
    # The same spread for every estimate: request n belongs to account n modulo their number.
    owners = list(zip(requests, itertools.cycle(members), strict=False))
    used: dict[Principal, int] = {}
    for request, owner in owners:
        used[owner] = used.get(owner, 0) + request.microcredits
    accounts = {owner: _account(owner, microcredits) for owner, microcredits in used.items()}
    rejected = overdrawn = 0
    ends: list[tuple[datetime, int]] = []
    for now, number, begins in _moments(requests, ends):
        request, owner = owners[number]
        run = f"run-{number}"
        if begins:
            event = _event("agent_run.requested", run, owner, now, estimate, reserve="estimate")
            accounts[owner], outcome = _decided(accounts[owner], event, now)
            if outcome == "accepted":
                took = timedelta(milliseconds=request.generated_tokens * MILLISECONDS_PER_TOKEN)
                heapq.heappush(ends, (now + took, number))
            else:
                rejected += 1
            continue
        overdrawn += request.microcredits > estimate
        usage = _event("agent_run.usage", run, owner, now, request.microcredits)
        finish = cloudevent(
            f"f-{run}", type="agent_run.finished", run=run, user=owner.id, time=now, status="ok"
        )
        for event in (usage, finish):
            accounts[owner], _ = _decided(accounts[owner], event, now)
    return FalseRejections(name, estimate, len(requests), rejected, overdrawn)


def _moments(
    requests: Sequence[Request], ends: list[tuple[datetime, int]]
) -> Iterator[tuple[datetime, int, bool]]:
    """Yield beginnings and ends in the order of time; `ends` grows as runs begin."""
    for number, request in enumerate(requests):
        begins_at = datetime.fromisoformat(request.time)
        while ends and ends[0][0] <= begins_at:
            ends_at, ended = heapq.heappop(ends)
            yield ends_at, ended, False
        yield begins_at, number, True
    while ends:
        ends_at, ended = heapq.heappop(ends)
        yield ends_at, ended, False


def _account(owner: Principal, microcredits: int) -> Account:
    granted_at = datetime.fromisoformat("2023-01-01T00:00:00Z")
    grant = Grant("all", "add_on", microcredits, microcredits, granted_at, None, "purchase")
    return Account(owner, version=1, grants=(grant,))


TEAM = ACME.model_copy(update={"members": "*"})


def _event(
    kind: str, run: str, owner: Principal, now: datetime, microcredits: int, **data: str
) -> dict[str, object]:
    amount = format_credits(microcredits)
    return cloudevent(
        f"{kind}-{run}", type=kind, run=run, user=owner.id, time=now, credits=amount, **data
    )


def _decided(row: Account, event: dict[str, object], now: datetime) -> tuple[Account, str]:
    """Decide one event by the product's own rules, without rows: nothing is delivered twice."""
    read = parsed(event)
    # A request that finds too little is decided with its run's past, which is empty here.
    past = Past(runs={read.subject: ()})
    decision = decide(row, [RunChange(read, bill(read, TEAM, POLICY))], past, now)
    (result,) = decision.results
    assert isinstance(result, Recorded)
    return decision.account, result.entry.outcome
