"""A team's alerts: the balances below which it is notified."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, field_validator

from agent_credits.ledger.thresholds import Threshold, parse_threshold

THRESHOLDS_MAX = 8
LOW_DEFAULT = (Threshold("percent", 30), Threshold("percent", 10))


class Alerts(BaseModel):
    """`low`: the thresholds of `credits_low`, in any order; without any, no notice is sent."""

    # A part of other models; see `Strict`.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    low: tuple[Annotated[Threshold, PlainValidator(parse_threshold), PlainSerializer(str)], ...] = (
        Field(default=LOW_DEFAULT, max_length=THRESHOLDS_MAX)
    )

    @field_validator("low")
    @classmethod
    def _each_once(cls, low: tuple[Threshold, ...]) -> tuple[Threshold, ...]:
        for number, threshold in enumerate(low):
            if threshold in low[:number]:
                raise ValueError(f"the threshold {threshold} is listed twice; remove one of them")
        return low
