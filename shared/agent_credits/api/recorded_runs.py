"""What is recorded of a run, on whichever accounts it was billed to.

An event on an open page has no receipt yet, so the pages of the accounts that may pay for the run
are read as well: those that its receipts name, and those that the caller names or is.
"""

from collections.abc import Collection, Mapping

from msgspec import Struct

from agent_credits.commit.rows import Rows
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, RunContext
from agent_credits.values.principals import Principal


class RecordedEntry(Struct, frozen=True):
    """An entry of the run, and where it is."""

    principal: Principal
    page_number: int
    is_on_open_page: bool
    entry: Entry


class RecordedRun(Struct, frozen=True):
    """All that was found of a run, oldest first, and the rows of the accounts that it is on."""

    run_id: str
    entries: tuple[RecordedEntry, ...]
    accounts: Mapping[Principal, Account]

    @property
    def context(self) -> RunContext | None:
        """Return the team and trigger of the run's first recorded event."""
        return next((found.entry.run for found in self.entries if found.entry.run), None)

    @property
    def source(self) -> str | None:
        """Return the source of the run's first recorded event."""
        runs = (found.entry for found in self.entries if found.entry.run)
        return next((entry.identity.source for entry in runs), None)


def find_run(rows: Rows, run_id: str, may_pay: Collection[Principal]) -> RecordedRun:
    """Return what is recorded of the run. Two round trips, whatever is found."""
    receipts = list(rows.read_run(run_id))
    principals = {*may_pay, *(receipt.principal for receipt in receipts)}
    accounts = rows.read_accounts_of(sorted(principals)) if principals else {}
    found = {
        receipt.entry.identity: RecordedEntry(
            receipt.principal, receipt.page_number, False, receipt.entry
        )
        for receipt in receipts
    }
    for account in accounts.values():
        for entry in account.entries:
            identity = entry.identity
            if identity.realm == "RUN" and identity.subject == run_id:
                found[identity] = RecordedEntry(account.principal, account.page_number, True, entry)
    # Equal times are of one commit or of two accounts; a page keeps the order of its entries.
    ordered = sorted(found.values(), key=lambda f: (f.entry.recorded_at, f.page_number))
    return RecordedRun(run_id, tuple(ordered), accounts)
