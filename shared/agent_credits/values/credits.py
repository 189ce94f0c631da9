"""Credits are exact decimals with at most 6 places, kept as an integer of microcredits.

Nothing in the project computes with a float, so no amount is ever rounded, and credits that were
sold can be spent to the last microcredit.
"""

import re

MICROCREDITS_PER_CREDIT = 1_000_000

# An event or a grant of more than a billion credits is a mistake in the unit, not a purchase.
CREDITS_MAX = 1_000_000_000
MICROCREDITS_MAX = CREDITS_MAX * MICROCREDITS_PER_CREDIT

_AT_MOST = f"credits must be at most {CREDITS_MAX:,}"

_NOT_A_DECIMAL = f"credits must be a decimal from 0 to {CREDITS_MAX:,} with at most 6 places"

_DECIMAL = re.compile(r"(?P<whole>0|[1-9][0-9]{0,9})(?:\.(?P<fraction>[0-9]{1,6}))?", re.ASCII)


def parse_credits(value: object) -> int:
    """Return the microcredits of a positive decimal string or integer number of credits.

    Raises ValueError, with a sentence for the sender, for zero and for anything that is no amount.
    """
    microcredits = parse_usage(value)
    if microcredits == 0:
        raise ValueError("credits must be more than zero")
    return microcredits


def parse_usage(value: object) -> int:
    """Return the microcredits of a decimal string or integer number of credits; zero is allowed.

    Raises ValueError, with a sentence for the sender, for anything else: a float (its value is not
    the decimal that the sender wrote), a negative, more than 6 places, a huge number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError('credits must be a decimal string such as "12.5", or an integer')
    if isinstance(value, int) and value > CREDITS_MAX:
        raise ValueError(_AT_MOST)
    if isinstance(value, int) and value < 0:
        raise ValueError(_NOT_A_DECIMAL)
    match = _DECIMAL.fullmatch(str(value))
    if match is None:
        raise ValueError(_NOT_A_DECIMAL)
    microcredits = int(match["whole"]) * MICROCREDITS_PER_CREDIT
    microcredits += int((match["fraction"] or "").ljust(6, "0"))
    if microcredits > MICROCREDITS_MAX:
        raise ValueError(_AT_MOST)
    return microcredits


def format_credits(microcredits: int) -> str:
    """Return the shortest exact decimal string: 12500000 -> "12.5", 400000000 -> "400"."""
    sign = "-" if microcredits < 0 else ""
    whole, fraction = divmod(abs(microcredits), MICROCREDITS_PER_CREDIT)
    return f"{sign}{whole}.{fraction:06d}".rstrip("0").rstrip(".")
