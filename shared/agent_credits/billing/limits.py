"""The limits of a team's settings, and which of them hold for a run.

A limit without an `id` holds for each project or each member by itself; one with an `id` replaces
it for that project or member and the same period. Several may hold for one run.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from agent_credits.billing.policy import BillingPolicy, TeamKind
from agent_credits.events.agent_runs import AgentRunEvent, UserTrigger
from agent_credits.ledger.limits import (
    WARN_AT_DEFAULT,
    Limit,
    LimitKey,
    LimitPeriod,
    LimitScope,
)
from agent_credits.values.credits import MICROCREDITS_MAX
from agent_credits.values.identifiers import Identifier

# Every event of the team is compared with each of them.
TEAM_LIMITS_MAX = 100
WARN_AT_MAX = 10
# The first limit that refuses is named: the widest one.
SCOPES: tuple[LimitScope, ...] = ("team", "project", "member", "run")
PERIODS: tuple[LimitPeriod, ...] = ("month", "week", "day", "run")


class TeamLimit(BaseModel):
    """A limit as the team declares it. `raise_until`: it neither stops nor warns before this."""

    # A part of other models; see `Strict`.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    scope: LimitScope
    id: Identifier | None = None
    period: LimitPeriod
    microcredits: int = Field(ge=0, le=MICROCREDITS_MAX)
    action: Literal["stop", "warn"] = "stop"
    warn_at: tuple[int, ...] = Field(default=WARN_AT_DEFAULT, max_length=WARN_AT_MAX)
    raise_until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _says_what_it_limits(self) -> Self:
        if self.scope in ("team", "run") and self.id is not None:
            raise ValueError(f'has scope "{self.scope}", which takes no id')
        if self.scope == "run" and self.period != "run":
            raise ValueError('has scope "run", which goes with period "run"')
        if self.scope == "team" and self.period == "run":
            raise ValueError('limits each run of the team; write scope "run"')
        if sorted(set(self.warn_at)) != list(self.warn_at):
            raise ValueError("must list each percentage of warn_at once, in ascending order")
        if any(not 1 <= percent <= 100 for percent in self.warn_at):
            raise ValueError("warns at percentages from 1 to 100")
        return self

    @property
    def place(self) -> tuple[LimitScope, str | None, LimitPeriod]:
        """Return what it limits; a team declares at most one limit of each."""
        return self.scope, self.id, self.period


def in_order(limits: Iterable[TeamLimit]) -> tuple[TeamLimit, ...]:
    """Return limits in one order, so that declaring them in another order changes nothing."""
    return tuple(
        sorted(limits, key=lambda x: (SCOPES.index(x.scope), PERIODS.index(x.period), x.id or ""))
    )


def check_limits(limits: tuple[TeamLimit, ...]) -> None:
    """Raise ValueError if two of the limits are of the same runs and period."""
    places = [limit.place for limit in limits]
    for scope, limit_id, period in places:
        if places.count((scope, limit_id, period)) > 1:
            whose = f"{scope} {limit_id}" if limit_id else f"each {scope}"
            raise ValueError(f"has two limits of {whose} for the period {period}; remove one")


def limits_of(
    event: AgentRunEvent,
    declared: tuple[TeamLimit, ...],
    time_zone: str,
    kind: TeamKind,
    policy: BillingPolicy,
) -> tuple[Limit, ...]:
    """Return the limits that hold for the event's run, in the order in which they refuse."""
    trigger = event.data.trigger
    ids = {
        "team": event.data.team_id,
        "project": event.data.project_id,
        "member": trigger.user_id if isinstance(trigger, UserTrigger) else None,
        "run": event.subject,
    }
    spanning = scopes_that_span_accounts(kind, policy)
    return tuple(
        Limit(
            key=LimitKey(event.data.team_id, limit.scope, of, limit.period),
            microcredits=limit.microcredits,
            stops=limit.action == "stop",
            warn_at=limit.warn_at,
            time_zone=time_zone,
            lifted_until=limit.raise_until,
            spans_accounts=limit.scope in spanning and limit.period != "run",
        )
        for scope in SCOPES
        if (of := ids[scope]) is not None
        for limit in _of_scope(declared, scope, of)
    )


def _of_scope(declared: tuple[TeamLimit, ...], scope: LimitScope, of: str) -> Iterator[TeamLimit]:
    """Yield what holds for this project, member or team: its own limits, or else those of each."""
    for period in PERIODS:
        matching = [x for x in declared if (x.scope, x.period) == (scope, period)]
        own = next((limit for limit in matching if limit.id == of), None)
        chosen = own or next((limit for limit in matching if limit.id is None), None)
        if chosen is not None:
            yield chosen


def scopes_that_span_accounts(kind: TeamKind, policy: BillingPolicy) -> frozenset[LimitScope]:
    """Return whose runs may be billed to several accounts.

    The runs of one member that the member starts are always billed to one: to the member, to the
    owner or to the team. A run has one account as well.
    """
    payers = {rule.payer for rule in policy.rules if rule.team == kind}
    if payers in ({"team"}, {"owner"}):
        return frozenset()
    return frozenset({"team", "project"})


def declared_for(declared: tuple[TeamLimit, ...], key: LimitKey) -> TeamLimit | None:
    """Return the declared limit that a count belongs to, or None if it was removed."""
    of = "" if key.scope in ("team", "run") else key.id
    found = _of_scope(declared, key.scope, of)
    return next((limit for limit in found if limit.period == key.period), None)


def raised(before: TeamLimit, now_declared: TeamLimit, now: datetime) -> bool:
    """Return whether the second is the same limit with more room, or lifted for a while."""
    lifted = now_declared.raise_until
    is_lifted = lifted is not None and lifted > now and lifted != before.raise_until
    return now_declared.microcredits > before.microcredits or is_lifted
