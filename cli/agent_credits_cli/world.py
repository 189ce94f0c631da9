"""The world that a file declares: policy, plans, teams and grants, and samples that try them out.

`apply` takes the first four, `make demo` and the tests the rest. Reading is strict, because the
file hands out credits: what is not understood, or names what is not there, is rejected as a whole
before anything is changed, with the place in the file and what to do there.
"""

import json
import tomllib
from collections import Counter
from collections.abc import Iterator
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pydantic
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.policy import BillingPolicy, BillingRule, Pack, TeamKind
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.billing.teams import MEMBERS_MAX, AutoReload
from agent_credits.ledger.grants import GRANTS_MAX, RESERVED_PREFIXES
from agent_credits.values.credits import format_credits, parse_credits
from agent_credits.values.identifiers import Identifier, PoolName, PrincipalText
from agent_credits.values.principals import Principal
from agent_credits_cli.errors import CommandError

EVERYONE: Final = "*"

GRANT_DAYS_MAX: Final = 3_660


def reserved_prefix(grant_id: str) -> str | None:
    """Return the beginning of the id that the system keeps for itself, if it begins so."""
    return next((prefix for prefix in RESERVED_PREFIXES if grant_id.startswith(prefix)), None)


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            'names no IANA time zone of this machine; write one like "Europe/Berlin"'
        ) from None
    return name


def _listed(members: object) -> object:
    if members == EVERYONE:
        return (EVERYONE,)
    return tuple(members) if isinstance(members, list) else members


def _everyone_stands_alone(members: tuple[str, ...]) -> tuple[str, ...]:
    if EVERYONE in members and len(members) > 1:
        raise ValueError('"*" takes everyone; list users or write "*", not both')
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


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeclaredPack(Pack):
    """A pack on sale, its credits as a decimal string."""

    microcredits: Credits = Field(alias="credits")


class DeclaredPolicy(BillingPolicy):
    packs: tuple[DeclaredPack, ...] = ()


class Plan(_Declared):
    """What a plan puts into its pool each period; an enterprise plan may put nothing."""

    name: Identifier
    kind: TeamKind
    pool: PoolName = "plan"
    microcredits: CreditsOrNone = Field(default=0, alias="credits")


class DeclaredAutoReload(AutoReload):
    """Below which balance to buy which pack, both in credits; off unless it is enabled."""

    threshold_microcredits: Credits = Field(alias="threshold")
    pack_microcredits: Credits = Field(alias="pack")


class DeclaredTeam(_Declared):
    """`anchor` is the day on which the plan periods of the team's accounts begin.

    Without a spend cap nothing can be purchased, by hand or by reloading.
    """

    team_id: Identifier
    kind: TeamKind
    plan: Identifier
    owner: Identifier
    members: Members
    time_zone: TimeZone
    anchor: date
    spend_cap_cents: int = Field(default=0, ge=0)
    declared_auto_reload: DeclaredAutoReload | None = Field(default=None, alias="auto_reload")
    payment: PaymentMethod | None = None
    alerts: Alerts = Alerts()

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


class DeclaredGrant(_Declared):
    """Credits given once. `expires_in_days` counts from the day on which it is applied."""

    principal: PrincipalText
    id: Identifier
    pool: PoolName
    microcredits: Credits = Field(alias="credits")
    cause: Literal["purchase", "gift", "contract"]
    expires_at: AwareDatetime | None = None
    expires_in_days: int | None = Field(default=None, ge=1, le=GRANT_DAYS_MAX)


class DeclaredCard(_Declared):
    """A test card to attach as a team's payment method where the provider is the stand-in."""

    team_id: Identifier
    number: str = Field(pattern=r"^[0-9]{12,19}$")


ExpectedOutcome = Literal[
    "accepted",
    "debited",
    "insufficient",
    "waived",
    "finished",
    "returned",
    "already_recorded",
    "conflicting",
    "rejected",
    "observed",
]


class ExpectedEvent(_Declared):
    """What is to come of one event. `event` is left out where the message has no readable id.

    `draws` are credits per pool, in drawing order: taken, or given back where the outcome is
    `returned`. `code` says why the event is rejected.
    """

    outcome: ExpectedOutcome
    event: Identifier | None = None
    principal: PrincipalText | None = None
    draws: dict[PoolName, Credits] = Field(default_factory=dict)
    shortfall_microcredits: CreditsOrNone = Field(default=0, alias="shortfall")
    code: Literal["malformed", "unknown_team", "unknown_user", "from_the_future"] | None = None


class ExpectedNotice(_Declared):
    type: Identifier
    run: Identifier


class Sample(_Declared):
    """Files that are sent, each as one message, once the samples it comes `after` are done.

    Samples that do not wait for each other may be sent together, in any order.
    """

    name: str = Field(min_length=1)
    shows: str = Field(min_length=1)
    files: tuple[str, ...] = Field(min_length=1)
    after: tuple[str, ...] = ()
    expect: tuple[ExpectedEvent, ...] = Field(min_length=1)
    dead_letter: bool = False
    notices: tuple[ExpectedNotice, ...] = ()


class ExpectedBalance(_Declared):
    """What the pools of an account hold after all samples; a pool left out holds nothing."""

    principal: PrincipalText
    pools: dict[PoolName, CreditsOrNone]


class World(_Declared):
    declared_policy: DeclaredPolicy = Field(alias="policy")
    plans: tuple[Plan, ...]
    teams: tuple[DeclaredTeam, ...]
    grants: tuple[DeclaredGrant, ...] = ()
    cards: tuple[DeclaredCard, ...] = ()
    samples: tuple[Sample, ...] = ()
    balances: tuple[ExpectedBalance, ...] = ()

    @cached_property
    def policy(self) -> BillingPolicy:
        return BillingPolicy.model_validate(self.declared_policy.model_dump())

    def plan_of(self, team: DeclaredTeam) -> Plan:
        return next(plan for plan in self.plans if plan.name == team.plan)

    def rules_of(self, kind: TeamKind) -> list[BillingRule]:
        return [rule for rule in self.policy.rules if rule.team == kind]

    def payers_of(self, team: DeclaredTeam) -> list[Principal]:
        """Return whoever the policy lets pay for a run of the team; each has an account.

        The plan refills these accounts: every member of a self-serve team, and the team itself
        where it is an enterprise, unless the policy says otherwise.
        """
        payers: dict[Principal, None] = {}
        for rule in self.rules_of(team.kind):
            match rule.payer:
                case "user":
                    payers.update((Principal("user", m), None) for m in team.members)
                case "owner":
                    payers[Principal("user", team.owner)] = None
                case "team":
                    payers[Principal("team", team.team_id)] = None
        return list(payers)

    def team_of_accounts(self) -> dict[Principal, DeclaredTeam]:
        """Return every account that the file declares, and the team whose plan it has."""
        return {payer: team for team in self.teams for payer in self.payers_of(team)}

    def pools_of(self, principal: Principal, kind: TeamKind) -> set[str]:
        """Return the pools that a rule may draw when this principal pays."""
        own = ("team",) if principal.kind == "team" else ("user", "owner")
        return {p for rule in self.rules_of(kind) if rule.payer in own for p in rule.pools}


def load_world(path: Path) -> World:
    """Read and check the file. Raises `CommandError` with one line that names file and place."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}); name a TOML file") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"{path} is not TOML: {error}; correct it there") from error
    try:
        # By way of JSON, where the strict mode takes an array for a tuple and a string for a date.
        world = World.model_validate_json(json.dumps(document, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise CommandError(f"{path}: {_first_error(error)}") from error
    for place, complaint in _complaints(world):
        raise CommandError(f"{path}: {place}: {complaint}")
    return world


def _first_error(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{' '.join(part.split())}"
        for part in first["loc"]
    ).removeprefix(".")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {_advice(first)}{more}"


def _advice(error: Any) -> str:
    match error["type"]:
        case "missing":
            return "is missing; add it"
        case "extra_forbidden":
            return "is no key that is known here; remove it or correct its spelling"
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            return f"{error['msg']}; correct the value"


Complaints = Iterator[tuple[str, str]]


def _complaints(world: World) -> Complaints:
    """Yield what is wrong between the parts of the file, each with its place."""
    yield from _repeated("plans", "name", [plan.name for plan in world.plans])
    yield from _repeated("teams", "team_id", [team.team_id for team in world.teams])
    yield from _repeated("grants", "id", [f"{g.principal} {g.id}" for g in world.grants])
    yield from _repeated("cards", "team_id", [card.team_id for card in world.cards])
    yield from _repeated("samples", "name", [sample.name for sample in world.samples])
    yield from _repeated("balances", "principal", [str(b.principal) for b in world.balances])
    yield from _about_packs(world)
    for number, plan in enumerate(world.plans):
        yield from _about_plan(world, plan, f"plans[{number}]")
    for number, team in enumerate(world.teams):
        yield from _about_team(world, team, f"teams[{number}]")
        yield from _about_payment(team, f"teams[{number}]")
        yield from _about_auto_reload(world, team, f"teams[{number}]")
    yield from _about_cards(world)
    yield from _billed_for_two_teams(world)
    yield from _about_grants(world)
    yield from _about_samples(world)


def _repeated(tables: str, key: str, names: list[str]) -> Complaints:
    for number, name in enumerate(names):
        if name in names[:number]:
            yield f"{tables}[{number}].{key}", f"{name} is declared twice; remove one of the two"


def _about_packs(world: World) -> Complaints:
    packs = world.policy.packs
    sizes = [f"the pack of {format_credits(pack.microcredits)}" for pack in packs]
    yield from _repeated("policy.packs", "credits", sizes)
    for number, pack in enumerate(packs):
        if pack.currency != packs[0].currency:
            yield (
                f"policy.packs[{number}].currency",
                f"a spend cap counts one currency; write {packs[0].currency}, as in the first",
            )


def _about_plan(world: World, plan: Plan, place: str) -> Complaints:
    drawn = {pool for rule in world.rules_of(plan.kind) for pool in rule.pools}
    if plan.microcredits == 0 and plan.kind == "self_serve":
        yield f"{place}.credits", f"plan {plan.name} refills nothing; give it credits"
    if plan.microcredits > 0 and plan.pool not in drawn:
        yield f"{place}.pool", _unknown("pool", plan.pool, drawn, "that the policy draws")


def _about_team(world: World, team: DeclaredTeam, place: str) -> Complaints:
    plans = {plan.name for plan in world.plans if plan.kind == team.kind}
    if team.plan not in plans:
        yield f"{place}.plan", _unknown("plan", team.plan, plans, f"for {team.kind} teams")
    if not team.takes_everyone and team.owner not in team.members:
        yield f"{place}.owner", f"{team.owner} is not a member; add {team.owner} to the members"
    users_pay = any(rule.payer != "team" for rule in world.rules_of(team.kind))
    if team.takes_everyone and users_pay:
        yield (
            f"{place}.members",
            'users of this team pay for runs and need accounts; list them instead of "*"',
        )


def _about_payment(team: DeclaredTeam, place: str) -> Complaints:
    match team.payment:
        case PaymentMethod(provider="invoice", customer=None, payment_method=None):
            pass
        case PaymentMethod(provider="invoice"):
            yield f"{place}.payment", "an invoice names no card; remove customer and payment_method"
        case _:
            pass


def _about_auto_reload(world: World, team: DeclaredTeam, place: str) -> Complaints:
    settings = team.auto_reload
    if settings is None:
        return
    if world.policy.pack_of(settings.pack_microcredits, "usd") is None:
        sizes = ", ".join(format_credits(pack.microcredits) for pack in world.policy.packs)
        yield (
            f"{place}.auto_reload.pack",
            f"there is no pack of {format_credits(settings.pack_microcredits)} credits; "
            + (f"the policy's are {sizes}" if sizes else "declare it under [[policy.packs]]"),
        )
    drawn = {pool for rule in world.rules_of(team.kind) for pool in rule.pools}
    if settings.pool not in drawn:
        whose = f"that the policy draws for {team.kind} teams"
        yield f"{place}.auto_reload.pool", _unknown("pool", settings.pool, drawn, whose)
    if settings.enabled and team.spend_cap_cents == 0:
        yield f"{place}.spend_cap_cents", "auto_reload needs a spend cap; write one above 0"
    if settings.enabled and team.payment is None:
        yield f"{place}.payment", "auto_reload needs a way to pay; add [teams.payment]"


def _about_cards(world: World) -> Complaints:
    team_ids = {team.team_id for team in world.teams}
    for number, card in enumerate(world.cards):
        if card.team_id not in team_ids:
            yield f"cards[{number}].team_id", _unknown("team", card.team_id, team_ids, "declared")


def _billed_for_two_teams(world: World) -> Complaints:
    team_of: dict[Principal, str] = {}
    for number, team in enumerate(world.teams):
        for payer in world.payers_of(team):
            other = team_of.setdefault(payer, team.team_id)
            if other != team.team_id:
                complaint = (
                    f"{payer.id} is already a member of {other}, and the plan of an account comes "
                    "from one team; remove one of the two memberships"
                )
                yield f"teams[{number}].members", complaint


def _about_grants(world: World) -> Complaints:
    team_of = world.team_of_accounts()
    declared: Counter[Principal] = Counter()
    for number, grant in enumerate(world.grants):
        place = f"grants[{number}]"
        declared[grant.principal] += 1
        if declared[grant.principal] > GRANTS_MAX:
            yield (
                f"{place}.principal",
                f"{grant.principal} has more than {GRANTS_MAX} grants; merge some of them",
            )
        if grant.principal not in team_of:
            yield f"{place}.principal", _no_account(grant.principal)
            continue
        pools = world.pools_of(grant.principal, team_of[grant.principal].kind)
        if grant.pool not in pools:
            whose = f"that the policy draws when {grant.principal} pays"
            yield f"{place}.pool", _unknown("pool", grant.pool, pools, whose)
        prefix = reserved_prefix(grant.id)
        if prefix is not None:
            yield f"{place}.id", f"ids that begin with {prefix!r} are reserved; choose another id"
        if grant.expires_at is not None and grant.expires_in_days is not None:
            yield f"{place}.expires_in_days", "stands beside expires_at; keep one of the two"


def _about_samples(world: World) -> Complaints:
    earlier: set[str] = set()
    for number, sample in enumerate(world.samples):
        for name in sample.after:
            if name not in earlier:
                yield (
                    f"samples[{number}].after",
                    f"{name!r} names no sample above this one; put that one first",
                )
        for place, event in enumerate(sample.expect):
            if (event.outcome == "rejected") != (event.code is not None):
                yield (
                    f"samples[{number}].expect[{place}].code",
                    "goes with the outcome rejected, and only with it; add or remove it",
                )
        earlier.add(sample.name)
    team_of = world.team_of_accounts()
    for number, balance in enumerate(world.balances):
        if balance.principal not in team_of:
            yield f"balances[{number}].principal", _no_account(balance.principal)


def _no_account(principal: Principal) -> str:
    if principal.kind == "user":
        return f"{principal.id} is a member of no team whose users pay; add the user to a team"
    return f"{principal.id} is no team that pays for its runs; declare it under [[teams]]"


def _unknown(noun: str, name: str, known: set[str], whose: str) -> str:
    choice = f"the ones {whose} are {', '.join(sorted(known))}" if known else f"none {whose}"
    return f"there is no {noun} {name}; {choice}"
