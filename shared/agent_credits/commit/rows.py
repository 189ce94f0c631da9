"""The port to the rows that commits read and write, and nothing else may write.

Reads are strongly consistent. There are two kinds of writes: a compare-and-set of one row, which
commits, and insertions of pages and receipts. What is inserted is a pure function of a committed
row, so it does not matter which worker inserts it first, and no insertion changes what is there.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from agent_credits.billing.directory import SettingsRows
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Identity, Page, Receipt
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.values.principals import Principal


class Rows(Protocol):
    """The rows of accounts and their ledger. Each method raises `RowsUnavailable` on a fault."""

    def read_account(self, principal: Principal) -> Account | None: ...

    def read_accounts_of(self, principals: Collection[Principal]) -> Mapping[Principal, Account]:
        """Return the accounts that exist."""
        ...

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        """Return the receipts that exist, of any account."""
        ...

    def read_run(self, run_id: str) -> Iterable[Receipt]:
        """Return every receipt of a run, of any account."""
        ...

    def compare_and_set(self, account: Account) -> Account | None:
        """Write the row if the stored one is one version older.

        Returns None if it was written, or else the stored row. Raises `AccountTooLarge`, and writes
        nothing, if the row would pass its ceiling.
        """
        ...

    def read_limits(self, keys: Collection[LimitKey]) -> Mapping[LimitKey, LimitRow]:
        """Return the rows of limits that exist."""
        ...

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> "LostTogether | None":
        """Write all of these rows, each if the stored one is one version older, or none of them.

        Returns None if they were written, or else why not. Raises `AccountTooLarge`, and writes
        nothing, if a row would pass its ceiling.
        """
        ...

    def flush_and_read_receipts(
        self, pages: Collection[Page], identities: Collection[Identity]
    ) -> Mapping[Identity, Receipt]:
        """Do both `put_page` of each page and `read_receipts`, in any order or at once.

        All is done when it returns. No account's identities may be on its own page.
        """
        ...

    def put_page(self, page: Page) -> None:
        """Insert a full page and one receipt for each of its entries, unless they are there."""
        ...


class LostTogether(Struct, frozen=True):
    """The stored rows that have moved since they were read.

    `conflicts`: another transaction was moving some of the rows; which, and where they stand now,
    is not known.
    """

    accounts: tuple[Account, ...] = ()
    limits: tuple[LimitRow, ...] = ()
    conflicts: bool = False


class TeamRows(SettingsRows, Protocol):
    """The rows of teams, which change by compare-and-set like every other row."""

    def compare_and_set_team(self, team: Team) -> Team | None:
        """Write the row if the stored one is one version older, or else return the stored one."""
        ...


def entries_of(receipts: Iterable[Receipt], principal: Principal) -> tuple[Entry, ...]:
    """Return the entries of this account, in the order of the receipts."""
    return tuple(receipt.entry for receipt in receipts if receipt.principal == principal)
