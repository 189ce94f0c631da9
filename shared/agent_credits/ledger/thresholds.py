"""Low credits: a threshold, and what the row of an account below one remembers."""

import re
from typing import Literal

from msgspec import Struct

from agent_credits.ledger.reloads import DeclineCause
from agent_credits.values.credits import format_credits, parse_credits
from agent_credits.values.principals import Payer

_PERCENT = re.compile(r"([1-9][0-9]?|100) ?%", re.ASCII)


class Threshold(Struct, frozen=True):
    """An account with fewer credits is low. The threshold is in credits or in percent of a base.

    The base is what the plan refilled for the period; `low_credits` covers accounts without a plan.
    """

    unit: Literal["percent", "microcredits"]
    amount: int

    def microcredits(self, base_microcredits: int) -> int:
        # Rounded up: a balance is a whole number of microcredits, so it is below a fraction exactly
        # if it is below the next whole number.
        if self.unit == "percent":
            return -(-base_microcredits * self.amount // 100)
        return self.amount

    def __str__(self) -> str:
        return f"{self.amount}%" if self.unit == "percent" else format_credits(self.amount)


def parse_threshold(value: object) -> Threshold:
    """Read "30%" or credits such as "50"; raises ValueError with a sentence for anything else."""
    if isinstance(value, Threshold):
        return value
    percent = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if percent is not None:
        return Threshold("percent", int(percent[1]))
    try:
        return Threshold("microcredits", parse_credits(value))
    except ValueError as error:
        raise ValueError(
            'a threshold is a share of the plan from "1%" to "100%", or credits such as "50"; '
            f"{value!r} is neither"
        ) from error


class LowCredits(Struct, frozen=True):
    """The thresholds that an account fell below and has not recovered from.

    `notified`: announced, at the latest by the commit that made `notified_at_version`.
    `deferred`: not announced yet, because a reload may help; its decline announces them.
    `base_microcredits`: what percentages are of, as of the first threshold.
    `is_shared`: the pools are those of a team that its members draw behind their own.
    The other fields are what the notice shows of the run and of the reload.
    """

    team_id: str
    payer: Payer
    pools: tuple[str, ...]
    base_microcredits: int
    notified: tuple[Threshold, ...] = ()
    deferred: tuple[Threshold, ...] = ()
    notified_at_version: int = 0
    # Why no reload helped.
    decline: DeclineCause | None = None
    is_shared: bool = False

    @property
    def deepest_notified(self) -> Threshold:
        return min(self.notified, key=lambda t: t.microcredits(self.base_microcredits))
