"""What one account gave, the other received: shared draws of two ledgers cancel each other.

A member's ledger shows what its runs drew and reserved of the team's pools, and the team's ledger
what it gave, by one entry per commit of a payer. Both are written in one transaction and record the
same time, so the sums of each second, payer and grant must agree.

What expired reservations held goes back on each row by itself, at the time of its own next commit,
so it is left out on both sides; the replay of each ledger checks it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

from msgspec import Struct

from agent_credits.ledger.entries import Entry, payers_commit
from agent_credits.ledger.shared_pools import is_shared_grant, lender_of
from agent_credits.sweeps.reconciliation import Finding
from agent_credits.values.display import credits_text
from agent_credits.values.principals import Principal

Kind = Literal["drawn", "reserved"]


class SharedDraw(Struct, frozen=True):
    """What a payer took of a team's grant at one time: drawn, or moved into its reservations."""

    payer: Principal
    lender: Principal
    grant_id: str
    recorded_at: datetime
    kind: Kind


# In microcredits: what the payer's ledger shows counts up, and what the team's shows counts down.
SharedDraws = Counter[SharedDraw]


def shared_draws(principal: Principal, entries: Iterable[Entry]) -> SharedDraws:
    """Return what these entries of one account show; those of both together cancel each other."""
    sums = SharedDraws()
    for entry in entries:
        add_entry(sums, principal, entry)
    return sums


def add_entry(sums: SharedDraws, principal: Principal, entry: Entry) -> None:
    """Add what an entry of this account shows of shared draws; most entries show none."""
    if entry.type in ("pool.drawn", "pool.returned"):
        payer, _ = payers_commit(entry)
        for kind, grant_id, microcredits in _taken(entry):
            key = SharedDraw(payer, principal, grant_id, entry.recorded_at, kind)
            sums[key] -= microcredits
    elif entry.type != "reservations.expired":
        for kind, shared_id, microcredits in _taken(entry):
            if is_shared_grant(shared_id):
                lender, grant_id = lender_of(shared_id)
                key = SharedDraw(principal, lender, grant_id, entry.recorded_at, kind)
                sums[key] += microcredits


def _taken(entry: Entry) -> Iterator[tuple[Kind, str, int]]:
    sign = -1 if entry.outcome == "returned" else 1
    for part in entry.draws:
        yield "drawn", part.grant_id, sign * part.microcredits
    for move in entry.reservation.moves:
        yield "reserved", move.grant_id, move.microcredits


def contradictions(sums: SharedDraws) -> Iterator[Finding]:
    """Yield where the ledger of a payer and that of its team differ, from the sums of both."""
    for key, left in sums.items():
        if left:
            more, less = (key.payer, key.lender) if left > 0 else (key.lender, key.payer)
            text = (
                f"{credits_text(abs(left))} of grant {key.grant_id} of {key.lender} were {key.kind}"
                f" by the ledger of {more}, but not by that of {less}"
            )
            yield Finding(key.payer, f"shared pool at {key.recorded_at.isoformat()}", text)
