"""How far an account's burn has been counted: its burn by day, up to a page of the ledger.

Each page is then read once for all later reports, and a busy account's ledger is read in parts.
"""

from collections.abc import Iterable
from datetime import date

from msgspec import Struct, field

from agent_credits.ledger.burn import BurnByDay, burn_of
from agent_credits.ledger.entries import Page
from agent_credits.values.principals import Principal


class BurnCount(Struct, frozen=True):
    """The burn of the full pages up to `page_number`. It stays true forever for its days."""

    principal: Principal
    page_number: int = 0
    by_day: BurnByDay = field(default_factory=BurnByDay)


def count_pages(
    count: BurnCount, pages: Iterable[Page], since: date, entries_max: int
) -> tuple[BurnCount, int]:
    """Count pages, oldest first, until `entries_max` is reached, and drop the days before `since`.

    Returns the count and the number of entries that were counted.
    """
    by_day = BurnByDay({day: net for day, net in count.by_day.items() if day >= since})
    page_number, entries = count.page_number, 0
    for page in pages:
        by_day.update(burn_of(page.entries, since))
        page_number, entries = page.number, entries + len(page.entries)
        if entries >= entries_max:
            break
    return BurnCount(count.principal, page_number, by_day), entries
