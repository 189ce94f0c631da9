"""The nouns of low credits: a team's thresholds, and what is known of an account below them."""

import re
from typing import Annotated, Literal

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, field_validator

from agent_credits.credits import format_credits, parse_credits
from agent_credits.policy import Payer
from agent_credits.spending import Refused

THRESHOLDS_MAX = 8

_PERCENT = re.compile(r"([1-9][0-9]?|100) ?%", re.ASCII)


class Threshold(Struct, frozen=True):
    """An account with fewer credits is low: so many, or so many per cent of its base.

    The base is what the period's plan refilled; see `low_credits` for accounts without a plan.
    """

    unit: Literal["percent", "microcredits"]
    amount: int

    def microcredits(self, base_microcredits: int) -> int:
        # Rounded up: a balance is whole microcredits, so it is below a fraction of one exactly if
        # it is below the next whole one.
        if self.unit == "percent":
            return -(-base_microcredits * self.amount // 100)
        return self.amount

    def __str__(self) -> str:
        return f"{self.amount}%" if self.unit == "percent" else format_credits(self.amount)


def parse_threshold(value: object) -> Threshold:
    """Read "30%", or credits such as "50"; raises ValueError with a sentence for anything else."""
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


LOW_DEFAULT = (Threshold("percent", 30), Threshold("percent", 10))


class Alerts(BaseModel):
    """What a team is told of before it happens. `low`: thresholds in any order; none is silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: tuple[Annotated[Threshold, PlainValidator(parse_threshold), PlainSerializer(str)], ...] = (
        Field(default=LOW_DEFAULT, max_length=THRESHOLDS_MAX)
    )

    @field_validator("low")
    @classmethod
    def _each_once(cls, low: tuple[Threshold, ...]) -> tuple[Threshold, ...]:
        for number, threshold in enumerate(low):
            if threshold in low[:number]:
                raise ValueError(
                    f"the threshold {threshold} stands there twice; remove one of the two"
                )
        return low


class LowCredits(Struct, frozen=True):
    """The thresholds that an account has fallen through and not recovered from.

    `told`: they were announced, by the commit that made version `told_at_version` if not earlier.
    `held`: they were not, because a reload was about to make them good; its refusal tells them.
    `base_microcredits`: what per cent are of, as it was when the account fell through the first.
    The rest is what the notice needs to know of the run, and of the reload, that stood behind it.
    """

    team_id: str
    payer: Payer
    pools: tuple[str, ...]
    base_microcredits: int
    told: tuple[Threshold, ...] = ()
    held: tuple[Threshold, ...] = ()
    told_at_version: int = 0
    # Why no reload helps, as of then.
    refusal: Refused | None = None

    @property
    def deepest_told(self) -> Threshold:
        return min(self.told, key=lambda t: t.microcredits(self.base_microcredits))
