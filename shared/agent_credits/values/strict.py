"""The base of models of external input: they accept exactly the fields and types that they name."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    # Most models are parts of another model or of a union, whose validator includes theirs. So a
    # validator of their own is built only on first use, and not at each cold start.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)
