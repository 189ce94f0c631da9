"""Cursors of lists: opaque to callers, and checked like everything that a caller sends."""

import base64
import binascii
from typing import Annotated, Final

from pydantic import Field

from agent_credits.api.problems import Refused, invalid

LIMIT_DEFAULT: Final = 50
LIST_LIMIT_MAX: Final = 100

Limit = Annotated[int, Field(ge=1, le=LIST_LIMIT_MAX)]


def cursor_of(position: str) -> str:
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def position_of(cursor: str) -> str:
    """Return the position that a cursor of an earlier answer stands for. Raises `Refused`."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error):
        raise bad_cursor() from None


def bad_cursor() -> Refused:
    return invalid("cursor", "is not one that a list has answered with", where="query")
