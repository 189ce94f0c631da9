"""Small builders of events, teams, accounts and reservations, and the policy they go by.

Each takes what the test is about and fills in the rest, so that a test shows only what matters.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from agent_credits.billing.policy import BillingPolicy, BillingRule, Pack
from agent_credits.billing.spend_cap import CapReservation, PaymentMethod
from agent_credits.billing.teams import AutoReload, Team, Tenure, bill
from agent_credits.commit.changes import Change, GrantChange, PlanChange, RunChange
from agent_credits.commit.rows import Rows
from agent_credits.commit.write_protocol import commit
from agent_credits.events.agent_runs import AgentRunEvent, parse_message
from agent_credits.ledger.accounts import Account, PlanSubscription
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.grants import Grant
from agent_credits.values.credits import parse_credits
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows

# Long past, so that no clock of a machine that runs the tests takes it for the future.
NOW = datetime(2025, 11, 21, 10, 0, tzinfo=UTC)
FAR_PAST = datetime(2020, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)

ANA = Principal("user", "ana")
BEN = Principal("user", "ben")
OLGA = Principal("user", "olga")
BIGCORP = Principal("team", "bigcorp")

PACK_CENTS = 2_000
PACK = Pack(microcredits=parse_credits("400"), price_cents=PACK_CENTS, currency="usd")

POOLS = ("trial", "plan", "add_on")
# The table of who pays, and in what order; and what is on sale.
POLICY = BillingPolicy(
    version="2025-11",
    rules=(
        BillingRule(team="self_serve", triggers=("user",), payer="user", pools=POOLS),
        BillingRule(
            team="self_serve", triggers=("team_api_key", "schedule"), payer="owner", pools=POOLS
        ),
        BillingRule(
            team="enterprise",
            triggers=("user", "team_api_key", "schedule"),
            payer="team",
            pools=("trial", "contract"),
        ),
    ),
    packs=(
        PACK,
        Pack(microcredits=parse_credits("1000"), price_cents=4_500, currency="usd"),
        Pack(microcredits=parse_credits("3000"), price_cents=12_000, currency="usd"),
        Pack(microcredits=parse_credits("6500"), price_cents=24_000, currency="usd"),
    ),
)

CARD = PaymentMethod(provider="stripe", customer="cus_acme", payment_method="pm_good")
OTHER_CARD = PaymentMethod(provider="stripe", customer="cus_acme", payment_method="pm_other")
INVOICE = PaymentMethod(provider="invoice")

# Below 100 credits a pack of 400 credits is bought for 20.00 USD.
ON = AutoReload(
    enabled=True,
    threshold_microcredits=parse_credits("100"),
    pack_microcredits=PACK.microcredits,
)

ACME = Team(
    team_id="acme",
    plan="max",
    time_zone="Europe/Berlin",
    members=frozenset({"ana", "ben", "olga"}),
    tenures=(
        Tenure(since=FAR_PAST, kind="self_serve", owner="olga", policy_version=POLICY.version),
    ),
)
BIGCORP_TEAM = Team(
    team_id="bigcorp",
    plan="enterprise",
    time_zone="America/New_York",
    members="*",
    tenures=(
        Tenure(since=FAR_PAST, kind="enterprise", owner="boss", policy_version=POLICY.version),
    ),
)
# Anybody is a member of it, and the cap leaves room for ten packs.
RELOADING_ACME = ACME.model_copy(
    update={
        "version": 1,
        "members": "*",
        "settings_version": 1,
        "auto_reload": ON,
        "payment": CARD,
        "spend_cap_cents": 10 * PACK_CENTS,
    }
)
TEAMS = {team.team_id: team for team in (ACME, BIGCORP_TEAM)}

TRIGGERS: dict[str, dict[str, str]] = {
    "user": {"kind": "user", "user_id": "ana"},
    "team_api_key": {"kind": "team_api_key", "key_id": "key-7"},
    "schedule": {"kind": "schedule", "schedule_id": "nightly"},
}


def cloudevent(
    event_id: str,
    *,
    type: str = "agent_run.usage",  # noqa: A002 -- CloudEvents calls it so.
    run: str = "run-1",
    team: str = "acme",
    trigger: dict[str, str] | None = None,
    user: str = "ana",
    time: datetime = NOW,
    source: str = "/platform/agents",
    **data: Any,
) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": type,
        "subject": run,
        "time": time.isoformat(),
        "data": {"team_id": team, "trigger": trigger or {"kind": "user", "user_id": user}, **data},
    }


def usage(event_id: str, credits: str = "1", **fields: Any) -> dict[str, Any]:  # noqa: A002
    return cloudevent(event_id, credits=credits, **fields)


def requested(event_id: str, **fields: Any) -> dict[str, Any]:
    return cloudevent(event_id, type="agent_run.requested", **fields)


def finished(event_id: str, status: str = "ok", **fields: Any) -> dict[str, Any]:
    return cloudevent(event_id, type="agent_run.finished", status=status, **fields)


def provider_error(
    event_id: str,
    provider: str = "openai",
    error: dict[str, Any] | None = None,
    traceparent: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    answer = {"status_code": 429, "type": "insufficient_quota"} if error is None else error
    data = {"provider": provider, "error": answer}
    document = cloudevent(event_id, type="agent_run.provider_error", **data, **fields)
    return document | ({"traceparent": traceparent} if traceparent else {})


def body(*documents: object) -> str:
    """Return a message body: the event alone, or an array where there are several."""
    return json.dumps(documents[0] if len(documents) == 1 else documents)


def parsed(document: object) -> AgentRunEvent:
    message = parse_message(json.dumps(document))
    assert not message.rejections, message.rejections
    return message.events[0]


def run_change(document: dict[str, Any], team: Team | None = None) -> RunChange:
    event = parsed(document)
    return RunChange(event, bill(event, team or TEAMS[event.data.team_id], POLICY))


def run_changes(*documents: dict[str, Any]) -> list[RunChange]:
    return [run_change(document) for document in documents]


def grant(
    grant_id: str,
    pool: str = "add_on",
    credits: str = "10",  # noqa: A002
    *,
    remaining: str | None = None,
    granted_at: datetime = NOW - timedelta(days=20),
    expires_at: datetime | None = None,
) -> Grant:
    return Grant(
        id=grant_id,
        pool=pool,
        amount_microcredits=parse_credits(credits),
        remaining_microcredits=parse_credits(remaining or credits),
        granted_at=granted_at,
        expires_at=expires_at,
        cause="purchase",
    )


def grant_change(
    grant_id: str,
    pool: str = "add_on",
    credits: str = "10",  # noqa: A002
    *,
    principal: Principal = ANA,
    expires_at: datetime | None = None,
) -> GrantChange:
    return GrantChange(principal, grant_id, pool, parse_credits(credits), expires_at, "purchase")


def plan_change(
    credits: str = "100",  # noqa: A002
    *,
    principal: Principal = ANA,
    anchor: datetime = NOW - timedelta(days=20),
    change_id: str = "plan:max",
) -> PlanChange:
    return PlanChange(principal, change_id, "max", "plan", parse_credits(credits), anchor.date())


def plan(credits: str = "100", anchor: datetime = NOW - timedelta(days=20)) -> PlanSubscription:  # noqa: A002
    return PlanSubscription("max", "plan", parse_credits(credits), anchor.date())


def reservation(purchase_id: str = "reload:user:ana:3", **fields: Any) -> CapReservation:
    """Return a reservation of one pack, by the good card, in November."""
    return CapReservation.model_validate(
        {
            "purchase_id": purchase_id,
            "principal": str(ANA),
            "month": "2025-11",
            "packs": 1,
            "pool": "add_on",
            "microcredits": PACK.microcredits,
            "price_cents": PACK_CENTS,
            "currency": PACK.currency,
            "method": CARD,
            "reserved_at": NOW,
            "deadline": NOW + 5 * MINUTE,
            **fields,
        }
    )


def pause(attempts_lost: int) -> None:
    """Do not wait: a test has no other worker to leave time for."""


def open_account(
    rows: Rows,
    *changes: GrantChange | PlanChange,
    now: datetime = NOW - timedelta(days=1),
) -> Account:
    """Open an account on the one path on which accounts change."""
    changes = changes or (grant_change("g-1", credits="100"),)
    principal = changes[0].principal
    return commit(rows, principal, changes, now=now, pause=pause, opens_account=True).account


def commit_each(rows: Rows, *changes: Change) -> None:
    """Commit one after the other, a minute apart, so that grants expire on the way."""
    for minute, change in enumerate(changes):
        now = NOW + timedelta(minutes=minute)
        commit(rows, ANA, [change], now=now, pause=pause)


def sample_rows() -> MemoryRows:
    rows = MemoryRows()
    settle(rows)
    return rows


def settle(rows: MemoryRows) -> None:
    rows.teams.update(TEAMS)
    rows.policies[POLICY.version] = POLICY


def history(rows: MemoryRows, principal: Principal) -> tuple[Entry, ...]:
    """Return every entry of an account: its full pages, then the open page on its row."""
    account = rows.accounts[principal]
    pages = [rows.pages[principal, number].entries for number in range(1, account.page_number)]
    return tuple(entry for page in (*pages, account.entries) for entry in page)


def remaining_by_grant(entries: Iterable[Entry]) -> dict[str, int]:
    """Recompute from the ledger alone what each grant still holds, the dry ones left out."""
    remaining: dict[str, int] = {}
    for entry in entries:
        if entry.grant is not None:
            sign = -1 if entry.outcome == "expired" else 1
            remaining[entry.grant.id] = (
                remaining.get(entry.grant.id, 0) + sign * entry.amount_microcredits
            )
        for part in entry.draws:
            sign = 1 if entry.outcome == "returned" else -1
            remaining[part.grant_id] = remaining.get(part.grant_id, 0) + sign * part.microcredits
    return {grant_id: left for grant_id, left in remaining.items() if left}


def remaining_on(account: Account) -> dict[str, int]:
    return {g.id: g.remaining_microcredits for g in account.grants if g.remaining_microcredits}
