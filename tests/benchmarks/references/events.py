"""What the reference designs share: reading events, drawing from pools, and the shape of an entry.

They read and bill events as this project does, because nobody can do without; what they store is
less: no shortfalls, no reloads, no plans, no returns.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_credits.billing.teams import Billing, Team, bill
from agent_credits.events.agent_runs import RunUsage, parse_message
from tests.benchmarks.design import GRANTED_MICROCREDITS
from tests.benchmarks.workloads import Workload
from tests.unit.builders import POLICY

Pools = dict[str, int]


@dataclass(frozen=True, slots=True)
class Usage:
    """A usage event, and who pays for it from which pools."""

    event: RunUsage
    billing: Billing

    @property
    def account(self) -> str:
        return str(self.billing.principal)


def read_usage(bodies: Iterable[str], team: Team) -> list[Usage]:
    read = []
    for message_body in bodies:
        message = parse_message(message_body)
        assert not message.rejections
        for event in message.events:
            assert isinstance(event, RunUsage)
            read.append(Usage(event, bill(event, team, POLICY)))
    return read


def draw(pools: Mapping[str, int], order: Sequence[str], amount: int) -> tuple[Pools, Pools]:
    """Return what is drawn from each pool, in their order, and what the pools hold then."""
    draws, left = {}, dict(pools)
    for pool in order:
        part = min(amount, left.get(pool, 0))
        if part:
            draws[pool], left[pool] = part, left[pool] - part
            amount -= part
    assert amount == 0, "the accounts of a benchmark never run dry"
    return draws, left


def accounts_of(workload: Workload) -> Iterable[tuple[str, Pools]]:
    """Yield every account with what it holds, beginning with a pool that is soon used up."""
    for principal in workload.principals:
        yield str(principal), {"trial": 1_000_000, "plan": 0, "add_on": GRANTED_MICROCREDITS}


def entry_item(usage: Usage, draws: Pools, version: int) -> dict[str, Any]:
    """Return the ledger's item for an event, keyed by its identity."""
    event = usage.event
    return {
        "pk": {"S": f"RUN#{event.subject}"},
        "sk": {"S": f"EVENT#{event.source}#{event.id}"},
        "account": {"S": usage.account},
        "version": {"N": str(version)},
        "at": {"S": event.time.isoformat()},
        "team": {"S": event.data.team_id},
        "trigger": {"S": event.data.trigger.kind},
        "payer": {"S": usage.billing.payer},
        "policy": {"S": usage.billing.policy_version},
        "amount": {"N": str(event.data.credits)},
        "draws": numbers(draws),
        "hash": {"S": event.payload_hash},
    }


def numbers(values: Mapping[str, int]) -> dict[str, Any]:
    return {"M": {name: {"N": str(value)} for name, value in values.items()}}


def integers(attribute: Mapping[str, Any]) -> Pools:
    return {name: int(value["N"]) for name, value in attribute["M"].items()}
