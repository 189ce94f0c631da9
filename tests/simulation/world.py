"""The teams, prices and starting credits of one history, drawn from its seed."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.policy import BillingPolicy, BillingRule, Pack, TeamKind, TriggerKind
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.billing.teams import AutoReload, Team, Tenure
from agent_credits.commit.changes import Change, GrantChange, PlanChange
from agent_credits.ledger.thresholds import Threshold
from agent_credits.values.principals import Payer, Principal

CREDIT = 1_000_000
FAR_PAST = datetime(2020, 1, 1, tzinfo=UTC)

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


def _rule(team: TeamKind, triggers: tuple[TriggerKind, ...], payer: Payer) -> BillingRule:
    last = "contract" if team == "enterprise" else "add_on"
    pools = ("trial", last) if team == "enterprise" else ("trial", "plan", last)
    return BillingRule(team=team, triggers=triggers, payer=payer, pools=pools)


POLICY = BillingPolicy(
    version="v1",
    rules=(
        _rule("self_serve", ("user",), "user"),
        _rule("self_serve", ("team_api_key", "schedule"), "owner"),
        _rule("enterprise", ("user", "team_api_key", "schedule"), "team"),
    ),
    packs=(
        Pack(microcredits=20 * CREDIT, price_cents=1_000, currency="usd"),
        Pack(microcredits=50 * CREDIT, price_cents=2_000, currency="usd"),
    ),
)


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
    teams: tuple[Team, ...]
    accounts: dict[Principal, tuple[Change, ...]]


def build_world(randomness: random.Random) -> World:
    starts_at = randomness.choice(BOUNDARIES) - timedelta(seconds=randomness.choice((5, 90, 4000)))
    teams = (
        _team(randomness, starts_at, "acme", "self_serve", "olga", frozenset({"ana", "olga"})),
        _team(randomness, starts_at, "solo", "self_serve", "cara", frozenset({"cara"})),
        _team(randomness, starts_at, "bigcorp", "enterprise", "boss", "*"),
    )
    principals = [Principal("user", name) for name in ("ana", "olga", "cara")]
    principals.append(Principal("team", "bigcorp"))
    accounts = {p: tuple(_first_changes(randomness, p, starts_at)) for p in principals}
    return World(starts_at, teams[: randomness.randint(1, 3)], accounts)


def _team(
    randomness: random.Random,
    starts_at: datetime,
    team_id: str,
    kind: TeamKind,
    owner: str,
    members: frozenset[str] | Literal["*"],
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
        time_zone=randomness.choice(("Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC")),
        members=members,
        alerts=Alerts(low=THRESHOLDS[(starts_at.month + len(team_id)) % len(THRESHOLDS)]),
        settings_version=1,
        auto_reload=reloads if randomness.random() < 0.9 else None,
        payment=payment_method(randomness, team_id) if randomness.random() < 0.95 else None,
        spend_cap_cents=randomness.choice((0, 2_500, 6_000, 20_000)),
        tenures=(Tenure(since=FAR_PAST, kind=kind, owner=owner, policy_version=POLICY.version),),
    )


def payment_method(randomness: random.Random, team_id: str) -> PaymentMethod:
    if randomness.random() < 0.15:
        return PaymentMethod(provider="invoice")
    card = f"pm-{randomness.randint(1, 3)}"
    return PaymentMethod(provider="stripe", customer=f"cus-{team_id}", payment_method=card)


def _first_changes(randomness: random.Random, principal: Principal, now: datetime) -> list[Change]:
    pool = "contract" if principal.kind == "team" else "add_on"
    soon = now + timedelta(seconds=randomness.choice((60, 4_000, 90_000)))
    changes: list[Change] = [
        _gift(principal, "first", pool, randomness.choice((1, 10, 60)), None),
        _gift(principal, "trial", "trial", randomness.choice((1, 5)), soon),
    ]
    if principal.kind == "user" and randomness.random() < 0.7:
        anchor = now.date() - timedelta(days=randomness.choice((0, 20, 29, 300)))
        amount = randomness.choice((0, 5, 30)) * CREDIT
        changes.append(PlanChange(principal, "plan:first", "max", "plan", amount, anchor))
    return changes


def _gift(
    principal: Principal, name: str, pool: str, credits_given: int, expires_at: datetime | None
) -> GrantChange:
    return GrantChange(principal, name, pool, credits_given * CREDIT, expires_at, "gift")
