"""What a model provider's answer means, and where its account is managed: a table in data.

Import this module where it is used and not at the top of a file: reading the table and loading its
parser take milliseconds of a cold start, and most functions never meet such an error.
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
# The entry of the table whose rules are tried before those of every model provider.
ANY_PROVIDER = "*"


class _TableModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_TableModel):
    """Fits an answer that meets every condition of the rule: one of its names, its statuses."""

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
    """`title`: the name for people. `pages`: where its account is managed.

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
    """Return the table by the model provider's name."""
    table = _Table.model_validate(tomllib.loads(TABLE.read_text(encoding="utf-8")))
    return {name: provider for provider in table.providers for name in provider.names}


def title_of(provider: str) -> str:
    """Return the model provider's name for people, or its own if the table does not know it."""
    known = providers().get(provider)
    return known.title if known else provider


def pages_of(provider: str) -> str | None:
    """Return where the provider's account is managed, if the table knows the provider."""
    known = providers().get(provider)
    return known.pages if known else None


def rule_for(provider: str, answer: ModelProviderAnswer) -> Rule | None:
    """Return the first rule that fits, or None if the answer's meaning is unknown."""
    known = providers()
    entries = [known[name] for name in (ANY_PROVIDER, provider) if name in known]
    rules = (rule for entry in entries for rule in entry.rules)
    return next((rule for rule in rules if rule.fits(answer)), None)


def classify(provider: str, answer: ModelProviderAnswer) -> Classification:
    rule = rule_for(provider, answer)
    return rule.means if rule else "unclassified"
