"""Observations: what is announced although no account changed, each as a row that is put once.

`announce` reads only the change stream, so what no commit shows needs a row of its own. The row is
put only if it does not exist: observing the same thing again, after a crash, on a redelivery or in
a second worker, announces nothing.

To add a kind, add a class to the union, with a `kind` and a `key` that is unique among its kind
forever, and a case to `announcements.notice_of`. During a deployment an older `announce` may read
such a row: it then fails on that record alone until it is replaced.
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
from agent_credits.ledger.grants import TRIAL_POOL, GrantCause
from agent_credits.ledger.limits import LimitPeriod, LimitScope
from agent_credits.values.identifiers import Identifier, PrincipalText, SourceUri
from agent_credits.values.strict import Strict

# Longer than a queue keeps a message (14 days) and an operator takes to redrive it.
KEPT_FOR = timedelta(days=90)


class ModelProviderError(Strict):
    """A model provider rejected a call of a run. No credits move."""

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

        An empty account is announced for every event. A busy model provider is announced once per
        team, project, provider and hour of the event's time, so that fifty runs that back off send
        one notice. An unclassified error may be either and counts like the worse of the two.
        """
        # No part can hold a space, so the space separates them.
        if self.classification in ("quota_exhausted", "unclassified"):
            return " ".join(("event", self.source, self.run_id, self.event_id))
        hour = self.time.astimezone(UTC).strftime("%Y-%m-%dT%H")
        project = (self.project_id,) if self.project_id else ()
        return " ".join((self.classification, self.provider, hour, self.team_id, *project))


class DriftedGrant(Strict):
    """A grant on the row that does not hold what its ledger says."""

    grant_id: str
    pool: str
    expected_microcredits: int
    found_microcredits: int


class DriftFinding(Strict):
    """One contradiction; `grant` is set where balances differ."""

    place: str
    text: str
    grant: DriftedGrant | None = None


class DriftedLimit(Strict):
    """A limit whose row contradicts the accounts that it spans."""

    scope: LimitScope
    id: str
    period: LimitPeriod


class DriftFound(Strict):
    """An account contradicts its ledger, or a limit's row its accounts.

    `findings` are the first of `findings_count`. `limit` is set for a limit, whose principal is its
    team.
    """

    kind: Literal["drift_found"] = "drift_found"
    principal: PrincipalText
    team_id: Identifier | None = None
    day: date
    time: AwareDatetime
    findings: tuple[DriftFinding, ...]
    findings_count: int
    limit: DriftedLimit | None = None

    @property
    def key(self) -> str:
        """Return what makes it count once: the account, the day, and what was found.

        All contradictions of an account are one notice, because one change may contradict hundreds
        of entries. The notice is sent again each day until the account is fixed.
        """
        found = json.dumps([[f.place, f.text] for f in self.findings])
        digest = hashlib.sha256(found.encode()).hexdigest()[:16]
        return f"{self.day} {digest} {self.principal}"


class ExpiringGrant(Strict):
    """A paid or trial grant that still holds credits, and exactly when they expire."""

    grant_id: str
    pool: str
    cause: GrantCause
    remaining_microcredits: int
    expires_at: AwareDatetime

    @property
    def is_trial(self) -> bool:
        return self.pool == TRIAL_POOL


class CreditsExpiring(Strict):
    """Paid and trial credits of an account that expire soon, on one day in UTC."""

    kind: Literal["credits_expiring"] = "credits_expiring"
    principal: PrincipalText
    team_id: Identifier | None = None
    expires_on: date
    time: AwareDatetime
    grants: tuple[ExpiringGrant, ...]

    @property
    def key(self) -> str:
        """Return what makes it count once: the account and the day.

        The grants are not part of the key: if they were, using one up would announce the rest
        again.
        """
        return f"{self.expires_on} {self.principal}"


Observation = Annotated[
    ModelProviderError | DriftFound | CreditsExpiring | BalanceReport, Field(discriminator="kind")
]
_OBSERVATION: TypeAdapter[Observation] = TypeAdapter(Observation)


def observation_to_json(observation: Observation) -> str:
    return observation.model_dump_json(exclude_none=True)


def observation_from_json(text: str) -> Observation:
    """Read an observation; a kind or a field of a newer version raises ValueError."""
    return _OBSERVATION.validate_json(text)


def expires_at(now: datetime) -> datetime:
    """Return when an observation that is put now may be removed."""
    return now + KEPT_FOR
