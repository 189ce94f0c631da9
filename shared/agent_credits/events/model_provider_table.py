"""What a provider's answer means, and where its account is looked after: a table in data.

Import this where it is needed and not before: reading `provider_table.toml`, and the parser for it,
take milliseconds of a cold start, and most functions never meet a provider's error.
"""

import functools
import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from agent_credits.events.model_provider_errors import (
    Classification,
    ErrorName,
    Meaning,
    ModelProviderAnswer,
)

TABLE = Path(__file__).with_name("model_provider_table.toml")
# The entry of the table whose rules come before those of every provider.
ANY_PROVIDER = "*"


class _TableModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_TableModel):
    """Fits an answer that has all that the rule names: any of its names, any of its statuses."""

    means: Meaning
    names: tuple[ErrorName, ...] = ()
    status_codes: tuple[int, ...] = ()
    quota_id_contains: str = ""
    advice: str | None = None

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not (self.names or self.status_codes or self.quota_id_contains):
            raise ValueError("a rule names what it fits")
        return self

    def fits(self, answer: ModelProviderAnswer) -> bool:
        return (
            (not self.names or not set(self.names).isdisjoint(answer.names))
            and (not self.status_codes or answer.status_code in self.status_codes)
            and self.quota_id_contains in (answer.quota_id or "")
        )


class Provider(_TableModel):
    """`title`: as people call it. `pages`: where its account is looked after.

    `source`: where it documents its errors.
    """

    names: tuple[str, ...]
    title: str
    pages: str | None = None
    source: str | None = None
    rules: tuple[Rule, ...]


class _Table(_TableModel):
    providers: tuple[Provider, ...]


@functools.cache
def providers() -> dict[str, Provider]:
    """Return the table by the provider's name."""
    table = _Table.model_validate(tomllib.loads(TABLE.read_text(encoding="utf-8")))
    return {name: provider for provider in table.providers for name in provider.names}


def title_of(provider: str) -> str:
    """Return what people call the provider; one that is not in the table keeps its name."""
    known = providers().get(provider)
    return known.title if known else provider


def pages_of(provider: str) -> str | None:
    """Return where its account is looked after, if the table knows the provider."""
    known = providers().get(provider)
    return known.pages if known else None


def rule_for(provider: str, answer: ModelProviderAnswer) -> Rule | None:
    """Return the first rule that fits, or None where nobody knows what the answer means."""
    known = providers()
    entries = [known[name] for name in (ANY_PROVIDER, provider) if name in known]
    rules = (rule for entry in entries for rule in entry.rules)
    return next((rule for rule in rules if rule.fits(answer)), None)


def classify(provider: str, answer: ModelProviderAnswer) -> Classification:
    rule = rule_for(provider, answer)
    return rule.means if rule else "unclassified"
