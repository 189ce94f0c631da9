"""How people read amounts, money, times and counts: one format each, in every channel.

Machines read other forms: decimal strings without separators (`format_credits`), minor units with
a currency, and RFC 3339.
"""

import re
from datetime import UTC, datetime

from agent_credits.values.credits import format_credits

ELLIPSIS = "…"

# Far above any amount, and short enough that Python reads the digits as an integer.
_DECIMAL = re.compile(r"(-?)(0|[1-9][0-9]{0,29})(\.[0-9]{1,30})?", re.ASCII)


def amount_text(microcredits: int) -> str:
    """Return an amount whose unit is named beside it: 1000000500000 -> "1,000,000.5"."""
    return _grouped(format_credits(microcredits))


def credits_text(microcredits: int) -> str:
    """Return an amount with its unit: 1000000500000 -> "1,000,000.5 credits"."""
    return decimal_credits_text(format_credits(microcredits))


def decimal_credits_text(decimal: str) -> str:
    """Return the decimal string of a notice's data with its unit: "1249" -> "1,249 credits"."""
    return f"{_grouped(decimal)} {'credit' if decimal == '1' else 'credits'}"


def money_text(cents: int, currency: str) -> str:
    """Return an amount of minor units: 123450, "usd" -> "1,234.50 USD"."""
    sign = "-" if cents < 0 else ""
    whole, fraction = divmod(abs(cents), 100)
    return f"{sign}{whole:,}.{fraction:02d} {currency.upper()}"


def time_text(instant: datetime) -> str:
    """Return an instant to the minute, in UTC: "2026-11-30 00:00 UTC"."""
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def count_text(count: int, noun: str) -> str:
    """Return how many of something there are: "1 pack", "2,000 packs"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shortened(text: str, length_max: int) -> str:
    """Return text of at most this length, cut behind a whole word and marked with an ellipsis.

    Only where that would lose more than half of the room, a word is cut inside.
    """
    if len(text) <= length_max:
        return text
    kept, next_character = text[: length_max - 1], text[length_max - 1]
    end_of_words = kept.rfind(" ")
    if not next_character.isspace() and end_of_words >= length_max // 2:
        kept = kept[:end_of_words]
    return f"{kept.rstrip(' ,:')}{ELLIPSIS}"


def _grouped(decimal: str) -> str:
    parts = _DECIMAL.fullmatch(decimal)
    if parts is None:
        return decimal
    sign, whole, fraction = parts.groups(default="")
    return f"{sign}{int(whole):,}{fraction}"
