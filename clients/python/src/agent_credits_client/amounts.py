"""Credits are exact decimals with at most 6 places, and so never floats."""

import re
from decimal import Decimal
from typing import Final

CREDITS_MAX: Final = 1_000_000_000

_DECIMAL: Final = re.compile(r"(?:0|[1-9][0-9]{0,9})(?:\.[0-9]{1,6})?", re.ASCII)

Credits = str | int | Decimal


def credits_text(credits: Credits) -> str:
    """Return the credits as the API takes them. Raises `TypeError` or `ValueError`."""
    if isinstance(credits, bool) or not isinstance(credits, str | int | Decimal):
        raise TypeError(
            f'credits must be a str such as "12.5", an int or a Decimal, not {credits!r}'
        )
    text = f"{credits:f}" if isinstance(credits, Decimal) else str(credits)
    if not _DECIMAL.fullmatch(text) or Decimal(text) > CREDITS_MAX:
        raise ValueError(
            f"credits must be a decimal from 0 to {CREDITS_MAX:,} with at most 6 places, not {text}"
        )
    return text
