"""What an account burns: the credits that usage drew, less those that were returned.

Burn is counted by UTC day, like plan periods, and only over complete days, so that two reports of
one day agree. A return counts on the day on which the credits came back.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, date, timedelta

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Page
from agent_credits.ledger.shared_pools import is_shared_pool

# Reports show burn over a day, a week and a month.
WINDOWS_DAYS = (1, 7, 30)
# A projection assumes that the rate of this many days continues.
RATE_DAYS = 7
# Beyond this a projection means nothing.
PROJECTION_DAYS_MAX = 3_650

BurnByDay = Counter[date]


def first_day(today: date) -> date:
    """Return the first day of the longest window."""
    return today - timedelta(days=max(WINDOWS_DAYS))


def entries_since(row: Account, newest_pages: Iterable[Page], since: date) -> Iterator[Entry]:
    """Yield the account's entries since that day, and perhaps some earlier ones, newest page first.

    `newest_pages` are its full pages, newest first. They are read only as far as needed, because
    time never runs backwards on an account.
    """
    yield from row.entries
    for page in newest_pages:
        if page.number >= row.page_number:
            continue  # The row as read still held this page, which has been flushed since.
        if page.entries[-1].recorded_at.astimezone(UTC).date() < since:
            return
        yield from page.entries


def burn_of(entries: Iterable[Entry], since: date) -> BurnByDay:
    """Return the net microcredits by day; negative where more was returned than drawn."""
    burned: BurnByDay = Counter()
    for entry in entries:
        day = entry.recorded_at.astimezone(UTC).date()
        if day < since:
            continue
        match entry.outcome:
            case "debited" | "insufficient":
                burned[day] += _own_draws(entry)
            case "returned":
                burned[day] -= _own_draws(entry)
            case _:
                pass
    return burned


def _own_draws(entry: Entry) -> int:
    """Return what was drawn of the account's own grants; the team's account has the rest."""
    return sum(part.microcredits for part in entry.draws if not is_shared_pool(part.pool))


def burned_over(burned: BurnByDay, days: int, today: date) -> int:
    """Return what was burned on the `days` complete days before today; never negative."""
    window = (today - timedelta(days=back) for back in range(1, days + 1))
    return max(sum(burned[day] for day in window), 0)


def exhausted_on(available_microcredits: int, burned: BurnByDay, today: date) -> date | None:
    """Return the day on which the credits end at the current rate, without refills and reloads.

    None if nothing was burned lately, or if the credits last for years.
    """
    rate = burned_over(burned, RATE_DAYS, today)
    if rate == 0:
        return None
    days = available_microcredits * RATE_DAYS // rate
    return today + timedelta(days=days) if days <= PROJECTION_DAYS_MAX else None
