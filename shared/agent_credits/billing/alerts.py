"""The alerts that a team sets: below which balances it is warned."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, field_validator

from agent_credits.ledger.thresholds import Threshold, parse_threshold

THRESHOLDS_MAX = 8


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
