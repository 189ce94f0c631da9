"""A billing policy says who pays for a run and which pools are drawn, in which order.

It is data with a version and not code: products change the order several times a year, and every
entry names the version that decided it. Once applied, a version never changes.
"""

from datetime import timedelta
from functools import cached_property
from itertools import product
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent_credits.ledger.reservations import (
    TTL_DEFAULT,
    TTL_MAX,
    TTL_MIN,
    Overrun,
    ReservationTerms,
)
from agent_credits.ledger.shared_pools import TEAM_POOL_PREFIX, is_shared_pool, pool_of_team
from agent_credits.values.credits import MICROCREDITS_MAX
from agent_credits.values.identifiers import Currency, Identifier, RulePool
from agent_credits.values.principals import Payer, Principal

TeamKind = Literal["self_serve", "enterprise"]
TriggerKind = Literal["user", "team_api_key", "schedule"]

POOLS_PER_RULE_MAX = 16
GRACE_DAYS_DEFAULT = 30

_SECOND = timedelta(seconds=1)


class BillingRule(BaseModel):
    """The payer of a kind of team and these triggers, and the payer's pools in drawing order."""

    # A part of other models; see `Strict`.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    team: TeamKind
    triggers: tuple[TriggerKind, ...] = Field(min_length=1)
    payer: Payer
    # "team:shared" is the pool `shared` of the team's own account, drawn after the payer's pools.
    pools: tuple[RulePool, ...] = Field(min_length=1, max_length=POOLS_PER_RULE_MAX)
    # What a run that is requested puts aside, unless its event says otherwise.
    reserve: Literal["none", "estimate"] = "none"
    # The estimate of a run that gives none; a run that draws past its reservation extends it by as
    # much, as long as there is something to extend by.
    default_estimate_microcredits: int = Field(default=0, ge=0, le=MICROCREDITS_MAX)
    reservation_ttl_seconds: int = Field(
        default=TTL_DEFAULT // _SECOND, ge=TTL_MIN // _SECOND, le=TTL_MAX // _SECOND
    )
    # What the platform is told once a run has used up what it may draw.
    overrun: Overrun = "finish"
    # What such a run may still draw of credits that nobody holds, unless it may finish.
    grace_microcredits: int = Field(default=0, ge=0, le=MICROCREDITS_MAX)

    @model_validator(mode="after")
    def _payer_can_be_named(self) -> Self:
        if self.payer == "user" and self.triggers != ("user",):
            raise ValueError("only a run with trigger `user` has a user who can pay for it")
        if self.payer == "owner" and self.team == "enterprise":
            raise ValueError("the owner of an enterprise team does not pay; use payer `team`")
        if len(set(self.pools)) != len(self.pools):
            raise ValueError("a pool is listed twice; remove one of them")
        shared = [pool for pool in self.pools if is_shared_pool(pool)]
        if shared and self.payer == "team":
            raise ValueError(f"the team pays by itself; write {shared[0].partition(':')[2]!r}")
        if list(self.pools[len(self.pools) - len(shared) :]) != shared:
            raise ValueError("the pools of the team come after those of the payer")
        if self.overrun == "finish" and self.grace_microcredits:
            raise ValueError('grace_credits go with overrun "pause" or "stop"; "finish" has no end')
        return self

    @property
    def lends(self) -> bool:
        """Return whether its runs draw pools of the team behind those of the payer."""
        return is_shared_pool(self.pools[-1])

    def pools_drawn_of(self, principal: Principal) -> tuple[str, ...]:
        """Return the pools of this account that runs may draw by this rule, by their own names."""
        own = () if (self.payer == "team") != (principal.kind == "team") else self.pools
        of_payer = tuple(pool for pool in own if not is_shared_pool(pool))
        if principal.kind == "user":
            return of_payer
        lent = (pool for pool in self.pools if is_shared_pool(pool))
        return (*of_payer, *(pool.removeprefix(TEAM_POOL_PREFIX) for pool in lent))

    def pools_in(self, team_id: str) -> tuple[str, ...]:
        """Return the pools of a run of this team, those of the team by their full names."""
        if not self.lends:
            return self.pools
        return tuple(
            pool_of_team(team_id, pool.removeprefix(TEAM_POOL_PREFIX))
            if is_shared_pool(pool)
            else pool
            for pool in self.pools
        )

    # Cached, because every event is billed by a rule, and rules never change.
    @cached_property
    def reservation_terms(self) -> ReservationTerms:
        return ReservationTerms(
            reserves=self.reserve == "estimate",
            step_microcredits=self.default_estimate_microcredits,
            ttl=timedelta(seconds=self.reservation_ttl_seconds),
            overrun=self.overrun,
            grace_microcredits=self.grace_microcredits,
        )


class Pack(BaseModel):
    """A pack of add-on credits for sale: its credits and its price."""

    # A part of other models; see `Strict`.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    microcredits: int = Field(gt=0)
    price_cents: int = Field(gt=0)
    currency: Currency


class BillingPolicy(BaseModel):
    """The rules of one version. Exactly one rule applies to each kind of team and trigger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Identifier
    # Credits that are returned to a grant that has expired since can be drawn for this many days.
    grace_days: int = Field(default=GRACE_DAYS_DEFAULT, ge=1, le=366)
    rules: tuple[BillingRule, ...]
    packs: tuple[Pack, ...] = ()

    @model_validator(mode="after")
    def _every_run_has_one_rule(self) -> Self:
        for team, trigger in product(get_args(TeamKind), get_args(TriggerKind)):
            matching = [r for r in self.rules if r.team == team and trigger in r.triggers]
            if len(matching) != 1:
                raise ValueError(
                    f"{len(matching)} rules answer for trigger {trigger!r} of a {team} team; "
                    "there must be exactly one"
                )
        return self

    def rule_for(self, team: TeamKind, trigger: TriggerKind) -> BillingRule:
        return next(r for r in self.rules if r.team == team and trigger in r.triggers)

    def pack_of(self, microcredits: int, currency: str) -> Pack | None:
        wanted = (microcredits, currency)
        return next((p for p in self.packs if (p.microcredits, p.currency) == wanted), None)
