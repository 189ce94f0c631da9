"""How far an account's burn has been counted: the days so far, and the page that they go up to.

So each page of a ledger is read once for all reports to come, and a busy account's ledger in parts.
"""

from collections.abc import Iterable
from datetime import date

from msgspec import Struct, field

from agent_credits.ledger.burn import BurnByDay, burn_of
from agent_credits.ledger.entries import Page
from agent_credits.values.principals import Principal


class BurnCount(Struct, frozen=True):
    """The burn of the full pages up to `page_number`; true for ever, of the days that it names."""

    principal: Principal
    page_number: int = 0
    by_day: BurnByDay = field(default_factory=BurnByDay)


def count_pages(
    count: BurnCount, pages: Iterable[Page], since: date, entries_max: int
) -> tuple[BurnCount, int]:
    """Count pages, oldest first, until `entries_max` is reached; forget what was before `since`.

    Returns with the count how many entries it took.
    """
    by_day = BurnByDay({day: net for day, net in count.by_day.items() if day >= since})
    page_number, entries = count.page_number, 0
    for page in pages:
        by_day.update(burn_of(page.entries, since))
        page_number, entries = page.number, entries + len(page.entries)
        if entries >= entries_max:
            break
    return BurnCount(count.principal, page_number, by_day), entries
