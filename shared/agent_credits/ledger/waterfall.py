"""The waterfall: grants are drawn in one total order until they cover the amount or are empty."""

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from agent_credits.ledger.entries import Draw
from agent_credits.ledger.grants import Grant, drawing_order
from agent_credits.values.errors import require


class Drawn(Struct, frozen=True):
    """The grants after drawing, what was taken from each, and what they could not cover."""

    grants: tuple[Grant, ...]
    draws: tuple[Draw, ...]
    shortfall_microcredits: int


def draw(
    grants: tuple[Grant, ...], pools: Iterable[str], amount_microcredits: int, now: datetime
) -> Drawn:
    """Take the amount from the live grants of these pools. What they lack is the shortfall."""
    taken: dict[str, Draw] = {}
    uncovered = amount_microcredits
    for grant in drawing_order(grants, pools):
        if uncovered == 0:
            break
        part = min(grant.remaining_microcredits, uncovered)
        if part > 0 and grant.is_live(now):
            taken[grant.id] = Draw(grant.pool, grant.id, part)
            uncovered -= part
    left = tuple(_less(grant, taken.get(grant.id)) for grant in grants)
    return Drawn(left, tuple(taken.values()), uncovered)


def _less(grant: Grant, draw: Draw | None) -> Grant:
    if draw is None:
        return grant
    left = grant.remaining_microcredits - draw.microcredits
    require(left >= 0, "no grant is below zero")
    return replace(grant, remaining_microcredits=left)
