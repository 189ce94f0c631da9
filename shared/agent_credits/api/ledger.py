"""`GET /v1/accounts/{principal}/ledger`: an account's entries, newest first, page by page.

A full page never changes, so a cursor stays valid for ever. What is committed meanwhile is newer
than anything that a cursor leads to.
"""

from collections.abc import Iterator
from typing import Final

from agent_credits.api.accounts import shows
from agent_credits.api.callers import Caller
from agent_credits.api.cursors import bad_cursor, cursor_of, position_of
from agent_credits.api.entries import EntryAnswer, entry_answer
from agent_credits.api.fields import Answer
from agent_credits.api.rows import ApiRows
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Page

# A page holds eight entries or more, unless its run ids are long.
PAGES_READ_TOGETHER: Final = 16
# An answer may be shorter than the limit and still have a cursor: none reads more pages than this.
PAGES_PER_ANSWER_MAX: Final = 128


class LedgerAnswer(Answer):
    """Entries, newest first. Without `next_cursor` there are no older ones."""

    principal: str
    version: int
    entries: list[EntryAnswer]
    next_cursor: str | None


def read_ledger(
    rows: ApiRows, row: Account, caller: Caller, cursor: str | None, limit: int
) -> LedgerAnswer:
    """Return the entries before the cursor. Raises `Refused`."""
    page_number, index = _position(cursor, row)
    entries: list[EntryAnswer] = []
    next_cursor: str | None = None
    for page in _pages_before(rows, row, page_number):
        end = index if page.number == page_number else len(page.entries)
        for at in range(min(end, len(page.entries)) - 1, -1, -1):
            entry = page.entries[at]
            if len(entries) == limit:
                next_cursor = cursor_of(f"{page.number}.{at + 1}")
                break
            if shows(entry, row.principal, caller):
                entries.append(entry_answer(entry, str(row.principal), page.number))
        if next_cursor is not None:
            break
        if page.number > 1 and page.number == page_number - PAGES_PER_ANSWER_MAX:
            next_cursor = cursor_of(f"{page.number}.0")
            break
    return LedgerAnswer(
        principal=str(row.principal),
        version=row.version,
        entries=entries,
        next_cursor=next_cursor,
    )


def _position(cursor: str | None, row: Account) -> tuple[int, int]:
    """Return the page to begin with, and how many of its entries are older than the cursor."""
    if cursor is None:
        return row.page_number, len(row.entries)
    page, _, index = position_of(cursor).partition(".")
    if not (page.isdecimal() and index.isdecimal() and len(page) <= 10 and len(index) <= 6):
        raise bad_cursor()
    if not 1 <= int(page) <= row.page_number:
        raise bad_cursor()
    return int(page), int(index)


def _pages_before(rows: ApiRows, row: Account, newest: int) -> Iterator[Page]:
    """Yield the pages from this one on, newest first; the open one is on the row."""
    if newest == row.page_number:
        yield row.page
        newest -= 1
    while newest >= 1:
        first = max(newest - PAGES_READ_TOGETHER + 1, 1)
        yield from reversed(list(rows.read_pages(row.principal, first, newest)))
        newest = first - 1
