"""The HTTP API: its problem types, and which role may make which call."""

from typing import get_args

from agent_credits.api.callers import MAY, Role
from agent_credits.api.problems import TYPES, type_uri
from tools.blocks import table

# A request has no signature, and what is malformed names its field.
NEVER_ANSWERED = {"unsigned", "bad_signature"}


def problems() -> str:
    """Return every type of problem, in the order of its status."""
    answered = {error: kind for error, kind in TYPES.items() if error not in NEVER_ANSWERED}
    rows = [
        (
            str(kind.status),
            f"`{error}`",
            kind.title,
            "yes" if kind.is_retryable else "no",
            f"`{type_uri(error, '')}`",
        )
        for error, kind in sorted(answered.items(), key=lambda item: (item[1].status, item[0]))
    ]
    return table((">status", "`error`", "`title`", "retryable", "`type`"), rows)


def roles() -> str:
    """Return which role may do what."""
    names = get_args(Role)
    rows = [
        (operation.replace("_", " "), *("yes" if name in may else "" for name in names))
        for operation, may in MAY.items()
    ]
    return table(("", *(f"`{name}`" for name in names)), rows)
