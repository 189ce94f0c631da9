"""The model of what comes from outside: it takes exactly the fields and types that it names."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
