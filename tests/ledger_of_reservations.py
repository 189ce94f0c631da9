"""What an account must hold by its ledger alone: per grant what is available, per run reserved.

Written apart from the product's own replay, so that one of the two has to be right: every grant's
amount is what is available, reserved, burned less reversed, and expired.
"""

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct, field

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry


class Held(Struct):
    """Microcredits by grant, and those reserved by run and grant."""

    granted: Counter[str] = field(default_factory=Counter)
    burned: Counter[str] = field(default_factory=Counter)
    expired: Counter[str] = field(default_factory=Counter)
    reserved: Counter[tuple[str, str]] = field(default_factory=Counter)

    def left(self, grant_id: str) -> int:
        """Return what is available of a grant."""
        reserved = sum(held for (_, grant), held in self.reserved.items() if grant == grant_id)
        return self.granted[grant_id] - self.burned[grant_id] - self.expired[grant_id] - reserved

    def add(self, entry: Entry) -> None:
        if entry.grant is not None:
            kind = self.expired if entry.outcome == "expired" else self.granted
            kind[entry.grant.id] += entry.amount_microcredits
        for part in entry.draws:
            sign = -1 if entry.outcome == "returned" else 1
            self.burned[part.grant_id] += sign * part.microcredits
        for move in entry.reservation.moves:
            key = (move.run_id, move.grant_id)
            self.reserved[key] += move.microcredits
            if self.reserved[key] == 0:
                del self.reserved[key]


def held_by_ledger(entries: Iterable[Entry]) -> Held:
    held = Held()
    for entry in entries:
        held.add(entry)
    return held


def check_row(account: Account, entries: Iterable[Entry]) -> None:
    """Assert that the row holds exactly what its ledger leaves, grant by grant and run by run."""
    held = held_by_ledger(entries)
    on_row = {grant.id: grant.remaining_microcredits for grant in account.grants}
    by_ledger = {grant_id: held.left(grant_id) for grant_id in held.granted}
    assert {g: left for g, left in by_ledger.items() if left} == {
        g: left for g, left in on_row.items() if left
    }
    reserved = Counter[tuple[str, str]]()
    for reservation in account.reservations:
        for part in reservation.parts:
            reserved[reservation.run_id, part.grant_id] += part.microcredits
    assert {key: left for key, left in held.reserved.items() if left} == dict(reserved)
