"""The port to the rows: everything that may be read or written, and by nothing else.

Reads are strongly consistent. Writes are of three kinds: a compare-and-set of one row, which
commits; insertions of pages and receipts, whose content is a pure function of a committed row, so
that it does not matter who comes first; and observations, each put once. What these two find there
is never written again.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Protocol

from agent_credits.accounts import Account
from agent_credits.ledger import Entry, Identity, Page, Receipt
from agent_credits.observations import Observation
from agent_credits.policy import BillingPolicy
from agent_credits.principals import Principal
from agent_credits.teams import Team


class Rows(Protocol):
    """The rows of accounts and their ledger. Each method raises `RowsUnavailable` on a fault."""

    def read_account(self, principal: Principal) -> Account | None: ...

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        """Return the receipts there are, of any account."""
        ...

    def read_run(self, run_id: str) -> Iterable[Receipt]:
        """Return every receipt of a run, of any account."""
        ...

    def compare_and_set(self, account: Account) -> Account | None:
        """Write the row if the one there is one version older.

        Returns None when it was written, or else the row that is there instead. Raises
        `AccountTooLarge`, before anything is written, when the row would pass its ceiling.
        """
        ...

    def put_page(self, page: Page) -> None:
        """Put a full page and one receipt for each of its entries, unless they are there."""
        ...


class SettingsRows(Protocol):
    """The rows of teams and policies. Each method raises `RowsUnavailable` on a fault."""

    def read_team(self, team_id: str) -> Team | None: ...

    def read_policy(self, version: str) -> BillingPolicy | None: ...


class TeamRows(SettingsRows, Protocol):
    """The rows of teams where they also change, by compare-and-set like every other row."""

    def compare_and_set_team(self, team: Team) -> Team | None:
        """Write the row if the one there is one version older; else return that one."""
        ...


class ObservationRows(Protocol):
    """The rows of what is to be announced though no account changed."""

    def put_observation(self, observation: Observation, now: datetime) -> bool:
        """Put it unless it is there, and tell whether it is new.

        The change stream shows a new one to `announce`. Raises `RowsUnavailable` on a fault; a put
        whose answer was lost may be repeated.
        """
        ...


def entries_of(receipts: Iterable[Receipt], principal: Principal) -> tuple[Entry, ...]:
    """Return the entries that stand on this account, in the order of the receipts."""
    return tuple(receipt.entry for receipt in receipts if receipt.principal == principal)
