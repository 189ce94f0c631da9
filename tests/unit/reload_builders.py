"""A small world that reloads: a team with packs to buy, its accounts, its queues, its provider.

`ReloadWorld` stands for the stack: what is committed is announced from the images of the rows, what
is requested lies in a queue, and time is what the test says it is.
"""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from agent_credits.billing.directory import Directory
from agent_credits.billing.policy import BillingPolicy, BillingRule, Pack
from agent_credits.billing.spend_cap import CapReservation, PaymentMethod, Spending, with_cap
from agent_credits.billing.teams import AutoReload, Team, Tenure, bill
from agent_credits.commit.changes import GrantChange, PlanChange, RunChange
from agent_credits.commit.rows import Rows
from agent_credits.commit.write_protocol import commit
from agent_credits.events.agent_runs import AgentRunEvent, parse_message
from agent_credits.intake.debited_batch import DebitedBatch, Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.accounts import Account, available_microcredits
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.reloads import Reload, ReloadRequest
from agent_credits.notices.announcements import (
    AccountRecord,
    NoticeSettings,
    TeamRecord,
    notices_of,
    reload_requested,
)
from agent_credits.notices.notice import Notice
from agent_credits.payments.port import InvoicePayments
from agent_credits.payments.reload_saga import ReloadSaga, Resolution
from agent_credits.values.credits import parse_credits
from agent_credits.values.principals import Principal
from tests.dispositions import postponed, rejected, waiting
from tests.memory_rows import MemoryRows
from tests.unit.payments.payment_fakes import FakePayments

# An event waits for one reload, or for two where the cap cut the first one short.
DELIVERIES_MAX = 5

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
FAR_PAST = datetime(2020, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)

ANA = Principal("user", "ana")
BEN = Principal("user", "ben")
POOLS = ("trial", "plan", "add_on")

PACK_CREDITS = 400
PACK_CENTS = 2_000
PACK = Pack(microcredits=PACK_CREDITS * 1_000_000, price_cents=PACK_CENTS, currency="usd")

POLICY = BillingPolicy(
    version="2026-11",
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
    version=1,
    plan="max",
    time_zone="Europe/Berlin",
    members="*",
    settings_version=1,
    auto_reload=ON,
    payment=CARD,
    spend_cap_cents=10 * PACK_CENTS,
    tenures=(
        Tenure(since=FAR_PAST, kind="self_serve", owner="olga", policy_version=POLICY.version),
    ),
)


def pause(attempts_lost: int) -> None:
    """Wait for nobody: a test has no other machine to leave time to."""


def cloudevent(
    event_id: str,
    *,
    type: str = "agent_run.usage",  # noqa: A002 -- CloudEvents calls it so.
    run: str = "run-1",
    team: str = "acme",
    user: str = "ana",
    time: datetime = NOW,
    **data: Any,
) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "/platform/agents",
        "type": type,
        "subject": run,
        "time": time.isoformat(),
        "data": {"team_id": team, "trigger": {"kind": "user", "user_id": user}, **data},
    }


def usage(event_id: str, credits: str = "1", **fields: Any) -> dict[str, Any]:  # noqa: A002
    return cloudevent(event_id, credits=credits, **fields)


def requested(event_id: str, **fields: Any) -> dict[str, Any]:
    return cloudevent(event_id, type="agent_run.requested", **fields)


def finished(event_id: str, status: str = "ok", **fields: Any) -> dict[str, Any]:
    return cloudevent(event_id, type="agent_run.finished", status=status, **fields)


def parsed(document: object) -> AgentRunEvent:
    (event,) = parse_message(json.dumps(document)).events
    return event


def run_change(document: dict[str, Any], team: Team = ACME) -> RunChange:
    event = parsed(document)
    return RunChange(event, bill(event, team, POLICY))


def grant_change(
    grant_id: str,
    credits: str = "10",  # noqa: A002
    *,
    pool: str = "add_on",
    principal: Principal = ANA,
) -> GrantChange:
    return GrantChange(principal, grant_id, pool, parse_credits(credits), None, "purchase")


def plan_change(change_id: str, *, principal: Principal = ANA, credits: int = 0) -> PlanChange:  # noqa: A002
    return PlanChange(principal, change_id, "max", "plan", credits, date(2026, 11, 1))


def open_account(
    rows: Rows,
    credits: str = "150",  # noqa: A002
    *,
    principal: Principal = ANA,
    now: datetime = NOW - timedelta(days=1),
) -> Account:
    """Open an account that holds so many add-on credits."""
    change = grant_change("g-1", credits, principal=principal)
    return commit(rows, principal, [change], now=now, pause=pause, opens_account=True).account


def reservation(purchase_id: str = "reload:user:ana:3", **fields: Any) -> CapReservation:
    """Return a reservation of one pack, by the good card, in November."""
    return CapReservation.model_validate(
        {
            "purchase_id": purchase_id,
            "principal": "user:ana",
            "month": "2026-11",
            "packs": 1,
            "pool": "add_on",
            "microcredits": PACK.microcredits,
            "price_cents": PACK_CENTS,
            "currency": "usd",
            "method": CARD,
            "reserved_at": NOW,
            "deadline": NOW + 5 * MINUTE,
            **fields,
        }
    )


def with_settings(team: Team, **settings: Any) -> Team:
    """Change a team's settings as `agent-credits apply` does."""
    changed = team.model_copy(
        update={
            **settings,
            "version": team.version + 1,
            "settings_version": team.settings_version + 1,
        }
    )
    spending = with_cap(team.spending, changed.spend_cap_cents)
    return changed.model_copy(update={"spending": spending})


def available_on(account: Account, now: datetime = NOW) -> int:
    return available_microcredits(account, POOLS, now)


def history(rows: MemoryRows, principal: Principal) -> tuple[Entry, ...]:
    """Return every entry of an account: its full pages, then the open page on its row."""
    account = rows.accounts[principal]
    pages = [rows.pages[principal, number].entries for number in range(1, account.page_number)]
    return tuple(entry for page in (*pages, account.entries) for entry in page)


@dataclass
class ReloadWorld:
    """The stack in memory. `requests` is ReloadsQueue, `notices` the topic, each as announced."""

    team: Team = ACME
    payments: FakePayments = field(default_factory=FakePayments)
    rows: MemoryRows = field(default_factory=MemoryRows)
    now: datetime = NOW
    requests: list[ReloadRequest] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows.teams[self.team.team_id] = self.team
        self.rows.policies[POLICY.version] = POLICY
        self.directory = Directory(self.rows)
        self.debits = Debits(self.rows, self.directory, pause)
        self._announced = 0
        self._teams_announced = 0
        self._message_ids = map(str, itertools.count(1))

    @property
    def saga(self) -> ReloadSaga:
        return ReloadSaga(
            self.rows,
            self.rows,
            {"stripe": self.payments, "invoice": InvoicePayments()},
            pause,
        )

    @property
    def spending(self) -> Spending:
        return self.rows.teams[self.team.team_id].spending

    def account(self, principal: Principal = ANA) -> Account:
        return self.rows.accounts[principal]

    def reload(self, principal: Principal = ANA) -> Reload:
        """Return the reload that stands on the account's row."""
        reload = self.account(principal).reload
        assert reload is not None
        return reload

    def available(self, principal: Principal = ANA) -> int:
        """Return the account's balance in credits; the tests use whole ones."""
        credits_, rest = divmod(available_on(self.account(principal), self.now), 1_000_000)
        assert rest == 0
        return credits_

    def deliver(self, *documents: dict[str, Any]) -> DebitedBatch:
        """Deliver one message per event in one batch, then announce what was committed."""
        deliveries = [Delivery(next(self._message_ids), json.dumps(d)) for d in documents]
        batch = self.debits.debit(deliveries, now=self.now, time_is_left=lambda: True)
        assert rejected(batch) == {}
        assert postponed(batch) == {}
        self.announce()
        return batch

    def outcome(self, document: dict[str, Any]) -> str:
        """Deliver one event and return what came of it: its entry's outcome, or `waiting`."""
        batch = self.deliver(document)
        return "waiting" if waiting(batch) else batch.outcomes[0].result.entry.outcome

    def entry(self, document: dict[str, Any]) -> Entry:
        (outcome,) = self.deliver(document).outcomes
        return outcome.result.entry

    def announce(self) -> None:
        """Derive notices and requests from every image since the last time, as `announce` does."""
        settings = NoticeSettings("")
        for old, new in self.rows.stream[self._announced :]:
            change = AccountRecord(old, new)
            self.notices += notices_of(change, settings)
            request = reload_requested(change)
            if request is not None:
                self.requests.append(request)
        self._announced = len(self.rows.stream)
        for before, after in self.rows.team_stream[self._teams_announced :]:
            self.notices += notices_of(TeamRecord(before, after), settings)
        self._teams_announced = len(self.rows.team_stream)

    def resolve(self, request: ReloadRequest | None = None) -> Resolution:
        """Deliver a request, the newest if none is named, and announce what was committed."""
        resolution = self.saga.resolve(request or self.requests[-1], self.now)
        self.announce()
        return resolution

    def resolve_until_done(self, document: dict[str, Any]) -> Entry:
        """Deliver an event and the newest request in turn until the event is recorded."""
        for _ in range(DELIVERIES_MAX):
            batch = self.deliver(document)
            if not waiting(batch):
                return batch.outcomes[0].result.entry
            self.resolve()
        raise AssertionError(f"the event still waits after {DELIVERIES_MAX} deliveries")

    def apply(self, **settings: Any) -> None:
        """Change the team's settings, as the operator does."""
        changed = with_settings(self.rows.teams[self.team.team_id], **settings)
        assert self.rows.compare_and_set_team(changed) is None
        self.announce()

    def grant(self, grant_id: str, credits: str, principal: Principal = ANA) -> None:  # noqa: A002
        change = grant_change(grant_id, credits, principal=principal)
        commit(self.rows, principal, [change], now=self.now, pause=pause)
        self.announce()

    def notices_of_type(self, notice_type: str) -> list[Notice]:
        return [notice for notice in self.notices if notice.type == notice_type]

    def history(self, principal: Principal = ANA) -> tuple[Entry, ...]:
        return history(self.rows, principal)

    def later(self, by: timedelta) -> None:
        self.now += by


def short_world(
    available: str = "150", wanted: str = "200", **fields: Any
) -> tuple[ReloadWorld, dict[str, Any]]:
    """Return a world in which ana's event waits for a reload, and that event."""
    world = ReloadWorld(**fields)
    open_account(world.rows, available)
    event = usage("e-short", wanted, run="run-short")
    assert world.outcome(event) == "waiting"
    assert len(world.requests) == 1
    return world, event


def ids(notices: Iterable[Notice]) -> list[str]:
    return [notice.id for notice in notices]
