"""Rows and entries without default values, so that a lost field is noticed."""

from datetime import UTC, date, datetime, timedelta

from msgspec.structs import replace

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.spend_cap import CapReservation, PaymentMethod, Spending
from agent_credits.billing.teams import AutoReload, Team, Tenure
from agent_credits.events.model_provider_errors import ModelProviderAnswer
from agent_credits.ledger.accounts import Account, ErroredRun, PlanSubscription, run_hash
from agent_credits.ledger.entries import (
    Draw,
    Entry,
    PoolBalance,
    ReloadFacts,
    RunContext,
    RunFacts,
    reload_identity,
    run_identity,
)
from agent_credits.ledger.grants import Grant
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.ledger.reloads import Reload
from agent_credits.ledger.thresholds import LowCredits, Threshold
from agent_credits.notices.observations import ModelProviderError
from agent_credits.values.principals import Principal

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


def entry(run: str, event_id: str, *, source: str = "/platform", amount: int = 5) -> Entry:
    facts = RunFacts(
        identity=run_identity(source, run, event_id),
        payload_hash="abcdef",
        context=RunContext(
            team_id="acme",
            trigger_kind="user",
            trigger_id="ana",
            project_id="web",
            event_time=NOW - timedelta(milliseconds=1_234),
            payer="user",
            policy_version="v1",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        recorded_at=NOW,
    )
    return Entry.usage_insufficient(
        facts,
        amount,
        draws=(Draw("plan", "g-1", 2), Draw("add_on", "g-2", 1)),
        shortfall_microcredits=amount - 3,
        pools_before=(PoolBalance("plan", 2), PoolBalance("add_on", 1)),
        fails_run=True,
        decline="spend_cap_reached",
    )


def grant(grant_id: str = "g-1") -> Grant:
    return Grant(grant_id, "add_on", 10, 7, NOW, NOW + timedelta(days=3), "purchase")


def full_account(principal: Principal, version: int = 1) -> Account:
    """An account in which nothing is left at its default."""
    granted = Entry.reload_granted(
        reload_identity(principal, "reload:1"),
        "abcdef",
        replace(grant("reload:1"), remaining_microcredits=10, cause="reload"),
        ReloadFacts("reload:1", "acme", 2, 1_000, "usd"),
        NOW,
    )
    return Account(
        principal,
        version=version,
        grants=(grant(), replace(grant("g-2"), expires_at=None)),
        plan=PlanSubscription("max", "plan", 100, date(2026, 1, 31), date(2026, 10, 31)),
        errored_runs=(ErroredRun(run_hash("run-0"), NOW),),
        reload=Reload(
            "reload:2", "acme", ("plan", "add_on"), "declined", 3, 4, NOW, None, "suspended"
        ),
        reloaded_at=(NOW - timedelta(hours=1), NOW),
        is_exhausted=True,
        low=LowCredits(
            team_id="acme",
            payer="user",
            pools=("plan", "add_on"),
            base_microcredits=100,
            notified=(Threshold("percent", 30),),
            deferred=(Threshold("microcredits", 7),),
            notified_at_version=version,
            decline="suspended",
        ),
        page_number=3,
        entries=(entry("run-1", "e-1"), granted),
        page_is_full=True,
    )


def limit_row(team_id: str) -> LimitRow:
    return LimitRow(
        key=LimitKey(team_id, "project", "web", "month"),
        ends_at=NOW + timedelta(days=9),
        moved_at=NOW,
        version=1,
        drawn_microcredits=7,
        held=((NOW + timedelta(minutes=5), 3), (NOW + timedelta(minutes=10), 2)),
        limit_microcredits=20,
        notified_percent=70,
    )


def team(team_id: str, version: int = 1) -> Team:
    method = PaymentMethod(provider="stripe", customer="cus-1", payment_method="pm-1")
    reservation = CapReservation(
        purchase_id="reload:1",
        principal="user:ana",
        month="2026-11",
        packs=2,
        pool="add_on",
        microcredits=40,
        price_cents=2_000,
        currency="usd",
        method=method,
        reserved_at=NOW,
        deadline=NOW + timedelta(minutes=5),
        payment_id="pi-1",
    )
    return Team(
        team_id=team_id,
        version=version,
        plan="max",
        time_zone="Europe/Berlin",
        members=frozenset({"ana", "ben"}),
        alerts=Alerts(low=(Threshold("percent", 20), Threshold("microcredits", 7))),
        settings_version=2,
        auto_reload=AutoReload(enabled=True, threshold_microcredits=1, pack_microcredits=20),
        payment=method,
        spend_cap_cents=5_000,
        spending=Spending(month="2026-11", spent_cents=7, reservations=(reservation,)),
        tenures=(Tenure(since=NOW, kind="self_serve", owner="ana", policy_version="v1"),),
    )


def model_provider_error(run_id: str, event_id: str = "e-1") -> ModelProviderError:
    return ModelProviderError(
        principal=Principal("user", "ana"),
        team_id="acme",
        project_id="web",
        run_id=run_id,
        source="/platform",
        event_id=event_id,
        time=NOW - timedelta(seconds=2),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        provider="openai",
        model="gpt-5",
        answer=ModelProviderAnswer(
            status_code=429,
            type="insufficient_quota",
            code="credit_balance_exhausted",
            reason="none",
            quota_id="per-day",
            retry_after_seconds=3,
        ),
        classification="quota_exhausted",
    )
