"""Reading the file that declares a world.

Reading is strict, because the file grants credits: a file with an unknown key, or with a name that
it does not declare, is rejected as a whole before anything is changed. The error names the place in
the file and what to do there.
"""

import json
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from agent_credits.billing.policy import BillingRule
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.ledger.grants import GRANTS_MAX
from agent_credits.ledger.shared_pools import is_shared_pool
from agent_credits.values.display import amount_text, credits_text
from agent_credits.values.principals import Principal
from agent_credits_cli.errors import CommandError
from agent_credits_cli.limit_settings import place_text
from agent_credits_cli.world import DeclaredPolicy, DeclaredTeam, Plan, World, reserved_prefix

_UNKNOWN_KEY = "is not a known key; remove it or correct its spelling"

# The place in the file, and what is wrong there.
Complaints = Iterator[tuple[str, str]]
AnyWorld = TypeVar("AnyWorld", bound=World)


def load_world(path: Path) -> World:
    """Read and check the file. Raises `CommandError` with one line that names file and place."""
    return read_world(path, World, complaints_about)


def read_world(
    path: Path, model: type[AnyWorld], complaints: Callable[[AnyWorld], Complaints]
) -> AnyWorld:
    """Read and check the keys that this kind of world has. Raises as `load_world` does."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}); name a TOML file") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"{path} is not TOML: {error}; correct it there") from error
    taken = {key: value for key, value in document.items() if key not in model.ignored_keys}
    for place in _internal_keys(taken):
        raise CommandError(f"{path}: {place}: {_UNKNOWN_KEY}")
    try:
        # Through JSON, because strict mode then accepts an array as a tuple and a string as a date.
        world = model.model_validate_json(json.dumps(taken, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise CommandError(f"{path}: {_first_error(error)}") from error
    for place, complaint in complaints(world):
        raise CommandError(f"{path}: {place}: {complaint}")
    return world


def _internal_keys(value: object, place: str = "") -> Iterator[str]:
    """Yield the places of keys that are a field's own name instead of its name in a file.

    Pydantic ignores such a key in JSON where it would reject any other: what it says would be lost.
    """
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _internal_keys(item, f"{place}[{number}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            below = f"{place}.{key}".removeprefix(".")
            if key.endswith("microcredits") or key.startswith("declared_"):
                yield below
            yield from _internal_keys(item, below)


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
            return _UNKNOWN_KEY
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            return f"{error['msg']}; correct the value"


def complaints_about(world: World) -> Complaints:
    """Yield what is inconsistent between parts of the file, each with its place."""
    yield from repeated("plans", "name", [plan.name for plan in world.plans])
    for number, policy in enumerate(world.declared_policies):
        earlier = (world.declared_policy, *world.declared_policies[:number])
        if policy.version in [other.version for other in earlier]:
            complaint = f"{policy.version} is declared twice; remove one of the two"
            yield f"policies[{number}].version", complaint
    yield from repeated("teams", "team_id", [team.team_id for team in world.teams])
    yield from repeated("grants", "id", [f"{g.principal} {g.id}" for g in world.grants])
    yield from _about_packs(world.declared_policy, "policy")
    for number, declared in enumerate(world.declared_policies):
        yield from _about_packs(declared, f"policies[{number}]")
    for number, plan in enumerate(world.plans):
        yield from _about_plan(world, plan, f"plans[{number}]")
    for number, team in enumerate(world.teams):
        yield from _about_team(world, team, f"teams[{number}]")
        yield from _about_policy(world, team, f"teams[{number}]")
        yield from _about_payment(team, f"teams[{number}]")
        yield from _about_auto_reload(world, team, f"teams[{number}]")
        yield from _about_limits(team, f"teams[{number}]")
    yield from _billed_for_two_teams(world)
    yield from _about_grants(world)


def repeated(tables: str, key: str, names: list[str]) -> Complaints:
    for number, name in enumerate(names):
        if name in names[:number]:
            yield f"{tables}[{number}].{key}", f"{name} is declared twice; remove one of the two"


def _about_packs(policy: DeclaredPolicy, place: str) -> Complaints:
    packs = policy.packs
    sizes = [f"the pack of {credits_text(p.microcredits)} in {p.currency}" for p in packs]
    yield from repeated(f"{place}.packs", "credits", sizes)


def _about_plan(world: World, plan: Plan, place: str) -> Complaints:
    drawn = _own_pools(world.rules_of(plan.kind))
    if plan.microcredits == 0 and plan.kind == "self_serve":
        yield f"{place}.credits", f"plan {plan.name} refills nothing; give it credits"
    if plan.microcredits > 0 and plan.pool not in drawn:
        yield f"{place}.pool", unknown("pool", plan.pool, drawn, "that the policy draws")


def _about_team(world: World, team: DeclaredTeam, place: str) -> Complaints:
    plans = {plan.name for plan in world.plans if plan.kind == team.kind}
    if team.plan not in plans:
        yield f"{place}.plan", unknown("plan", team.plan, plans, f"for {team.kind} teams")
    if not team.takes_everyone and team.owner not in team.members:
        yield f"{place}.owner", f"{team.owner} is not a member; add {team.owner} to the members"
    users_pay = any(rule.payer != "team" for rule in world.rules_for(team))
    if team.takes_everyone and users_pay:
        yield (
            f"{place}.members",
            'users of this team pay for runs and need accounts; list them instead of "*"',
        )


def _about_policy(world: World, team: DeclaredTeam, place: str) -> Complaints:
    if team.policy is not None and team.policy not in world.policies:
        declared = ", ".join(sorted(world.policies))
        yield f"{place}.policy", f"there is no policy {team.policy}; this file declares {declared}"
    if team.policy_from is not None and team.policy in (None, world.policy.version):
        yield (
            f"{place}.policy_from",
            "says when another policy begins; name one of [[policies]] as `policy`",
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
    policy = world.policy_of(team)
    if policy.pack_of(settings.pack_microcredits, team.currency) is None:
        packs = [pack for pack in policy.packs if pack.currency == team.currency]
        sizes = ", ".join(amount_text(pack.microcredits) for pack in packs)
        yield (
            f"{place}.auto_reload.pack",
            f"there is no pack of {credits_text(settings.pack_microcredits)} in {team.currency}; "
            + (
                f"the policy's packs are {sizes}"
                if sizes
                else f"declare packs in {team.currency} under [[policy.packs]]"
            ),
        )
    drawn = _own_pools(world.rules_for(team))
    if settings.pool not in drawn:
        whose = f"that the policy draws for {team.kind} teams"
        yield f"{place}.auto_reload.pool", unknown("pool", settings.pool, drawn, whose)
    if settings.enabled and team.spend_cap_cents == 0:
        yield f"{place}.spend_cap_cents", "auto_reload needs a spend cap; write one above 0"
    if settings.enabled and team.payment is None:
        yield f"{place}.payment", "auto_reload needs a way to pay; add [teams.payment]"


def _about_limits(team: DeclaredTeam, place: str) -> Complaints:
    limits = team.declared_limits
    for number, limit in enumerate(limits):
        of = f"{place}.limits[{number}]"
        if limit.place in [earlier.place for earlier in limits[:number]]:
            yield of, f"the limit of {place_text(*limit.place)} is declared twice; remove one"
        if limit.scope == "member" and limit.id and not _has_member(team, limit.id):
            yield f"{of}.id", f"{limit.id} is not a member; add the user to the members"


def _has_member(team: DeclaredTeam, user_id: str) -> bool:
    return team.takes_everyone or user_id in team.members


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
            yield f"{place}.principal", no_account(grant.principal)
            continue
        pools = world.pools_of(grant.principal, team_of[grant.principal])
        if grant.pool not in pools:
            whose = f"that the policy draws when {grant.principal} pays"
            yield f"{place}.pool", unknown("pool", grant.pool, pools, whose)
        prefix = reserved_prefix(grant.id)
        if prefix is not None:
            yield f"{place}.id", f"ids that begin with {prefix!r} are reserved; choose another id"
        if grant.expires_at is not None and grant.expires_in_days is not None:
            yield (
                f"{place}.expires_in_days",
                "is given together with expires_at; keep one of the two",
            )


def _own_pools(rules: list[BillingRule]) -> set[str]:
    """Return the pools of those who pay by these rules, without those that their team lends."""
    return {pool for rule in rules for pool in rule.pools if not is_shared_pool(pool)}


def no_account(principal: Principal) -> str:
    if principal.kind == "user":
        return f"{principal.id} is not a member of any team whose users pay; add the user to a team"
    return f"{principal.id} is not a team that pays for its runs; declare it under [[teams]]"


def unknown(noun: str, name: str, known: set[str], whose: str) -> str:
    if known:
        choice = f"the {noun}s {whose} are {', '.join(sorted(known))}"
    else:
        choice = f"there are no {noun}s {whose}"
    return f"there is no {noun} {name}; {choice}"
