"""What every change of a batch is decided with: the row as it was read, its past, the time."""

from datetime import datetime

from msgspec import Struct

from agent_credits.commit.beside import ALONE, Beside
from agent_credits.commit.changes import Past
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry


class DecisionContext(Struct, frozen=True):
    row: Account
    past: Past
    now: datetime
    beside: Beside = ALONE

    def entries_of_run(self, account: Account, run_id: str) -> tuple[Entry, ...]:
        """Return the run's entries on this account: of its past, if that was read, and so far."""
        # An entry may be on the page and already have its receipt; it counts once.
        entries = {entry.identity: entry for entry in self.past.runs.get(run_id, ())}
        for entry in (*self.row.entries, *account.entries):
            if entry.identity.realm == "RUN" and entry.identity.subject == run_id:
                entries[entry.identity] = entry
        return tuple(entries.values())
