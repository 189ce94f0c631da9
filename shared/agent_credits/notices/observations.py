"""What is to be announced though no account changed: a record of it, put once.

Announcing reads the change stream and nothing else, so what no commit tells has to become a row of
its own. The row is put only if it is not there; whoever observes the same thing again, after a
crash, on a redelivery or in a second worker, announces nothing anew.

A further kind is a further class in the union, with a `kind` and a `key` that tells it from every
other of its kind for ever; its notice is a further case in `announcements.notice_of`. During a
deployment an older `announce` may meet it: it then fails on that record alone until it is replaced.
"""

import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from agent_credits.billing.balance_reports import BalanceReport
from agent_credits.events.model_provider_errors import (
    Classification,
    ModelProviderAnswer,
    ModelProviderName,
)
from agent_credits.ledger.grants import GrantCause
from agent_credits.values.identifiers import Identifier, PrincipalText, SourceUri
from agent_credits.values.strict import Strict

# Longer than any queue keeps a message (fourteen days) and than an operator takes to redrive one.
KEPT_FOR = timedelta(days=90)


class ModelProviderError(Strict):
    """A model provider refused a call of a run. No credits move."""

    kind: Literal["model_provider_error"] = "model_provider_error"
    principal: PrincipalText
    team_id: Identifier
    project_id: Identifier | None = None
    run_id: Identifier
    source: SourceUri
    event_id: Identifier
    time: AwareDatetime
    traceparent: Identifier | None = None
    provider: ModelProviderName
    model: Identifier | None = None
    answer: ModelProviderAnswer
    classification: Classification

    @property
    def key(self) -> str:
        """Return what makes it count once.

        An empty account is told for every event, at once. That a provider is busy is told once per
        team, project, provider and hour of the event's time: fifty runs that back off are one
        notice. What nobody could classify may be either, so it counts like the worse of the two.
        """
        # None of the parts can hold a space.
        if self.classification in ("quota_exhausted", "unclassified"):
            return " ".join(("event", self.source, self.run_id, self.event_id))
        hour = self.time.astimezone(UTC).strftime("%Y-%m-%dT%H")
        project = (self.project_id,) if self.project_id else ()
        return " ".join((self.classification, self.provider, hour, self.team_id, *project))


class DriftedGrant(Strict):
    """A grant of the row that does not hold what its ledger leaves of it."""

    grant_id: str
    pool: str
    expected_microcredits: int
    found_microcredits: int


class DriftFinding(Strict):
    """One contradiction; `grant` where it is one of balances."""

    place: str
    text: str
    grant: DriftedGrant | None = None


class DriftFound(Strict):
    """An account contradicts its ledger. `findings` are the first of `findings_count`."""

    kind: Literal["drift_found"] = "drift_found"
    principal: PrincipalText
    team_id: Identifier | None = None
    day: date
    time: AwareDatetime
    findings: tuple[DriftFinding, ...]
    findings_count: int

    @property
    def key(self) -> str:
        """Return what makes it count once: the account, the day, and what was found.

        All contradictions of an account come in one notice, for what was tampered with once may
        contradict a hundred entries; and again each day, until it is mended.
        """
        found = json.dumps([[f.place, f.text] for f in self.findings])
        digest = hashlib.sha256(found.encode()).hexdigest()[:16]
        return f"{self.day} {digest} {self.principal}"


class ExpiringGrant(Strict):
    """A paid grant that still holds credits, and when exactly they expire."""

    grant_id: str
    pool: str
    cause: GrantCause
    remaining_microcredits: int
    expires_at: AwareDatetime


class CreditsExpiring(Strict):
    """Paid credits of an account that expire on one day, of UTC, soon."""

    kind: Literal["credits_expiring"] = "credits_expiring"
    principal: PrincipalText
    team_id: Identifier | None = None
    expires_on: date
    time: AwareDatetime
    grants: tuple[ExpiringGrant, ...]

    @property
    def key(self) -> str:
        """Return what makes it count once: the account and the day.

        Not the grants: one that is used up meanwhile would make the rest a notice of its own.
        """
        return f"{self.expires_on} {self.principal}"


Observation = Annotated[
    ModelProviderError | DriftFound | CreditsExpiring | BalanceReport, Field(discriminator="kind")
]
_OBSERVATION: TypeAdapter[Observation] = TypeAdapter(Observation)


def observation_to_json(observation: Observation) -> str:
    return observation.model_dump_json(exclude_none=True)


def observation_from_json(text: str) -> Observation:
    """Read an observation; a kind or a field of a younger version raises ValueError."""
    return _OBSERVATION.validate_json(text)


def expires_at(now: datetime) -> datetime:
    """Return when an observation put now may be forgotten."""
    return now + KEPT_FOR
