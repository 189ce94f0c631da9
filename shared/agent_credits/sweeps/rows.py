"""The ports of the sweeps: all rows of a kind in bounded stretches, and an account's ledger."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from agent_credits.billing.policy import BillingPolicy
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import PAGES_MAX, Identity, Page, Receipt
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.values.principals import Principal

Row = TypeVar("Row")


class Unreadable(Struct, frozen=True):
    """A row that this version does not understand: its key, and whose it is."""

    key: str
    principal: Principal
    reason: str


class Stretch(Struct, Generic[Row], frozen=True):
    """A bounded part of a table, in the table's own order: rows with their keys.

    `end` is where the next stretch begins, None behind the last. A row that is there all the while
    stands in exactly one stretch; one that comes or goes meanwhile, in one or none.
    """

    rows: tuple[tuple[str, Row | Unreadable], ...]
    end: str | None


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


class AccountsRows(Protocol):
    """The rows of all accounts, for sweeping over them. Each method raises `RowsUnavailable`."""

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
