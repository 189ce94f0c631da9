"""What a model provider answered when it rejected a call; `model_provider_table` classifies it."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from agent_credits.values.strict import Strict

Meaning = Literal["quota_exhausted", "rate_limited", "overloaded"]
Classification = Literal[Meaning, "unclassified"]

# A model provider as OpenTelemetry names it in `gen_ai.provider.name`: openai, aws.bedrock, x_ai.
ModelProviderName = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*$")
]
# A name from the model provider's own vocabulary. It cannot hold a sentence: a provider's message
# may repeat a prompt or a key, and notices are sent to many people.
ErrorName = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")
]
QuotaId = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:/-]+$")
]
RETRY_AFTER_SECONDS_MAX = 31 * 24 * 60 * 60


class ModelProviderAnswer(Strict):
    """The names in a model provider's error, which tell an empty account from a busy provider.

    `type`, `code`: as in the body (Google's `status` and Bedrock's exception are the type).
    `reason`: a more specific name, such as Google's ErrorInfo. `quota_id`: from Google's
    QuotaFailure.
    """

    status_code: Annotated[int, Field(ge=100, le=599)] | None = None
    type: ErrorName | None = None
    code: ErrorName | None = None
    reason: ErrorName | None = None
    quota_id: QuotaId | None = None
    retry_after_seconds: Annotated[int, Field(ge=0, le=RETRY_AFTER_SECONDS_MAX)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.status_code is None and not self.names:
            raise ValueError("must have a status_code, type, code or reason")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.type, self.code, self.reason) if name is not None)
