"""A manual purchase counts towards the cap once, whatever crashes or races on the way."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.billing.spend_cap import Spending
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account
from agent_credits.payments.purchases import Bought, ManualPurchase, NotBought, buy
from tests.memory_rows import MemoryRows
from tests.unit.builders import ACME, ANA, NOW, grant_change, pause

CALLS_MAX = 60


class Crash(Exception):
    """The operator's machine went away."""


class CrashingRows(MemoryRows):
    """Rows that crash before or after their n-th write."""

    crash_at: tuple[int, str] | None = None
    writes = 0

    def _write(self, write: Any, row: Any) -> Any:
        self.writes += 1
        if self.crash_at == (self.writes, "before"):
            raise Crash
        answer = write(row)
        if self.crash_at == (self.writes, "after"):
            raise Crash
        return answer

    def compare_and_set(self, account: Account) -> Account | None:
        return self._write(super().compare_and_set, account)

    def compare_and_set_team(self, team: Team) -> Team | None:
        return self._write(super().compare_and_set_team, team)


class SharedRows:
    """Rows whose n-th call finds that another operator has just made the same purchase."""

    def __init__(self, rows: MemoryRows, at: int) -> None:
        self._rows = rows
        self._at = at
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                assert isinstance(buy(self._rows, purchase_of(), NOW, pause), Bought)
            return getattr(self._rows, name)(*arguments)

        return call


def rows_with(cap_cents: int, spending: Spending | None = None) -> CrashingRows:
    rows = CrashingRows()
    rows.accounts[ANA] = Account(ANA, version=1)
    settings = {"spend_cap_cents": cap_cents, "spending": spending or Spending()}
    rows.teams["acme"] = ACME.model_copy(update=settings)
    return rows


def purchase_of(grant_id: str = "order-1") -> ManualPurchase:
    return ManualPurchase("acme", grant_change(grant_id, credits="100"), 2_000, "usd")


def test_a_purchase_is_granted_and_counts_towards_the_cap() -> None:
    rows = rows_with(5_000)

    bought = buy(rows, purchase_of(), NOW, pause)

    spending = rows.teams["acme"].spending
    assert bought == Bought(is_new=True)
    assert (spending.spent_in("2025-11"), spending.reservations) == (2_000, ())
    assert [grant.id for grant in rows.accounts[ANA].grants] == ["order-1"]


def test_making_the_same_purchase_again_buys_nothing() -> None:
    rows = rows_with(5_000)
    buy(rows, purchase_of(), NOW, pause)
    team, account = rows.teams["acme"], rows.accounts[ANA]

    again = buy(rows, purchase_of(), NOW + timedelta(days=40), pause)

    assert again == Bought(is_new=False)
    assert (rows.teams["acme"], rows.accounts[ANA]) == (team, account)


@pytest.mark.parametrize("cap_cents", [2_000, 4_000], ids=["a cap for one", "a cap for two"])
def test_a_purchase_that_another_operator_makes_at_any_call_counts_once(cap_cents: int) -> None:
    for at in range(1, CALLS_MAX):
        rows = rows_with(cap_cents)
        shared: Any = SharedRows(rows, at)

        bought = buy(shared, purchase_of(), NOW, pause)

        spending = rows.teams["acme"].spending
        assert isinstance(bought, Bought), f"call {at}"
        assert (spending.spent_in("2025-11"), spending.reservations) == (2_000, ()), f"call {at}"
        assert [grant.id for grant in rows.accounts[ANA].grants] == ["order-1"], f"call {at}"
        if shared.calls < at:
            return
    pytest.fail("the purchase never ended")


def test_a_purchase_that_the_cap_leaves_no_room_for_is_not_made() -> None:
    rows = rows_with(3_000)
    buy(rows, purchase_of(), NOW, pause)

    declined = buy(rows, purchase_of("order-2"), NOW, pause)

    assert isinstance(declined, NotBought)
    assert (declined.cause, declined.head_room_cents) == ("spend_cap_reached", 1_000)
    assert [grant.id for grant in rows.accounts[ANA].grants] == ["order-1"]
    assert rows.teams["acme"].spending.spent_in("2025-11") == 2_000


def test_a_purchase_whose_id_was_granted_on_other_terms_costs_nothing() -> None:
    rows = rows_with(9_000)
    other = replace(purchase_of().grant, microcredits=1)
    buy(rows, replace(purchase_of(), grant=other, price_cents=1), NOW, pause)
    team = rows.teams["acme"]
    # Its reservation was written before the other grant was.
    held = rows_with(9_000)
    held.crash_at = (1, "after")
    with pytest.raises(Crash):
        buy(held, purchase_of(), NOW, pause)
    reservation = held.teams["acme"].spending.reservations
    spending = team.spending.model_copy(update={"reservations": reservation})
    rows.teams["acme"] = team.model_copy(update={"spending": spending})

    declined = buy(rows, purchase_of(), NOW, pause)

    assert isinstance(declined, NotBought)
    assert declined.cause == "other_terms"
    assert rows.teams["acme"].spending.reservations == ()
    assert rows.teams["acme"].spending.spent_in("2025-11") == 1


def assert_nothing_bought(rows: CrashingRows) -> None:
    assert rows.accounts[ANA].grants == ()
    assert rows.teams["acme"].spending == Spending()


@pytest.mark.parametrize("currency", ["eur", "gbp", "xxx"])
def test_a_purchase_in_another_currency_than_the_team_s_is_not_made(currency: str) -> None:
    """One cap cannot add up the money of two currencies."""
    rows = rows_with(9_000)

    declined = buy(rows, replace(purchase_of(), currency=currency), NOW, pause)

    assert isinstance(declined, NotBought)
    assert declined.cause == "other_currency"
    assert_nothing_bought(rows)


def test_a_purchase_charged_to_a_team_that_the_user_is_not_in_is_not_made() -> None:
    rows = rows_with(9_000)
    rows.teams["acme"] = rows.teams["acme"].model_copy(update={"members": frozenset({"ben"})})

    declined = buy(rows, purchase_of(), NOW, pause)

    assert isinstance(declined, NotBought)
    assert declined.cause == "not_a_payer"
    assert_nothing_bought(rows)


def test_a_purchase_made_before_its_user_left_the_team_stays_made() -> None:
    rows = rows_with(9_000)
    buy(rows, purchase_of(), NOW, pause)
    rows.teams["acme"] = rows.teams["acme"].model_copy(update={"members": frozenset({"ben"})})

    assert buy(rows, purchase_of(), NOW, pause) == Bought(is_new=False)


def test_a_manual_purchase_does_not_lift_the_suspension_of_a_card() -> None:
    suspended = Spending(
        declines_in_a_row=3, declined_payment_method="pm-1", suspended_payment_method="pm-1"
    )
    rows = rows_with(5_000, suspended)

    buy(rows, purchase_of(), NOW, pause)

    assert rows.teams["acme"].spending.suspended_payment_method == "pm-1"
    assert rows.teams["acme"].spending.declines_in_a_row == 3


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_purchase_that_crashed_is_completed_when_it_is_made_again(write: int, when: str) -> None:
    rows = rows_with(2_000)
    rows.crash_at = (write, when)
    with pytest.raises(Crash):
        buy(rows, purchase_of(), NOW, pause)
    assert rows.teams["acme"].spending.head_room(2_000, "2025-11") in (0, 2_000)

    rows.crash_at = None
    bought = buy(rows, purchase_of(), NOW, pause)

    spending = rows.teams["acme"].spending
    assert isinstance(bought, Bought)
    assert (spending.spent_in("2025-11"), spending.reservations) == (2_000, ())
    assert len(rows.accounts[ANA].grants) == 1
