"""What a resolved reload does to its account, and to the events that wait for it."""

import threading
from datetime import timedelta
from typing import Any

import pytest

from agent_credits.billing.teams import Team
from agent_credits.ledger.entries import Page
from agent_credits.ledger.reloads import RELOAD_DEADLINE
from agent_credits.sweeps.reconciliation import Reconciliation
from agent_credits.values.errors import Contended
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    MINUTE,
    PACK_CENTS,
    POLICY,
    RELOADING_ACME,
    SECOND,
    requested,
    usage,
)
from tests.unit.payments.payment_fakes import FakePayments
from tests.unit.reload_world import ReloadWorld, short_world


def test_a_waiting_event_is_debited_in_full_after_the_reload_succeeded() -> None:
    world, event = short_world(available="150", wanted="200")
    world.resolve()

    entry = world.entry(event)

    assert (entry.outcome, entry.shortfall_microcredits) == ("debited", 0)
    assert entry.drawn_microcredits == 200_000_000
    assert world.available() == 350
    assert not world.notices_of_type("insufficient_credits")


def test_every_waiting_event_is_debited_in_full_by_one_reload() -> None:
    world = ReloadWorld()
    world.open_account("150")
    events = [usage(f"e{n}", "200", run=f"run-{n}") for n in range(5)]
    world.deliver(*events)

    world.resolve()
    batch = world.deliver(*events)

    assert [o.result.entry.outcome for o in batch.outcomes] == ["debited"] * 5
    assert len(world.payments.charges) == 1
    assert world.account().reload is None


def test_a_request_that_waited_is_accepted_after_the_reload() -> None:
    world = ReloadWorld()
    world.open_account("150")
    event = requested("e1", credits="300")
    assert world.outcome(event) == "waiting"
    world.resolve()

    assert world.outcome(event) == "accepted"


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"spend_cap_cents": 0}, "spend_cap_reached"),
        ({"payment": None}, "payment_method_missing"),
    ],
)
def test_a_waiting_event_fails_with_the_decline_as_its_cause(
    settings: dict[str, Any], cause: str
) -> None:
    world, event = short_world(team=RELOADING_ACME.model_copy(update=settings))
    world.resolve()

    entry = world.entry(event)

    assert (entry.outcome, entry.decline) == ("insufficient", cause)
    assert entry.drawn_microcredits == 150_000_000
    assert entry.shortfall_microcredits == 50_000_000
    (notice,) = world.notices_of_type("insufficient_credits")
    assert notice.data["cause"] == cause
    assert notice.data["auto_reload"] == {"state": "declined"}


def test_a_waiting_event_of_a_team_that_turned_reloading_off_fails_with_its_pools_exhausted() -> (
    None
):
    world, event = short_world()
    world.apply(auto_reload=None)
    world.resolve()

    entry = world.entry(event)

    assert entry.outcome == "insufficient"
    (notice,) = world.notices_of_type("insufficient_credits")
    assert notice.data["cause"] == "pools_exhausted"


def test_a_run_that_waited_and_failed_is_announced_once() -> None:
    world, event = short_world(payments=FakePayments(["decline"]))
    second = usage("e-second", "300", run="run-short")
    world.deliver(event, second)
    world.resolve()

    world.deliver(event, second)
    world.deliver(event, second)

    (notice,) = world.notices_of_type("insufficient_credits")
    assert notice.data["cause"] == "payment_declined"


def test_no_event_waits_beyond_the_deadline_of_its_reload() -> None:
    world, event = short_world()
    world.later(RELOAD_DEADLINE - SECOND)
    assert world.outcome(event) == "waiting"

    world.later(SECOND)
    entry = world.entry(event)

    assert (entry.outcome, entry.decline) == ("insufficient", "payment_unavailable")


def test_a_worker_that_requested_a_reload_sees_its_success_at_once() -> None:
    """The worker keeps accounts warm, so nothing else would make it read the account again."""
    world, event = short_world()
    world.resolve()
    world.later(2 * SECOND)

    assert world.outcome(event) == "debited"


def test_credits_granted_by_hand_also_end_the_wait() -> None:
    world, event = short_world()
    world.grant("by-hand", "1000")

    assert world.outcome(event) == "debited"


def test_a_failed_event_stays_failed_after_the_reload() -> None:
    world, event = short_world()
    world.later(RELOAD_DEADLINE)
    assert world.outcome(event) == "insufficient"
    world.now -= MINUTE
    world.resolve()
    balance = world.available()

    assert world.outcome(event) == "insufficient"
    assert world.available() == balance


def test_the_ledger_of_an_account_that_reloads_reconciles_with_its_row() -> None:
    world, event = short_world()
    world.resolve()
    world.deliver(event)
    world.payments.confirms[0] = "decline"
    world.deliver(usage("e2", "300"))
    world.resolve()
    world.deliver(usage("e3", "300", run="run-3"))

    policies = {POLICY.version: POLICY}
    reconciliation = Reconciliation(ANA)
    account = world.account()
    for number in range(1, account.page_number):
        reconciliation.add_page(world.rows.pages[ANA, number], policies)
    reconciliation.add_page(Page(ANA, account.page_number, account.entries), policies)
    reconciliation.compare_with(account)

    assert {e.type for e in world.history()} >= {"reload.granted", "reload.declined"}
    assert reconciliation.findings == []


ACCOUNTS = 8
TRIGGERS = 16
ROOM_PACKS = 3
MONTH = "2025-11"
# A worker that loses too many races gives its message back; another one won each of them.
DELIVERIES_MAX = 100


class LockedRows(MemoryRows):
    """Rows for many threads: each call is one step, and each write of a team is observed."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        # What was spent and reserved in all, after each write.
        self.observed_cents: list[int] = []

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name.startswith("_") or not callable(attribute):
            return attribute

        def locked(*arguments: Any) -> Any:
            with self._lock:
                return attribute(*arguments)

        return locked

    def compare_and_set_team(self, team: Team) -> Team | None:
        lost = super().compare_and_set_team(team)
        spending = self.teams[team.team_id].spending
        self.observed_cents.append(spending.spent_in(MONTH) + spending.reserved_in(MONTH))
        return lost


@pytest.mark.usefixtures("short_switch_interval")
@pytest.mark.parametrize("confirm", ["success", "timeout after success", "processing"])
def test_sixteen_triggers_for_eight_accounts_charge_exactly_the_three_packs_that_fit_the_cap(
    confirm: Any,
) -> None:
    team = RELOADING_ACME.model_copy(
        update={"spend_cap_cents": ROOM_PACKS * PACK_CENTS + PACK_CENTS // 2}
    )
    payments = FakePayments([confirm])
    rows = LockedRows()
    world = ReloadWorld(team=team, payments=payments, rows=rows)
    users = [f"u{number}" for number in range(ACCOUNTS)]
    for user in users:
        world.open_account("150", Principal("user", user))
        world.deliver(usage(f"e-{user}", "200", run=f"run-{user}", user=user))
    assert len(world.requests) == ACCOUNTS

    def deliver(number: int) -> None:
        saga, request = world.saga, world.requests[number % ACCOUNTS]
        for _ in range(DELIVERIES_MAX):
            try:
                saga.resolve(request, world.now)
            except Contended:
                continue
            return
        pytest.fail("a message was never carried out")

    in_threads(deliver)
    payments.finish(succeeds=True)
    in_threads(deliver)
    world.announce()

    assert len(payments.charges) == ROOM_PACKS
    assert world.spending.spent_cents == ROOM_PACKS * PACK_CENTS
    assert world.spending.reservations == ()
    assert len(rows.observed_cents) >= 2 * ROOM_PACKS
    assert max(rows.observed_cents) <= team.spend_cap_cents
    outcomes = [world.entry(usage(f"e-{u}", "200", run=f"run-{u}", user=u)) for u in users]
    assert sorted(entry.outcome for entry in outcomes) == ["debited"] * 3 + ["insufficient"] * 5
    assert {e.decline for e in outcomes if e.outcome == "insufficient"} == {"spend_cap_reached"}


def in_threads(deliver: Any) -> None:
    faults: list[BaseException] = []
    together = threading.Barrier(TRIGGERS)

    def run(number: int) -> None:
        together.wait()
        try:
            deliver(number)
        except BaseException as fault:
            faults.append(fault)
            raise

    threads = [threading.Thread(target=run, args=(n,)) for n in range(TRIGGERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_a_late_reload_is_granted_and_does_not_end_the_newer_one() -> None:
    world, _ = short_world(payments=FakePayments(["processing"]))
    old = world.requests[0]
    world.resolve()
    world.later(timedelta(hours=1))
    world.deliver(usage("e-new", "200", run="run-new"))
    assert world.requests[-1] != old

    world.payments.finish(succeeds=True)
    world.resolve(old)

    assert world.available() == 550
    assert world.reload().id == world.requests[-1].reload_id
