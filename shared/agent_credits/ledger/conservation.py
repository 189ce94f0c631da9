"""What a commit moved must add up: checked before the row is written, where reservations are.

The entries of the commit are followed over the row as it was read. They have to lead to the row
that is to be written, so a reserved credit never comes from nowhere or goes nowhere, and whoever
replays the ledger later finds what the row holds.
"""

from collections import Counter
from collections.abc import Sequence

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import NO_RESERVATION, Entry
from agent_credits.ledger.reservations import line_up, parents_of
from agent_credits.ledger.shared_pools import is_shared_grant
from agent_credits.values.errors import require


def check_commit(row: Account, committed: Account, entries: Sequence[Entry]) -> None:
    """Raise `InvariantViolated` unless these entries lead from the row as read to the new one."""
    reserves = any(entry.reservation is not NO_RESERVATION for entry in entries)
    if not (reserves or row.reservations or committed.reservations):
        return
    available, reserved = _available(row), _reserved(row)
    parents = parents_of(row.reservations)
    for entry in entries:
        _follow_reservations(parents, entry)
        _follow_credits(available, reserved, entry)
    require(
        _nonzero(available) == _nonzero(_available(committed))
        and _nonzero(reserved) == _nonzero(_reserved(committed)),
        "a grant is available, reserved, burned or expired",
    )
    require(parents == parents_of(committed.reservations), "a reservation ends exactly once")


def _follow_reservations(parents: dict[str, str | None], entry: Entry) -> None:
    """Begin and end what the entry does; `parents` are those of the live reservations."""
    facts, run_id = entry.reservation, entry.identity.subject
    if facts is NO_RESERVATION:
        return
    if entry.outcome == "accepted" and facts.moves:
        require(run_id not in parents, "a run holds one reservation")
        parents[run_id] = facts.parent_run_id
    if entry.type == "pool.drawn":
        parents.update({m.run_id: None for m in facts.moves if m.run_id not in parents})
    moved = {move.run_id for move in facts.moves}
    require(moved <= parents.keys(), "only a live reservation holds anything")
    if entry.type == "agent_run.usage":
        line = set(line_up(parents, run_id))
        require(moved <= line, "a run draws only its own reservation and those of its parents")
    for ended in facts.ended:
        require(ended.run_id in parents, "a reservation ends exactly once")
        del parents[ended.run_id]


def _follow_credits(
    available: Counter[str], reserved: Counter[tuple[str, str]], entry: Entry
) -> None:
    if entry.grant is not None:
        sign = -1 if entry.outcome == "expired" else 1
        available[entry.grant.id] += sign * entry.amount_microcredits
    for part in entry.draws:
        if is_shared_grant(part.grant_id):
            continue
        sign = 1 if entry.outcome == "returned" else -1
        available[part.grant_id] += sign * part.microcredits
    for move in entry.reservation.moves:
        if not is_shared_grant(move.grant_id):
            available[move.grant_id] -= move.microcredits
        reserved[move.run_id, move.grant_id] += move.microcredits


def _available(account: Account) -> Counter[str]:
    return Counter({grant.id: grant.remaining_microcredits for grant in account.grants})


def _reserved(account: Account) -> Counter[tuple[str, str]]:
    reserved = Counter[tuple[str, str]]()
    for held in account.reservations:
        for part in held.parts:
            reserved[held.run_id, part.grant_id] += part.microcredits
    return reserved


def _nonzero(sums: Counter[str] | Counter[tuple[str, str]]) -> dict[object, int]:
    return {key: microcredits for key, microcredits in sums.items() if microcredits}
