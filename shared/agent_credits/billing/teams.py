"""Teams, and the rule that says who is billed for a run.

The event's own time decides who pays, by the team's tenures: an append-only history of owner, kind
and policy. A redelivered event is therefore always billed to the same account, even if the owner
changed in between. If today's owner decided, the event would be new to the new owner's account and
would be charged twice.
"""

from datetime import datetime, timedelta
from typing import Final, Literal, Self, assert_never
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.limits import TEAM_LIMITS_MAX, TeamLimit, check_limits, limits_of
from agent_credits.billing.policy import BillingPolicy, BillingRule, TeamKind
from agent_credits.billing.spend_cap import PaymentMethod, Spending
from agent_credits.events.agent_runs import AgentRunEvent, UserTrigger, billed_at
from agent_credits.ledger.accounts import RELOADS_REMEMBERED_MAX
from agent_credits.ledger.limits import Limit
from agent_credits.ledger.reloads import DeclineCause, ReloadTerms
from agent_credits.ledger.reservations import ReservationTerms
from agent_credits.ledger.thresholds import Threshold
from agent_credits.values.identifiers import Currency, Identifier, PoolName
from agent_credits.values.principals import Payer, Principal

# The members of a team that takes every user of the platform.
EVERYONE: Final = "*"

MEMBERS_MAX = 2_000
# Of more who have left, those who left first are forgotten, and their late events are rejected.
FORMER_MEMBERS_MAX = 2_000
TENURES_MAX = 100

# An event that is further ahead of our clock is rejected.
CLOCK_SKEW_MAX = timedelta(minutes=5)
# A worker may bill by settings this old.
SETTINGS_TTL = timedelta(minutes=1)
# A new tenure starts late enough that every worker knows it before it bills an event of that time.
TENURE_NOTICE = 2 * (CLOCK_SKEW_MAX + SETTINGS_TTL)


class Tenure(BaseModel):
    """The team's kind, owner and billing policy from `since` on."""

    # A part of other models; see `Strict`.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    since: AwareDatetime
    kind: TeamKind
    owner: Identifier
    policy_version: Identifier


class AutoReload(BaseModel):
    """When to buy which pack, and how many reloads within a window are too many."""

    # A part of other models; see `Strict`.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    enabled: bool = False
    pool: PoolName = "add_on"
    threshold_microcredits: int = Field(gt=0)
    pack_microcredits: int = Field(gt=0)
    reloads_max: int = Field(default=5, ge=1, le=RELOADS_REMEMBERED_MAX)
    window_minutes: int = Field(default=60, ge=1, le=24 * 60)


class Team(BaseModel):
    """A team's settings row. `members` "*" (enterprise) accepts every user of the platform."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    team_id: Identifier
    version: int = Field(default=0, ge=0)
    plan: Identifier
    time_zone: str
    members: frozenset[Identifier] | Literal["*"]
    # Until when the events of users who were removed still count; of everyone, by `EVERYONE`.
    former_members: tuple[tuple[Identifier, AwareDatetime], ...] = Field(
        default=(), max_length=FORMER_MEMBERS_MAX
    )
    # The defaults are not validated: a validator of their own would be built at each cold start.
    alerts: Alerts = Alerts.model_construct()
    limits: tuple[TeamLimit, ...] = Field(default=(), max_length=TEAM_LIMITS_MAX)
    # Incremented with each change of the settings below, but not of the spending.
    settings_version: int = Field(default=0, ge=0)
    auto_reload: AutoReload | None = None
    payment: PaymentMethod | None = None
    spend_cap_cents: int = Field(default=0, ge=0)
    # Of the cap and of every purchase: one cap cannot add up two currencies.
    currency: Currency = "usd"
    spending: Spending = Spending.model_construct()
    # How many changes have an entry that says who made them.
    audits: int = Field(default=0, ge=0)
    tenures: tuple[Tenure, ...] = Field(min_length=1, max_length=TENURES_MAX)

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is not an IANA time zone") from None
        return name

    @model_validator(mode="after")
    def _tenures_follow_each_other(self) -> Self:
        starts = [tenure.since for tenure in self.tenures]
        if starts != sorted(starts):
            raise ValueError("tenures must be sorted by their start")
        if self.members != "*" and len(self.members) > MEMBERS_MAX:
            raise ValueError(f"a team may list at most {MEMBERS_MAX:,} members")
        check_limits(self.limits)
        return self

    def tenure_at(self, time: datetime) -> Tenure:
        """Return the tenure that bills an event of this time. The first one has no start."""
        started = [tenure for tenure in self.tenures if tenure.since <= time]
        return started[-1] if started else self.tenures[0]

    @property
    def settings_policy_version(self) -> str:
        """Return the policy that the settings were declared with; its tenure may be to come."""
        return self.tenures[-1].policy_version

    def has_member_at(self, user_id: str, time: datetime) -> bool:
        """Tell whether an event of this time may name the user.

        A user who was removed stays a member of the runs of before: what they used is not dropped,
        and an event that was recorded then is recognised whenever it comes again.
        """
        if self.members == EVERYONE or user_id in self.members:
            return True
        return any(who in (user_id, EVERYONE) and time < end for who, end in self.former_members)


class Billing(Struct, frozen=True):
    """Who is billed for an event, from which pools in which order, and under which policy."""

    principal: Principal
    payer: Payer
    pools: tuple[str, ...]
    policy_version: str
    grace: timedelta
    # None if the team does not reload, or not into a pool that this run may draw.
    reload: ReloadTerms | None = None
    # Why the team's row, as last read, rules a reload out. The account's row may hold a decline of
    # its own.
    decline_foreseen: DeclineCause | None = None
    low_thresholds: tuple[Threshold, ...] = ()
    reservation: ReservationTerms = ReservationTerms()
    # Those that hold for the run, in the order in which they refuse.
    limits: tuple[Limit, ...] = ()
    # Whose pools the run may draw after those of the payer.
    lender: Principal | None = None


def bill(event: AgentRunEvent, team: Team, policy: BillingPolicy) -> Billing:
    """Return the billing of an event under the policy of the tenure that pays for it."""
    tenure = team.tenure_at(billed_at(event))
    rule = policy.rule_for(tenure.kind, event.data.trigger.kind)
    pools = rule.pools_in(team.team_id)
    return Billing(
        principal=_payer_principal(rule.payer, event, team.team_id, tenure.owner),
        payer=rule.payer,
        pools=pools,
        policy_version=policy.version,
        grace=timedelta(days=policy.grace_days),
        reload=_reload_terms(team, rule, pools),
        low_thresholds=team.alerts.low,
        reservation=rule.reservation_terms,
        limits=limits_of(event, team.limits, team.time_zone, tenure.kind, policy)
        if team.limits
        else (),
        lender=Principal("team", team.team_id) if pools != rule.pools else None,
    )


def _reload_terms(team: Team, rule: BillingRule, pools: tuple[str, ...]) -> ReloadTerms | None:
    settings = team.auto_reload
    if settings is None or not settings.enabled or settings.pool not in rule.pools:
        return None
    return ReloadTerms(
        team_id=team.team_id,
        settings_version=team.settings_version,
        pools=pools,
        threshold_microcredits=settings.threshold_microcredits,
        reloads_max=settings.reloads_max,
        window=timedelta(minutes=settings.window_minutes),
    )


def _payer_principal(payer: Payer, event: AgentRunEvent, team_id: str, owner: str) -> Principal:
    match payer:
        case "user":
            trigger = event.data.trigger
            if not isinstance(trigger, UserTrigger):
                raise TypeError("the policy lets only a user trigger bill its user")
            return Principal("user", trigger.user_id)
        case "owner":
            return Principal("user", owner)
        case "team":
            return Principal("team", team_id)
        case _:
            assert_never(payer)
