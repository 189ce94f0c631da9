"""The teams, prices and starting credits of one history, drawn from its seed."""

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.limits import TeamLimit
from agent_credits.billing.policy import BillingPolicy, BillingRule, Pack, TeamKind, TriggerKind
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.billing.teams import AutoReload, Team, Tenure
from agent_credits.commit.changes import Change, GrantChange, PlanChange
from agent_credits.ledger.thresholds import Threshold
from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Payer, Principal
from agent_credits_cli.world import World as DeclaredWorld

CREDIT = 1_000_000
FAR_PAST = datetime(2020, 1, 1, tzinfo=UTC)
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC")
CAPS = (0, 2_500, 6_000, 20_000)

# Histories begin a little before these: month ends, leap days, and hours that come twice or never.
BOUNDARIES = tuple(
    datetime(*parts, tzinfo=UTC)
    for parts in (
        (2026, 10, 25, 1),  # Berlin's clocks go back.
        (2026, 10, 31, 23),  # Berlin's November begins.
        (2026, 11, 1, 4),  # New York's November begins.
        (2026, 11, 1, 6),  # New York's clocks go back.
        (2026, 12, 31, 23),
        (2027, 1, 31, 0),
        (2027, 2, 28, 23),
        (2027, 3, 14, 7),  # New York's clocks go forward.
        (2027, 3, 28, 1),  # Berlin's clocks go forward.
        (2027, 3, 31, 22),  # Berlin's April begins.
        (2028, 2, 29, 0),
        (2028, 3, 1, 0),
    )
)


def _policy(
    version: str,
    user_pools: tuple[str, ...],
    team_pools: tuple[str, ...],
    packs: tuple[tuple[int, int], ...],
    grace_days: int = 30,
    terms: Mapping[Payer, Mapping[str, object]] | None = None,
) -> BillingPolicy:
    def rule(team: TeamKind, triggers: tuple[TriggerKind, ...], payer: Payer) -> BillingRule:
        pools = team_pools if team == "enterprise" else user_pools
        of_payer = (terms or {}).get(payer, {})
        return BillingRule.model_validate(
            {"team": team, "triggers": triggers, "payer": payer, "pools": pools, **of_payer}
        )

    return BillingPolicy(
        version=version,
        grace_days=grace_days,
        rules=(
            rule("self_serve", ("user",), "user"),
            rule("self_serve", ("team_api_key", "schedule"), "owner"),
            rule("enterprise", ("user", "team_api_key", "schedule"), "team"),
        ),
        packs=tuple(
            Pack(microcredits=credits_sold * CREDIT, price_cents=cents, currency="usd")
            for credits_sold, cents in packs
        ),
    )


POLICY = _policy(
    "v1", ("trial", "plan", "add_on"), ("trial", "contract"), ((20, 1_000), (50, 2_000))
)
# What an operator may apply later: other packs; another order, prices and grace; other pools.
POLICIES = {
    policy.version: policy
    for policy in (
        POLICY,
        _policy(
            "v2", ("trial", "plan", "add_on"), ("trial", "contract"), ((30, 1_500), (80, 3_000))
        ),
        _policy(
            "v3", ("add_on", "plan", "trial"), ("contract", "trial"), ((20, 1_200), (30, 1_500)), 5
        ),
        _policy(
            "v4", ("trial", "plan", "extra"), ("trial", "committed"), ((20, 1_000), (50, 2_000)), 60
        ),
    )
}


def _terms(
    reserve: Literal["none", "estimate"],
    step: int,
    ttl_minutes: int,
    overrun: Literal["finish", "pause", "stop"],
    grace_microcredits: int = 0,
) -> dict[str, object]:
    return {
        "reserve": reserve,
        "default_estimate_microcredits": step * CREDIT,
        "reservation_ttl_seconds": ttl_minutes * 60,
        "overrun": overrun,
        "grace_microcredits": grace_microcredits,
    }


# What is in force, and what may be applied, in the histories whose runs reserve.
RESERVING_POLICIES = POLICIES | {
    policy.version: policy
    for policy in (
        _policy(
            "r1",
            ("trial", "plan", "add_on"),
            ("trial", "contract"),
            ((20, 1_000), (50, 2_000)),
            terms={
                "user": _terms("estimate", 3, 60, "finish"),
                "owner": _terms("estimate", 2, 1, "stop", CREDIT),
                "team": _terms("estimate", 7, 10, "pause", 2 * CREDIT),
            },
        ),
        _policy(
            "r2",
            ("trial", "plan", "add_on"),
            ("trial", "contract"),
            ((20, 1_000), (50, 2_000)),
            terms={
                "user": _terms("none", 0, 10, "pause", 2 * CREDIT),
                "owner": _terms("none", 0, 60, "stop"),
                "team": _terms("none", 0, 1, "stop", 4 * CREDIT),
            },
        ),
        _policy(
            "r3",
            ("add_on", "plan", "trial"),
            ("contract", "trial"),
            ((20, 1_200), (30, 1_500)),
            5,
            terms={
                "user": _terms("estimate", 5, 5, "pause", 3 * CREDIT),
                "owner": _terms("none", 0, 60, "finish"),
                "team": _terms("none", 4, 1_440, "finish"),
            },
        ),
        _policy(
            "r4",
            ("trial", "plan", "extra"),
            ("trial", "committed"),
            ((20, 1_000), (50, 2_000)),
            60,
            terms={
                "user": _terms("none", 0, 1, "stop", 4 * CREDIT),
                "owner": _terms("estimate", 1, 1_440, "finish"),
                "team": _terms("estimate", 2, 60, "stop", 1),
            },
        ),
    )
}


def _sharing(version: str, like: str, shared: tuple[str, ...]) -> BillingPolicy:
    """Return another policy under which users draw these pools after their own."""
    policy = RESERVING_POLICIES[like]
    rules = tuple(
        rule if rule.payer == "team" else rule.model_copy(update={"pools": (*rule.pools, *shared)})
        for rule in policy.rules
    )
    return policy.model_copy(update={"version": version, "rules": rules})


# Likewise in the histories whose teams share pools. Two policies do not, and one does not reserve.
SHARING_POLICIES = {
    policy.version: policy
    for policy in (
        _sharing("s1", "r1", ("team:shared",)),
        _sharing("s2", "v1", ("team:shared",)),
        _sharing("s3", "r3", ("team:spare", "team:shared")),
        RESERVING_POLICIES["r2"],
        POLICY,
    )
}
SHARED_POOLS = ("shared", "spare")
# Where credits that are bought go, by who pays: the last pool, whatever the policy's order.
LAST_POOLS = {"user": ("add_on", "extra"), "team": ("contract", "committed")}
PROJECTS = ("web", "api", None)
# Which projects and members have limits of their own.
LIMITED = {"project": ("web", "api"), "member": ("ana", "olga", "anybody")}
# Each team's users; those who are not members at first may join.
CANDIDATES = {
    "acme": ("ana", "ben", "olga"),
    "solo": ("cara", "dora"),
    "bigcorp": ("anybody", "boss", "zoe"),
}


# Not drawn, so that every seed goes on telling the history that it told before.
THRESHOLDS = (
    (Threshold("percent", 30), Threshold("percent", 10)),
    (Threshold("percent", 60), Threshold("microcredits", 5 * CREDIT)),
    (Threshold("microcredits", 3_000_001), Threshold("percent", 45), Threshold("percent", 15)),
    (),
)


@dataclass(frozen=True)
class World:
    starts_at: datetime
    # The day on which each plan's periods begin.
    anchor: date
    teams: tuple[Team, ...]
    accounts: dict[Principal, tuple[Change, ...]]


def build_world(
    randomness: random.Random, policies: Mapping[str, BillingPolicy] = POLICIES
) -> World:
    """Build a world whose teams are billed by the first of these policies."""
    starts_at = randomness.choice(BOUNDARIES) - timedelta(seconds=randomness.choice((5, 90, 4000)))
    policy = next(iter(policies))
    teams = (
        _team(
            randomness, starts_at, "acme", "self_serve", "olga", frozenset({"ana", "olga"}), policy
        ),
        _team(randomness, starts_at, "solo", "self_serve", "cara", frozenset({"cara"}), policy),
        _team(randomness, starts_at, "bigcorp", "enterprise", "boss", "*", policy),
    )
    principals = [Principal("user", name) for name in ("ana", "olga", "cara")]
    principals.append(Principal("team", "bigcorp"))
    anchor = starts_at.date() - timedelta(days=randomness.choice((0, 20, 29, 300)))
    accounts = {p: tuple(_first_changes(randomness, p, starts_at, anchor)) for p in principals}
    return World(starts_at, anchor, teams[: randomness.randint(1, 3)], accounts)


def with_limits(world: World, randomness: random.Random) -> World:
    """Return the world in which each team declares limits."""
    teams = tuple(
        team.model_copy(update={"limits": drawn_limits(randomness, world.starts_at)})
        for team in world.teams
    )
    return replace(world, teams=teams)


def with_shared_pools(world: World, randomness: random.Random) -> World:
    """Return the world in which each team has credits for its users to share.

    Most users have few credits of their own, and one of them is a member of two teams.
    """
    accounts = dict(world.accounts)
    for principal in [principal for principal in accounts if principal.kind == "user"]:
        if randomness.random() < 0.7:
            accounts[principal] = (_gift(principal, "few", "add_on", 1, None),)
    teams = tuple(_sharing_team(randomness, team) for team in world.teams)
    for team in teams:
        principal = Principal("team", team.team_id)
        soon = world.starts_at + timedelta(seconds=randomness.choice((60, 4_000, 90_000)))
        gifts = (
            _gift(principal, "share", "shared", randomness.choice((2, 10, 60)), None),
            _gift(principal, "share-soon", "shared", randomness.choice((1, 5, 20)), soon),
            _gift(principal, "spare", "spare", randomness.choice((1, 5)), None),
        )
        accounts[principal] = (*accounts.get(principal, ()), *gifts)
    return replace(world, teams=teams, accounts=accounts)


def _sharing_team(randomness: random.Random, team: Team) -> Team:
    members = team.members if team.members == "*" else team.members | {"olga"}
    reloads = team.auto_reload if randomness.random() < 0.3 else None
    return team.model_copy(update={"members": members, "auto_reload": reloads})


def _team(
    randomness: random.Random,
    starts_at: datetime,
    team_id: str,
    kind: TeamKind,
    owner: str,
    members: frozenset[str] | Literal["*"],
    policy_version: str,
) -> Team:
    reloads = AutoReload(
        enabled=randomness.random() < 0.8,
        pool="contract" if kind == "enterprise" else "add_on",
        threshold_microcredits=randomness.choice((1, 5, 20)) * CREDIT,
        pack_microcredits=randomness.choice((20, 50)) * CREDIT,
        reloads_max=randomness.choice((2, 5, 20)),
        window_minutes=randomness.choice((10, 60)),
    )
    return Team(
        team_id=team_id,
        version=1,
        plan="max",
        time_zone=randomness.choice(ZONES),
        members=members,
        alerts=Alerts(low=THRESHOLDS[(starts_at.month + len(team_id)) % len(THRESHOLDS)]),
        settings_version=1,
        auto_reload=reloads if randomness.random() < 0.9 else None,
        payment=payment_method(randomness, team_id) if randomness.random() < 0.95 else None,
        spend_cap_cents=randomness.choice(CAPS),
        tenures=(Tenure(since=FAR_PAST, kind=kind, owner=owner, policy_version=policy_version),),
    )


def payment_method(randomness: random.Random, team_id: str) -> PaymentMethod:
    if randomness.random() < 0.15:
        return PaymentMethod(provider="invoice")
    card = f"pm-{randomness.randint(1, 3)}"
    return PaymentMethod(provider="stripe", customer=f"cus-{team_id}", payment_method=card)


def _first_changes(
    randomness: random.Random, principal: Principal, now: datetime, anchor: date
) -> list[Change]:
    pool = "contract" if principal.kind == "team" else "add_on"
    soon = now + timedelta(seconds=randomness.choice((60, 4_000, 90_000)))
    changes: list[Change] = [
        _gift(principal, "first", pool, randomness.choice((1, 10, 60)), None),
        _gift(principal, "trial", "trial", randomness.choice((1, 5)), soon),
    ]
    if principal.kind == "user" and randomness.random() < 0.7:
        amount = randomness.choice((0, 5, 30)) * CREDIT
        changes.append(PlanChange(principal, "plan:first", "max", "plan", amount, anchor))
    return changes


def _gift(
    principal: Principal, name: str, pool: str, credits_given: int, expires_at: datetime | None
) -> GrantChange:
    return GrantChange(principal, name, pool, credits_given * CREDIT, expires_at, "gift")


# What an operator may write otherwise in the file, and the more often what decides who pays.
ASPECTS = (
    *("kind", "policy", "kind", "policy", "owner", "members"),
    *("time zone", "cap", "payment", "auto-reload", "plan"),
)


def declared_world(
    randomness: random.Random,
    team: Team,
    anchor: date,
    policies: Mapping[str, BillingPolicy] = POLICIES,
) -> DeclaredWorld:
    """Return a file that declares the team as it is declared now, but for one aspect or two."""
    changes = set(randomness.sample(ASPECTS, randomness.choice((1, 1, 2, 3))))
    newest, candidates = team.tenures[-1], CANDIDATES[team.team_id]
    kind, owner, version = newest.kind, newest.owner, newest.policy_version
    if "kind" in changes:
        kind = "enterprise" if kind == "self_serve" else "self_serve"
    if "policy" in changes:
        version = randomness.choice([other for other in policies if other != version])
    members = {*candidates} if team.members == "*" else {*team.members}
    if "members" in changes:
        members ^= {randomness.choice(candidates)}
        owner = owner if owner in members else min(members, default=candidates[0])
    if "owner" in changes:
        owner = randomness.choice(candidates)
    everyone = team.members == "*" and kind == "enterprise" and "members" not in changes
    cap = randomness.choice(CAPS) if "cap" in changes else team.spend_cap_cents
    payment = payment_method(randomness, team.team_id) if "payment" in changes else team.payment
    policy = policies[version]
    plan = randomness.choice(("max", "pro")) if "plan" in changes else team.plan
    declared = {
        "team_id": team.team_id,
        "kind": kind,
        "plan": "enterprise" if kind == "enterprise" else "max" if plan == "enterprise" else plan,
        "owner": owner,
        "members": ["*"] if everyone else sorted({*members, owner}),
        "time_zone": randomness.choice(ZONES) if "time zone" in changes else team.time_zone,
        "anchor": anchor,
        "spend_cap_cents": cap,
        "payment": payment,
        "alerts": team.alerts,
        "limits": [_declared_limit(limit) for limit in team.limits],
        "auto_reload": _declared_reload(randomness, team, kind, policy, changes),
    }
    return declared_document(policy, declared)


def declared_document(policy: BillingPolicy, team: Mapping[str, object]) -> DeclaredWorld:
    """Return the file that declares this policy and this team."""
    packs = [
        {
            "credits": str(pack.microcredits // CREDIT),
            "price_cents": pack.price_cents,
            "currency": pack.currency,
        }
        for pack in policy.packs
    ]
    return DeclaredWorld.model_validate(
        {
            "policy": {
                **policy.model_dump(exclude={"packs", "rules"}),
                "rules": [_declared_rule(rule) for rule in policy.rules],
                "packs": packs,
            },
            "plans": [
                {"name": "max", "kind": "self_serve", "credits": "30"},
                {"name": "pro", "kind": "self_serve", "credits": "5"},
                {"name": "enterprise", "kind": "enterprise"},
            ],
            "teams": [team],
        }
    )


def _declared_rule(rule: BillingRule) -> dict[str, object]:
    in_credits = {
        "default_estimate": rule.default_estimate_microcredits,
        "grace_credits": rule.grace_microcredits,
    }
    return {
        **rule.model_dump(exclude={"default_estimate_microcredits", "grace_microcredits"}),
        **{name: format_credits(microcredits) for name, microcredits in in_credits.items()},
    }


def _declared_limit(limit: TeamLimit) -> dict[str, object]:
    return {
        **limit.model_dump(exclude={"microcredits"}),
        "credits": format_credits(limit.microcredits),
    }


def _declared_reload(
    randomness: random.Random,
    team: Team,
    kind: TeamKind,
    policy: BillingPolicy,
    changes: Collection[str],
) -> dict[str, object] | None:
    """Return settings that go with the kind and the policy, or the file would be refused."""
    settings = team.auto_reload
    if settings is None:
        return None
    pools = policy.rule_for(kind, "user").pools
    pack_sizes = [pack.microcredits for pack in policy.packs]
    pack = settings.pack_microcredits
    if "auto-reload" in changes or pack not in pack_sizes:
        pack = randomness.choice(pack_sizes)
    return {
        "enabled": settings.enabled or "auto-reload" in changes,
        "pool": next(
            p for p in LAST_POOLS["team" if kind == "enterprise" else "user"] if p in pools
        ),
        "threshold": str(settings.threshold_microcredits // CREDIT),
        "pack": str(pack // CREDIT),
        "reloads_max": settings.reloads_max,
        "window_minutes": settings.window_minutes,
    }


def drawn_limits(randomness: random.Random, now: datetime) -> tuple[TeamLimit, ...]:
    """Return a few limits, at most one of the same runs and period."""
    limits: dict[object, TeamLimit] = {}
    for _ in range(randomness.choice((1, 1, 2, 3, 4))):
        scope = randomness.choice(("team", "team", "team", "project", "member", "run"))
        period = randomness.choice(("day", "day", "week", "month"))
        if scope == "run" or (scope != "team" and randomness.random() < 0.15):
            period = "run"
        of_one = scope in LIMITED and randomness.random() < 0.4
        hours = randomness.choice((1, 30))
        limit = TeamLimit.model_validate(
            {
                "scope": scope,
                "id": randomness.choice(LIMITED[scope]) if of_one else None,
                "period": period,
                "microcredits": int(randomness.choice((0, 0.5, 2, 9, 9, 20, 40, 90)) * CREDIT),
                "action": "warn" if randomness.random() < 0.15 else "stop",
                "raise_until": now + timedelta(hours=hours) if randomness.random() < 0.1 else None,
            }
        )
        limits[limit.place] = limit
    return tuple(limits.values())


def reservation_data(
    randomness: random.Random, a_run: Callable[[], str | None]
) -> dict[str, object]:
    """Return what a request may say of reservations."""
    data: dict[str, object] = {}
    estimate = randomness.choice((None, "0.5", "1", "1", "2", "2", "2", "4", "4", "9", "40", "0"))
    if estimate is not None:
        data["credits"] = estimate
    reserve = randomness.choice((None, None, "estimate", "estimate", "none"))
    if reserve == "none":
        return {**data, "reserve": "none"}
    if reserve == "estimate" and estimate != "0":
        data["reserve"] = "estimate"
    if randomness.random() < 0.5:
        data["ttl_seconds"] = randomness.choice((60, 300, 4_000, 86_400))
    parent = a_run() if randomness.random() < 0.6 else None
    if parent is not None:
        # A child fits only into what its parent holds.
        data |= {"parent_run_id": parent, "credits": randomness.choice(("0.5", "0.5", "1", "4"))}
    return data


def extension_data(randomness: random.Random) -> dict[str, object]:
    """Return what an extension may ask for: credits, time or both."""
    data: dict[str, object] = {}
    if randomness.random() < 0.8:
        data["credits"] = randomness.choice(("0.5", "2", "6", "50"))
    if not data or randomness.random() < 0.4:
        data["ttl_seconds"] = randomness.choice((60, 300, 4_000, 86_400))
    return data
