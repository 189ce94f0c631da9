"""Accounts whose row and ledger are of two moments, as when the tables were restored to two.

A page is flushed before the row can reach the next one, and a row never goes back. So pages that
are missing before the row's open page say that LedgerTable is older, and pages that the row has not
reached say that AccountsTable is. No other fault looks like either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from agent_credits.aws.items import Item, page_key, receipt_key
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Page
from agent_credits.values.principals import Principal

Table = Literal["AccountsTable", "LedgerTable"]

WHAT_IT_MEANS: Final[dict[Table, str]] = {
    "AccountsTable": (
        "the events on these pages count as recorded, but the row does not hold what they drew,"
        " and the row would fill the pages again with other entries"
    ),
    "LedgerTable": "the events on these pages would count a second time",
}


@dataclass(frozen=True, slots=True)
class Torn:
    """`newer_keys`: the items of LedgerTable without which it is no newer than the row."""

    principal: Principal
    older: Table
    first_page: int
    last_page: int
    newer_keys: tuple[Item, ...] = ()

    def __str__(self) -> str:
        pages = f"page {self.first_page}"
        if self.last_page > self.first_page:
            pages = f"pages {self.first_page} to {self.last_page}"
        newer: Table = "LedgerTable" if self.older == "AccountsTable" else "AccountsTable"
        return (
            f"{self.principal}: {self.older} is older than {newer} by {pages} of the ledger:"
            f" {WHAT_IT_MEANS[self.older]}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "principal": str(self.principal),
            "older": self.older,
            "first_page": self.first_page,
            "last_page": self.last_page,
            "newer_keys": list(self.newer_keys),
        }


def torn_from(row: Account, flushed_up_to: int, pages_from_open: Sequence[Page]) -> Torn | None:
    """Compare a row with its ledger.

    `flushed_up_to`: the last page before the row's open page that the ledger has.
    `pages_from_open`: what it has from the open page on.
    """
    if flushed_up_to < row.page_number - 1:
        return Torn(row.principal, "LedgerTable", flushed_up_to + 1, row.page_number - 1)
    newer = [page for page in pages_from_open if _is_newer(page, row)]
    return _older_row(row.principal, newer, row.page)


def torn_without_row(principal: Principal, pages: Sequence[Page]) -> Torn | None:
    """The account was opened, and filled these pages, after the moment of AccountsTable."""
    return _older_row(principal, pages, None)


def _is_newer(page: Page, row: Account) -> bool:
    # The row may still hold a page that was flushed already, and then both are equal. A page that
    # contradicts the row is no matter of age.
    before = row.entries
    is_same_page_later = page.number == row.page_number and page.entries[: len(before)] == before
    return page != row.page and (is_same_page_later or page.number > row.page_number)


def _older_row(principal: Principal, newer: Sequence[Page], open_page: Page | None) -> Torn | None:
    if not newer:
        return None
    on_row = {entry.identity for entry in open_page.entries} if open_page else set()
    keys = [page_key(principal, page.number) for page in newer]
    keys += [
        receipt_key(entry.identity)
        for page in newer
        for entry in page.entries
        if entry.identity not in on_row
    ]
    return Torn(principal, "AccountsTable", newer[0].number, newer[-1].number, tuple(keys))
