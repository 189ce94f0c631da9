"""The types of the API's fields: credits are decimal strings, times are RFC 3339 in UTC."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

from agent_credits.events.agent_runs import Time
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits, parse_credits, parse_usage

_DECIMAL: Final = {
    "type": "string",
    "pattern": r"^-?(0|[1-9][0-9]*)(\.[0-9]{1,6})?$",
    "examples": ["12.5"],
}
_CREDITS_IN: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string", "pattern": r"^(0|[1-9][0-9]{0,9})(\.[0-9]{1,6})?$"},
        {"type": "integer", "minimum": 0, "maximum": 1_000_000_000},
    ],
    "examples": ["12.5"],
}

# What a caller sends; in the code, microcredits.
EstimateIn = Annotated[int, BeforeValidator(parse_usage), WithJsonSchema(_CREDITS_IN)]
CreditsIn = Annotated[int, BeforeValidator(parse_credits), WithJsonSchema(_CREDITS_IN)]
TimeIn = Annotated[Time, WithJsonSchema({"type": "string", "format": "date-time"})]

# What is answered.
Credits = Annotated[int, PlainSerializer(format_credits, return_type=str), WithJsonSchema(_DECIMAL)]
TimeOut = Annotated[
    datetime,
    PlainSerializer(iso, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class Answer(BaseModel):
    """The base of what the API answers; it is built by this code alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
