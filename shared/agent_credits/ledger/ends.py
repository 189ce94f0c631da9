"""Ending reservations: what they still hold goes back, and what ends with them.

A parent that ends closes its children, so nothing is held for a run whose budget is gone. What the
top of a tree leaves goes to its own parent, if that one goes on, or else back to its grants.
"""

from collections.abc import Collection

from msgspec.structs import replace

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Move, ReservationFacts
from agent_credits.ledger.reservations import (
    Parts,
    Reservation,
    line_up,
    moved,
    net,
    parents_of,
    together,
    tree_below,
)
from agent_credits.ledger.shared_pools import is_shared_grant
from agent_credits.values.errors import require


def end_trees(account: Account, run_ids: Collection[str]) -> tuple[Account, ReservationFacts]:
    """End the reservations of these runs and of all their descendants, each once.

    Returns the account and what the entry that ends them records.
    """
    ending: dict[str, Reservation] = {}
    for run_id in run_ids:
        ending.update({r.run_id: r for r in tree_below(account.reservations, run_id)})
    parents = parents_of(ending.values())
    moves: list[Move] = []
    goes_back: Parts = ()
    staying = {r.run_id: r for r in account.reservations if r.run_id not in ending}
    for ended in ending.values():
        moves += moved(ended.run_id, ended.parts, -1)
        # The nearest ancestor that goes on takes what the ended reservation leaves.
        above = ending[line_up(parents, ended.run_id)[-1]].parent_run_id
        heir = staying.get(above) if above is not None else None
        if heir is None:
            goes_back = together(goes_back, ended.parts)
        else:
            moves += moved(heir.run_id, ended.parts, 1)
            staying[heir.run_id] = replace(heir, parts=together(heir.parts, ended.parts))
    after = replace(_with_parts(account, goes_back), reservations=tuple(staying.values()))
    ends = tuple(ended.at_its_end for ended in ending.values())
    return after, ReservationFacts(net(moves), ends)


def _with_parts(account: Account, parts: Parts) -> Account:
    """Put parts back into their grants, even if those have expired: they lapse there."""
    if not parts:
        return account
    left = {part.grant_id: part.microcredits for part in parts}
    grants = tuple(
        replace(grant, remaining_microcredits=grant.remaining_microcredits + left.pop(grant.id, 0))
        for grant in account.grants
    )
    # The team's row gives its own parts back by itself, at the same time.
    own = [grant_id for grant_id in left if not is_shared_grant(grant_id)]
    require(not own, "a reserved grant stays on the row")
    return replace(account, grants=grants)
