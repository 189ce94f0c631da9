"""The port to the rows: everything that may be read or written, and by nothing else.

Reads are strongly consistent. Writes are of four kinds: a compare-and-set of one row, which
commits; insertions of pages and receipts, whose content is a pure function of a committed row, so
that it does not matter who comes first; and observations, each put once. What these two find there
is never written again. And checkpoints, of which any that was ever put is as true as the newest.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from msgspec import Struct

from agent_credits.accounts import Account
from agent_credits.checkpoint import Checkpoint
from agent_credits.ledger import PAGES_MAX, Entry, Identity, Page, Receipt
from agent_credits.policy import BillingPolicy
from agent_credits.principals import Principal
from agent_credits.teams import Team

if TYPE_CHECKING:
    from agent_credits.observations import Observation


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

    def flush_and_read_receipts(
        self, page: Page, identities: Collection[Identity]
    ) -> Mapping[Identity, Receipt]:
        """Do both `put_page` and `read_receipts`, in any order or at once.

        Both are done when it returns. None of the identities may be on the page.
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

    def put_observation(self, observation: "Observation", now: datetime) -> bool:
        """Put it unless it is there, and tell whether it is new.

        The change stream shows a new one to `announce`. Raises `RowsUnavailable` on a fault; a put
        whose answer was lost may be repeated.
        """
        ...


class LedgerRows(Protocol):
    """What an account's ledger is verified from. Raises as `Rows` does, and `RowNotUnderstood`."""

    def read_pages(
        self, principal: Principal, first: int = 1, last: int = PAGES_MAX
    ) -> Iterator[Page]:
        """Yield an account's full pages, oldest first; the open page is on its row."""
        ...

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]: ...

    def read_run(self, run_id: str) -> Iterable[Receipt]: ...

    def read_policy(self, version: str) -> BillingPolicy | None: ...


Row = TypeVar("Row")


class Unreadable(Struct, frozen=True):
    """A row that this version does not understand."""

    key: str
    reason: str


class Stretch(Struct, Generic[Row], frozen=True):
    """A bounded part of a table, in the table's own order: rows with their keys.

    `end` is where the next stretch begins, None behind the last. A row that is there all the while
    stands in exactly one stretch; one that comes or goes meanwhile, in one or none.
    """

    rows: tuple[tuple[str, Row | Unreadable], ...]
    end: str | None


class AccountsRows(Protocol):
    """The rows of all accounts, for walking over them. Each method raises `RowsUnavailable`."""

    def read_accounts(self, after: str | None, rows_max: int) -> Stretch[Account]:
        """Read at most so many rows of the table, and return the accounts among them."""
        ...

    def read_account_at(self, key: str) -> Account | Unreadable | None: ...


class CheckpointRows(Protocol):
    """How far each account's ledger has been verified. Each method raises `RowsUnavailable`."""

    def read_checkpoint(self, principal: Principal) -> Checkpoint | None: ...

    def put_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Put it over any other: each is true for ever, so an older one only costs reads."""
        ...


def entries_of(receipts: Iterable[Receipt], principal: Principal) -> tuple[Entry, ...]:
    """Return the entries that stand on this account, in the order of the receipts."""
    return tuple(receipt.entry for receipt in receipts if receipt.principal == principal)
