"""What a file declares for `agent-credits apply`: policy, plans, teams and grants."""

from collections import Counter
from datetime import date
from functools import cached_property
from typing import Annotated, ClassVar, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.limits import TEAM_LIMITS_MAX, TeamLimit, in_order
from agent_credits.billing.policy import BillingPolicy, BillingRule, Pack, TeamKind
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.billing.teams import MEMBERS_MAX, AutoReload
from agent_credits.ledger.grants import RESERVED_PREFIXES
from agent_credits.values.credits import parse_credits
from agent_credits.values.identifiers import Currency, Identifier, PoolName, PrincipalText
from agent_credits.values.principals import Principal

EVERYONE: Final = "*"

GRANT_DAYS_MAX: Final = 3_660


def reserved_prefix(grant_id: str) -> str | None:
    """Return the reserved prefix that the id begins with, if any."""
    return next((prefix for prefix in RESERVED_PREFIXES if grant_id.startswith(prefix)), None)


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            'is not an IANA time zone known to this machine; write one like "Europe/Berlin"'
        ) from None
    return name


def _listed(members: object) -> object:
    if members == EVERYONE:
        return (EVERYONE,)
    return tuple(members) if isinstance(members, list) else members


def _everyone_stands_alone(members: tuple[str, ...]) -> tuple[str, ...]:
    if EVERYONE in members and len(members) > 1:
        raise ValueError('"*" includes everyone; list users or write "*", not both')
    repeated = [member for member, times in Counter(members).items() if times > 1]
    if repeated:
        raise ValueError(f"lists {repeated[0]} twice; list each user once")
    if len(members) > MEMBERS_MAX:
        raise ValueError(f"a team has at most {MEMBERS_MAX} listed members; split the team")
    return members


def _credits_or_none(value: object) -> int:
    return 0 if value in ("0", 0) else parse_credits(value)


TimeZone = Annotated[str, AfterValidator(_time_zone)]
Credits = Annotated[int, BeforeValidator(parse_credits)]
Members = Annotated[
    tuple[Identifier, ...], BeforeValidator(_listed), AfterValidator(_everyone_stands_alone)
]
CreditsOrNone = Annotated[int, BeforeValidator(_credits_or_none)]


class Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeclaredPack(Pack):
    """A pack on sale, its credits as a decimal string."""

    microcredits: Credits = Field(alias="credits")


class DeclaredRule(BillingRule):
    """A rule, its estimate and its grace as decimal strings of credits."""

    default_estimate_microcredits: CreditsOrNone = Field(default=0, alias="default_estimate")
    grace_microcredits: CreditsOrNone = Field(default=0, alias="grace_credits")


class DeclaredPolicy(BillingPolicy):
    rules: tuple[DeclaredRule, ...]
    packs: tuple[DeclaredPack, ...] = ()


class Plan(Declared):
    """The credits that a plan puts into its pool each period; for an enterprise they may be 0."""

    name: Identifier
    kind: TeamKind
    pool: PoolName = "plan"
    microcredits: CreditsOrNone = Field(default=0, alias="credits")


class DeclaredAutoReload(AutoReload):
    """The balance below which a pack is bought, and the pack, in credits; off unless enabled."""

    threshold_microcredits: Credits = Field(alias="threshold")
    pack_microcredits: Credits = Field(alias="pack")


class DeclaredLimit(TeamLimit):
    """A limit of the team's runs; without an `id`, of each project or member by itself."""

    microcredits: CreditsOrNone = Field(alias="credits")


class DeclaredTeam(Declared):
    """`anchor` is the day on which the plan periods of the team's accounts begin.

    Without a spend cap nothing can be purchased, by hand or by auto-reload. `policy` is one of
    [[policies]] that bills the team instead of [policy]; its runs of before `policy_from` are still
    billed by [policy].
    """

    team_id: Identifier
    kind: TeamKind
    plan: Identifier
    owner: Identifier
    members: Members
    time_zone: TimeZone
    anchor: date
    policy: Identifier | None = None
    policy_from: AwareDatetime | None = None
    spend_cap_cents: int = Field(default=0, ge=0)
    currency: Currency = "usd"
    declared_auto_reload: DeclaredAutoReload | None = Field(default=None, alias="auto_reload")
    payment: PaymentMethod | None = None
    alerts: Alerts = Alerts()
    declared_limits: tuple[DeclaredLimit, ...] = Field(
        default=(), alias="limits", max_length=TEAM_LIMITS_MAX
    )

    @property
    def limits(self) -> tuple[TeamLimit, ...]:
        """Return the limits in one order, so that another order in the file changes nothing."""
        limits = (TeamLimit.model_validate(limit.model_dump()) for limit in self.declared_limits)
        return in_order(limits)

    @property
    def auto_reload(self) -> AutoReload | None:
        declared = self.declared_auto_reload
        return AutoReload.model_validate(declared.model_dump()) if declared else None

    @property
    def takes_everyone(self) -> bool:
        return EVERYONE in self.members

    @property
    def member_set(self) -> frozenset[str] | Literal["*"]:
        return "*" if self.takes_everyone else frozenset(self.members)


class DeclaredGrant(Declared):
    """Credits given once. `expires_in_days` counts from when the grant is applied."""

    principal: PrincipalText
    id: Identifier
    pool: PoolName
    microcredits: Credits = Field(alias="credits")
    cause: Literal["purchase", "gift", "contract"]
    expires_at: AwareDatetime | None = None
    expires_in_days: int | None = Field(default=None, ge=1, le=GRANT_DAYS_MAX)


class World(Declared):
    declared_policy: DeclaredPolicy = Field(alias="policy")
    declared_policies: tuple[DeclaredPolicy, ...] = Field(default=(), alias="policies")
    plans: tuple[Plan, ...]
    teams: tuple[DeclaredTeam, ...]
    grants: tuple[DeclaredGrant, ...] = ()

    # Tables for the demo: what to send to this world and what to expect. They are not applied.
    ignored_keys: ClassVar[frozenset[str]] = frozenset({"cards", "samples", "balances"})

    @cached_property
    def policy(self) -> BillingPolicy:
        return BillingPolicy.model_validate(self.declared_policy.model_dump())

    @cached_property
    def policies(self) -> dict[str, BillingPolicy]:
        """Return [policy] and those that bill some teams instead, by version."""
        others = (BillingPolicy.model_validate(p.model_dump()) for p in self.declared_policies)
        return {policy.version: policy for policy in (self.policy, *others)}

    def policy_of(self, team: DeclaredTeam) -> BillingPolicy:
        """Return the policy that bills the team, in the end."""
        return self.policies.get(team.policy or "", self.policy)

    def plan_of(self, team: DeclaredTeam) -> Plan:
        return next(plan for plan in self.plans if plan.name == team.plan)

    def rules_of(self, kind: TeamKind) -> list[BillingRule]:
        return [rule for p in self.policies.values() for rule in p.rules if rule.team == kind]

    def rules_for(self, team: DeclaredTeam) -> list[BillingRule]:
        """Return the rules that bill runs of the team, before another policy begins and after."""
        before = [self.policy] if team.policy_from is not None else []
        policies = {policy.version: policy for policy in (*before, self.policy_of(team))}
        return [rule for p in policies.values() for rule in p.rules if rule.team == team.kind]

    def payers_of(self, team: DeclaredTeam) -> list[Principal]:
        """Return everyone who pays for runs of the team under the policy; each has an account.

        The plan refills these accounts: every member of a self-serve team, and an enterprise team
        itself, unless the policy says otherwise.
        """
        payers: dict[Principal, None] = {}
        for rule in self.rules_for(team):
            match rule.payer:
                case "user":
                    payers.update((Principal("user", m), None) for m in team.members)
                case "owner":
                    payers[Principal("user", team.owner)] = None
                case "team":
                    payers[Principal("team", team.team_id)] = None
        return list(payers)

    def team_of_accounts(self) -> dict[Principal, DeclaredTeam]:
        """Return every account that the file declares, with its team."""
        refilled = {payer: team for team in self.teams for payer in self.payers_of(team)}
        return self.lenders() | refilled

    def lenders(self) -> dict[Principal, DeclaredTeam]:
        """Return the accounts of teams whose pools their members draw; no plan refills these."""
        return {
            Principal("team", team.team_id): team
            for team in self.teams
            if any(rule.lends for rule in self.rules_for(team))
            and not any(rule.payer == "team" for rule in self.rules_for(team))
        }

    def pools_of(self, principal: Principal, team: DeclaredTeam) -> set[str]:
        """Return the pools of this account that runs of the team may draw."""
        return {pool for rule in self.rules_for(team) for pool in rule.pools_drawn_of(principal)}
