"""What the simulator found, told without it: each of these once lost, bought or held something."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.billing.directory import Directory
from agent_credits.billing.spend_cap import EndedPurchase, PaymentMethod, Spending
from agent_credits.billing.teams import AutoReload, Team, Tenure
from agent_credits.commit.changes import GrantChange
from agent_credits.commit.write_protocol import commit
from agent_credits.intake.debited_batch import DebitedBatch, Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger import accounts
from agent_credits.ledger.reloads import RELOAD_DEADLINE, Reload, ReloadRequest
from agent_credits.payments.port import Charge, Paid, PaymentState
from agent_credits.payments.reload_saga import Granted, NotGranted, ReloadSaga
from agent_credits.values.principals import Principal
from agent_credits_cli.stack import read_stack
from agent_credits_cli.steps import carry_out, plan_steps
from tests.conformance.engines import Unwatched
from tests.dispositions import rejected, waiting
from tests.sample_world import OperatedRows
from tests.simulation.outside import StoredRows
from tests.simulation.workers import pause
from tests.simulation.world import CREDIT, FAR_PAST, POLICY, declared_document

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
ANA = Principal("user", "ana")
RELOAD_ID = "reload:user:ana:2"


class Card:
    """Pays whatever is asked."""

    def create(self, charge: Charge) -> str:
        return f"pi:{charge.purchase_id}"

    def confirm(self, payment_id: str) -> PaymentState:
        return Paid(payment_id)

    def cancel(self, payment_id: str) -> PaymentState:
        return Paid(payment_id)


def team(**settings: Any) -> Team:
    reloads = AutoReload(enabled=True, threshold_microcredits=CREDIT, pack_microcredits=20 * CREDIT)
    as_usual: dict[str, Any] = {
        "auto_reload": reloads,
        "payment": PaymentMethod(provider="stripe", customer="cus-1", payment_method="pm-1"),
        "spend_cap_cents": 10_000,
    }
    return Team(
        team_id="acme",
        version=1,
        plan="max",
        time_zone="UTC",
        members=frozenset({"ana"}),
        settings_version=1,
        tenures=(
            Tenure(since=FAR_PAST, kind="self_serve", owner="ana", policy_version=POLICY.version),
        ),
        **(as_usual | settings),
    )


def rows_of(acme: Team, credits_held: int) -> StoredRows:
    rows = StoredRows(Unwatched())
    rows.teams["acme"] = acme
    rows.policies[POLICY.version] = POLICY
    gift = GrantChange(ANA, "g-1", "add_on", credits_held * CREDIT, None, "gift")
    commit(rows, ANA, [gift], now=NOW, pause=pause, opens_account=True)
    return rows


def ask_for_reload(rows: StoredRows) -> None:
    until = NOW + RELOAD_DEADLINE
    reload = Reload(RELOAD_ID, "acme", ("plan", "add_on"), "requested", 0, 1, NOW, until)
    rows.accounts[ANA] = replace(rows.accounts[ANA], version=2, reload=reload)


def usage(number: int, credits_used: int) -> Delivery:
    body = (
        f'{{"specversion": "1.0", "id": "e-{number}", "source": "/platform", "subject": "run-1",'
        f'"type": "agent_run.usage", "time": "{NOW.isoformat()}", "data": {{"team_id": "acme",'
        f'"trigger": {{"kind": "user", "user_id": "ana"}}, "credits": {credits_used}}}}}'
    )
    return Delivery(str(number), body)


def debit(worker: Debits, *deliveries: Delivery, now: datetime = NOW) -> DebitedBatch:
    return worker.debit(deliveries, now=now, time_is_left=lambda: True)


def saga(rows: StoredRows) -> ReloadSaga:
    return ReloadSaga(rows, rows, {"stripe": Card()}, pause)


def test_a_worker_that_asked_for_a_reload_notices_that_it_was_granted() -> None:
    rows = rows_of(team(), credits_held=5)
    worker = Debits(rows, Directory(rows), pause)
    assert waiting(debit(worker, usage(1, 8))) == {"1": RELOAD_ID}
    resolution = saga(rows).resolve(ReloadRequest(RELOAD_ID, "acme", ANA), NOW)

    again = debit(worker, usage(1, 8))

    assert isinstance(resolution, Granted)
    assert [outcome.name for outcome in again.outcomes] == ["debited"]


def test_events_that_come_again_buy_nothing() -> None:
    rows = rows_of(team(auto_reload=None), credits_held=5)
    debit(Debits(rows, Directory(rows), pause), usage(1, 5))
    rows.teams["acme"] = team()
    before = rows.accounts[ANA]

    debit(Debits(rows, Directory(rows), pause), usage(1, 5), now=NOW + timedelta(days=60))

    assert rows.accounts[ANA] == before


def test_a_page_is_full_for_every_version_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(team(auto_reload=None), credits_held=50)
    with monkeypatch.context() as lower:
        lower.setattr(accounts, "PAGE_ENTRIES_FULL", 2)
        debit(Debits(rows, Directory(rows), pause), usage(1, 1))
    debit(Debits(rows, Directory(rows), pause), usage(2, 1))

    assert [entry.identity.id for entry in rows.pages[ANA, 1].entries] == ["g-1", "e-1"]
    assert rows.accounts[ANA].page_number == 2


def test_a_clock_behind_the_month_does_not_find_its_cap_untouched() -> None:
    # It is November by this worker's clock, and December for a purchase settled before.
    spent = Spending(month="2026-12", spent_cents=0)
    rows = rows_of(team(spending=spent, spend_cap_cents=1_000), credits_held=1)
    ask_for_reload(rows)

    resolution = saga(rows).resolve(ReloadRequest(RELOAD_ID, "acme", ANA), NOW)

    assert isinstance(resolution, Granted)
    assert resolution.reservation.month == "2026-12"
    assert rows.teams["acme"].spending.spent_cents == 1_000


def test_a_reload_declined_beside_a_reservation_is_carried_to_its_end() -> None:
    rows = rows_of(team(), credits_held=1)
    ask_for_reload(rows)
    request = ReloadRequest(RELOAD_ID, "acme", ANA)
    late = NOW + timedelta(minutes=6)
    # A worker that reads the team, and sleeps until another has declined the reload.
    sleeper = _Sleeping(rows, wake=lambda: saga(rows).resolve(request, late))

    resolution = ReloadSaga(rows, sleeper, {"stripe": Card()}, pause).resolve(request, NOW)

    assert not isinstance(resolution, Granted | NotGranted)
    assert rows.teams["acme"].spending.reservations == ()
    assert _purchases(rows) == []


def test_a_reload_that_is_paid_already_is_not_paid_again() -> None:
    rows = rows_of(team(), credits_held=1)
    ask_for_reload(rows)
    request = ReloadRequest(RELOAD_ID, "acme", ANA)
    sleeper = _Sleeping(rows, wake=lambda: saga(rows).resolve(request, NOW))

    ReloadSaga(rows, sleeper, {"stripe": Card()}, pause).resolve(request, NOW)

    assert len(_purchases(rows)) == 1
    assert rows.teams["acme"].spending.spent_cents == 1_000


def test_a_user_who_joins_as_the_team_becomes_an_enterprise_pays_until_it_is_one() -> None:
    rows = OperatedRows()
    apply_file(rows, kind="self_serve", plan="max", members=["olga"])
    apply_file(rows, kind="enterprise", plan="enterprise", members=["olga", "ana"])

    batch = debit(Debits(rows, Directory(rows), pause), usage(1, 8))

    assert rejected(batch) == {}
    assert [(o.principal, o.name) for o in batch.outcomes] == [(ANA, "insufficient")]


def apply_file(rows: OperatedRows, **declared: object) -> None:
    world = declared_document(
        POLICY,
        {"team_id": "acme", "owner": "olga", "time_zone": "UTC", "anchor": NOW.date()} | declared,
    )
    steps = plan_steps(world, read_stack(rows, world), NOW)
    carry_out(rows, steps, clock=lambda: NOW, pause=pause)


class _Sleeping:
    """A team's rows on the way to which the worker falls asleep before its first write."""

    def __init__(self, rows: StoredRows, wake: Any) -> None:
        self._rows = rows
        self._wake = wake
        self.read_team, self.read_policy = rows.read_team, rows.read_policy

    def compare_and_set_team(self, changed: Team) -> Team | None:
        wake, self._wake = self._wake, lambda: None
        wake()
        return self._rows.compare_and_set_team(changed)


def _purchases(rows: StoredRows) -> list[EndedPurchase]:
    return list(rows.teams["acme"].spending.recent)
