"""Plan periods: monthly from the anchor day, clamped at month ends, in UTC.

With an anchor on the 31st, a period starts on the 30th or 28th of shorter months, and on the 31st
again in the next long one. Each start is computed from the anchor and not from the start before it,
so a clamped day does not stick.
"""

import calendar
from datetime import UTC, date, datetime

from msgspec import Struct


class Period(Struct, frozen=True):
    """A half-open interval: the instant `end` belongs to the next period."""

    start: datetime
    end: datetime


def period_containing(anchor: date, now: datetime) -> Period | None:
    """Return the plan period that `now` falls into, or None before the anchor day."""
    today = now.astimezone(UTC).date()
    if today < anchor:
        return None
    months = (today.year - anchor.year) * 12 + today.month - anchor.month
    if today < _month_after(anchor, months):
        months -= 1
    return Period(
        start=_midnight(_month_after(anchor, months)),
        end=_midnight(_month_after(anchor, months + 1)),
    )


def next_period_starts_at(anchor: date, now: datetime) -> datetime:
    """Return when the next period starts. The first one starts on the anchor day."""
    period = period_containing(anchor, now)
    return period.end if period else _midnight(anchor)


def _month_after(anchor: date, months: int) -> date:
    year, month0 = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    last_day = calendar.monthrange(year, month0 + 1)[1]
    return date(year, month0 + 1, min(anchor.day, last_day))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
