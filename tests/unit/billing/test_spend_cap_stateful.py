"""Any interleaving of purchases, caps and months: the cap holds for whatever was reserved under it.

The model keeps every purchase of every month, while the row forgets the months that are
over. After each reservation, what the model counts in its month is within the cap in force then.
"""

from collections import Counter
from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from agent_credits.billing.spend_cap import (
    DECLINES_MAX,
    RESERVATIONS_MAX,
    Spending,
    release,
    reserve,
    settle,
    with_cap,
    with_payment,
)
from agent_credits.values.errors import InvariantViolated
from tests.unit.builders import CARD, OTHER_CARD, reservation

MONTHS = [f"2025-{month:02d}" for month in range(9, 13)]


class AnyPurchases(RuleBasedStateMachine):
    held: Bundle[str] = Bundle("held")

    @initialize(cap=st.integers(0, 300))
    def start(self, cap: int) -> None:
        self.spending = Spending()
        self.cap = cap
        self.month = 0
        self.made = 0
        self.method = CARD
        self.prices: dict[str, int] = {}
        self.months: dict[str, str] = {}
        self.settled: Counter[str] = Counter()

    @rule(target=held, price=st.integers(1, 150), behind=st.booleans())
    def reserve(self, price: int, *, behind: bool) -> object:
        return self._reserved(price, behind=behind) or multiple()

    def _reserved(self, price: int, *, behind: bool) -> str | None:
        """Return the purchase, if it was reserved. A clock may be behind as the month turns."""
        if len(self.spending.reservations) == RESERVATIONS_MAX:
            return None
        self.made += 1
        month = MONTHS[max(self.month - behind, 0)]
        purchase_id = f"reload:{self.made}"
        one = reservation(purchase_id, price_cents=price, month=month, method=self.method)
        try:
            reserved = reserve(self.spending, one, self.cap)
        except InvariantViolated:
            # The spending of a month that is over is no longer stored.
            assert month < self.spending.month
            return None
        if reserved is None:
            assert price > self.spending.head_room(self.cap, month)
            return None
        self.spending = reserved
        self.prices[purchase_id] = price
        self.months[purchase_id] = month
        # Invariant 10, as it can hold where the cap is lowered: under the cap in force now.
        assert self.settled[month] + self.reserved(month) <= self.cap
        return purchase_id

    @rule(price=st.integers(1, 150), behind=st.booleans())
    def buy(self, price: int, *, behind: bool) -> None:
        """Reserve and settle in one go, as nearly every purchase does."""
        purchase_id = self._reserved(price, behind=behind)
        if purchase_id is not None:
            self._settle(purchase_id)

    @rule(purchase_id=consumes(held), payment_is_stored=st.booleans())
    def settle(self, purchase_id: str, *, payment_is_stored: bool) -> None:
        if payment_is_stored:
            self.spending = with_payment(self.spending, purchase_id, "pay_1")
        self._settle(purchase_id)

    def _settle(self, purchase_id: str) -> None:
        now = datetime(2025, 11, 21, tzinfo=UTC)
        self.spending = settle(self.spending, purchase_id, self.cap, now)
        again = settle(self.spending, purchase_id, self.cap, now)
        assert again == self.spending
        self.settled[self.months.pop(purchase_id)] += self.prices.pop(purchase_id)

    @rule(purchase_id=consumes(held))
    def release(self, purchase_id: str) -> None:
        now = datetime(2025, 11, 21, tzinfo=UTC)
        self.spending = release(self.spending, purchase_id, None, now)
        assert release(self.spending, purchase_id, None, now) == self.spending
        del self.prices[purchase_id], self.months[purchase_id]

    @rule(by=st.integers(1, 200))
    def raise_cap(self, by: int) -> None:
        self.cap += by
        self.spending = with_cap(self.spending, self.cap)

    @rule(to=st.integers(0, 100))
    def lower_cap(self, to: int) -> None:
        self.cap = min(self.cap, to)
        self.spending = with_cap(self.spending, self.cap)

    @rule()
    def turn_the_month(self) -> None:
        self.month = min(self.month + 1, len(MONTHS) - 1)

    @rule()
    def change_the_card(self) -> None:
        self.method = OTHER_CARD if self.method == CARD else CARD

    @invariant()
    def the_row_holds_exactly_the_open_purchases(self) -> None:
        if not hasattr(self, "spending"):
            return
        assert {r.purchase_id: r.price_cents for r in self.spending.reservations} == self.prices
        for month in MONTHS:
            assert self.spending.reserved_in(month) == self.reserved(month)

    @invariant()
    def the_row_knows_what_was_spent_in_its_month(self) -> None:
        if hasattr(self, "spending") and self.spending.month:
            assert self.spending.spent_cents == self.settled[self.spending.month]

    @invariant()
    def no_warning_stands_twice_or_below_what_it_warns_of(self) -> None:
        if not hasattr(self, "spending"):
            return
        warned = self.spending.warned_percents
        assert len(set(warned)) == len(warned)
        assert all(self.spending.spent_cents * 100 >= p * self.cap for p in warned)

    @invariant()
    def a_suspension_follows_three_declines(self) -> None:
        if hasattr(self, "spending") and self.spending.declines_in_a_row >= DECLINES_MAX:
            assert self.spending.suspended_payment_method is not None

    def reserved(self, month: str) -> int:
        return sum(p for purchase, p in self.prices.items() if self.months[purchase] == month)


AnyPurchases.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestAnyPurchases = AnyPurchases.TestCase
