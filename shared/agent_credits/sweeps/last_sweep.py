"""How the last sweep of a kind ended: one row for each kind, which the next one overwrites.

Nothing but `agent-credits status` reads it. What a sweep finds is announced when it is found.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Literal

from msgspec import Struct

SweepName = Literal["reconciliation", "expiring_credits", "balance_reports"]


class LastSweep(Struct, frozen=True):
    """What the steps of a sweep did together.

    `visits`: rows that were left to visits of their own, which may end later. What those found is
    not part of `counts`.
    """

    sweep: SweepName
    day: date
    ended_at: datetime
    rows: int
    visits: int
    counts: Mapping[str, int]
