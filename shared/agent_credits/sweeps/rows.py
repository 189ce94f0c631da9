"""The ports of the sweeps: all rows of a kind in bounded stretches, and an account's ledger."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from agent_credits.billing.policy import BillingPolicy
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import PAGES_MAX, Identity, Page, Receipt
from agent_credits.ledger.limits import LimitRow
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.values.principals import Principal

Row = TypeVar("Row")


class Unreadable(Struct, frozen=True):
    """A row that this version cannot read: its key, its principal, and why."""

    key: str
    principal: Principal
    reason: str


class Stretch(Struct, Generic[Row], frozen=True):
    """A bounded part of a table in the table's own order: rows with their keys.

    `end` is where the next stretch starts, or None for the last one. A row that exists during the
    whole sweep is in exactly one stretch; a row that is added or deleted in between is in at most
    one.
    """

    rows: tuple[tuple[str, Row | Unreadable], ...]
    end: str | None


class LedgerRows(Protocol):
    """The rows that verify a ledger. The methods raise `RowsUnavailable` or `RowNotUnderstood`."""

    def read_pages(
        self, principal: Principal, first: int = 1, last: int = PAGES_MAX
    ) -> Iterator[Page]:
        """Yield an account's full pages, oldest first; the open page is on its row."""
        ...

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]: ...

    def read_run(self, run_id: str) -> Iterable[Receipt]: ...

    def read_policy(self, version: str) -> BillingPolicy | None: ...


class AccountsRows(Protocol):
    """The rows of all accounts. Each method raises `RowsUnavailable` on a fault."""

    def read_accounts(self, after: str | None, rows_max: int) -> Stretch[Account]:
        """Read at most `rows_max` rows of the table, and return the accounts among them."""
        ...

    def read_account_at(self, key: str) -> Account | Unreadable | None: ...


class AccountsAndLimitsRows(Protocol):
    """The rows of all accounts and limits. Each method raises `RowsUnavailable` on a fault."""

    def read_accounts_and_limits(
        self, after: str | None, rows_max: int
    ) -> Stretch[Account | LimitRow]:
        """Read at most `rows_max` rows of the table, and return the accounts and limits of them."""
        ...

    def read_account_or_limit_at(self, key: str) -> Account | LimitRow | Unreadable | None: ...


class CheckpointRows(Protocol):
    """The rows of checkpoints. Each method raises `RowsUnavailable` on a fault."""

    def read_checkpoint(self, principal: Principal) -> Checkpoint | None: ...

    def put_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Overwrite the stored one. A checkpoint stays true, so an older one only costs reads."""
        ...
