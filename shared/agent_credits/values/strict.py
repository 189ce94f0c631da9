"""The model of what comes from outside: it takes exactly the fields and types that it names."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    # Most are parts of a union or of another model, whose validator holds theirs; one of their own
    # is built only for those that are asked for by themselves, and not at each cold start.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)
