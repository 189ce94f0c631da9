"""A team's spending on reloads and purchases, which never passes the team's cap.

The cap is an invariant: before a card is charged, head-room is reserved by compare-and-set on the
team's row. It is released on a definite decline, settled on success, and kept while the outcome is
unknown. Money counts in the calendar month, in the team's time zone, in which it was reserved, even
if it is settled later.
"""

from datetime import UTC, datetime
from typing import Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from agent_credits.ledger.grants import RELOAD_PREFIX
from agent_credits.values.errors import require
from agent_credits.values.identifiers import Identifier, PoolName

WARNING_PERCENTS = (70, 90, 100)
DECLINES_MAX = 3
RESERVATIONS_MAX = 100
RECENT_MAX = 20


class _Frozen(BaseModel):
    # A part of other models; see `Strict`.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class PaymentMethod(_Frozen):
    """How the team pays: `stripe` with a customer and a card, or `invoice` with neither."""

    provider: Literal["stripe", "invoice"]
    customer: Identifier | None = None
    payment_method: Identifier | None = None

    @model_validator(mode="after")
    def _stripe_names_a_card(self) -> Self:
        if self.provider == "stripe" and (self.customer is None or self.payment_method is None):
            raise ValueError("a stripe payment method needs `customer` and `payment_method`")
        return self

    @property
    def name(self) -> str:
        return self.payment_method or self.provider


class CapReservation(_Frozen):
    """Head-room held for one purchase until the outcome of its payment is known.

    `payment_id` is the payment provider's. It is stored before the payment is confirmed, so that a
    retry confirms this payment and never makes a second one.
    """

    purchase_id: str
    principal: str
    month: str
    packs: int = Field(ge=1)
    pool: PoolName
    microcredits: int = Field(gt=0)
    price_cents: int = Field(ge=0)
    currency: str
    method: PaymentMethod
    reserved_at: AwareDatetime
    # After this the purchase counts as declined for the events that wait for it.
    deadline: AwareDatetime
    payment_id: str | None = None

    @property
    def is_reload(self) -> bool:
        return self.purchase_id.startswith(RELOAD_PREFIX)


class EndedPurchase(_Frozen):
    """How a purchase ended. The last few are kept for the operator and to detect late repeats."""

    purchase_id: str
    principal: str
    month: str
    price_cents: int
    currency: str
    outcome: Literal["settled", "declined"]
    ended_at: AwareDatetime
    warned_percents: tuple[int, ...] = ()


class Spending(_Frozen):
    """The money that a team has spent and reserved.

    `spent_cents` counts `month` only; a new month starts at zero. `suspended_payment_method` was
    declined three times in a row and is not charged again.
    """

    month: str = ""
    spent_cents: int = Field(default=0, ge=0)
    warned_percents: tuple[int, ...] = ()
    reservations: tuple[CapReservation, ...] = Field(default=(), max_length=RESERVATIONS_MAX)
    recent: tuple[EndedPurchase, ...] = ()
    declines_in_a_row: int = Field(default=0, ge=0)
    declined_payment_method: str | None = None
    suspended_payment_method: str | None = None
    # Incremented when a reload ends without a reservation; see `fence`.
    fences: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _a_purchase_is_reserved_once(self) -> Self:
        ids = [reservation.purchase_id for reservation in self.reservations]
        require(len(ids) == len(set(ids)), "a purchase has one reservation")
        return self

    def reservation(self, purchase_id: str) -> CapReservation | None:
        return next((r for r in self.reservations if r.purchase_id == purchase_id), None)

    def spent_in(self, month: str) -> int:
        return self.spent_cents if self.month == month else 0

    def reserved_in(self, month: str) -> int:
        return sum(r.price_cents for r in self.reservations if r.month == month)

    def counted_in(self, month: str) -> int:
        """Return what counts towards the month's cap: what is spent and what is reserved."""
        return self.spent_in(month) + self.reserved_in(month)

    def head_room(self, cap_cents: int, month: str) -> int:
        """Return what may still be reserved; never negative, even after the cap was lowered."""
        return max(cap_cents - self.counted_in(month), 0)


def month_of(now: datetime, time_zone: str) -> str:
    """Return the calendar month of an instant in the team's time zone: "2026-11"."""
    return now.astimezone(ZoneInfo(time_zone)).strftime("%Y-%m")


def month_to_reserve_in(spending: Spending, now: datetime, time_zone: str) -> str:
    """Return the current month, or the last month with spending if that is later.

    Clocks differ, and a team may move its time zone west. A month that is over stays over, because
    its spending is no longer stored.
    """
    return max(month_of(now, time_zone), spending.month)


def month_end(now: datetime, time_zone: str) -> datetime:
    """Return when the month ends in this time zone, whose UTC offset may change before that."""
    local = now.astimezone(ZoneInfo(time_zone))
    year, month = (local.year + 1, 1) if local.month == 12 else (local.year, local.month + 1)
    return datetime(year, month, 1, tzinfo=ZoneInfo(time_zone)).astimezone(UTC)


def reserve(spending: Spending, reservation: CapReservation, cap_cents: int) -> Spending | None:
    """Hold head-room for a purchase, or return None if the cap leaves too little."""
    require(reservation.month >= spending.month, "no purchase is reserved in a month that is over")
    if reservation.price_cents > spending.head_room(cap_cents, reservation.month):
        return None
    reserved = _update(spending, reservations=(*spending.reservations, reservation))
    total = reserved.counted_in(reservation.month)
    require(total <= cap_cents, "spent plus reserved never passes the cap")
    return reserved


def fence(spending: Spending) -> Spending:
    """Change the row but not the spending, so that a reservation decided earlier loses its race."""
    return _update(spending, fences=spending.fences + 1)


def with_payment(spending: Spending, purchase_id: str, payment_id: str) -> Spending:
    """Store the payment's id on the reservation, unless it already has one."""
    return _update(
        spending,
        reservations=tuple(
            r.model_copy(update={"payment_id": payment_id})
            if r.purchase_id == purchase_id and r.payment_id is None
            else r
            for r in spending.reservations
        ),
    )


def settle(spending: Spending, purchase_id: str, cap_cents: int, now: datetime) -> Spending:
    """Turn a reservation into spending. Without one, the purchase was settled before."""
    held = spending.reservation(purchase_id)
    if held is None:
        return spending
    month, spent, warned = spending.month, spending.spent_cents, spending.warned_percents
    if held.month > month:
        month, spent, warned = held.month, 0, ()
    crossed: tuple[int, ...] = ()
    # A reservation of a month that is over does not count towards the current month's cap.
    if held.month == month:
        spent += held.price_cents
        crossed = tuple(
            percent
            for percent in WARNING_PERCENTS
            if percent not in warned and cap_cents and spent * 100 >= percent * cap_cents
        )
    return _update(
        spending,
        month=month,
        spent_cents=spent,
        warned_percents=(*warned, *crossed),
        reservations=_without(spending, purchase_id),
        recent=_remembered(spending, held, "settled", now, crossed),
        # A manual purchase says nothing about the card that reloads charge.
        **(_after_success(spending, held.method) if held.is_reload else {}),
    )


def release(
    spending: Spending, purchase_id: str, payment_id: str | None, now: datetime
) -> Spending:
    """Release a declined purchase's head-room and count the decline; the third one suspends.

    Does nothing if another worker has stored a payment since: that one may be charged.
    """
    held = spending.reservation(purchase_id)
    if held is None or held.payment_id != payment_id:
        return spending
    return _update(
        spending,
        reservations=_without(spending, purchase_id),
        recent=_remembered(spending, held, "declined", now),
        **_after_decline(spending, held.method),
    )


def give_up(spending: Spending, purchase_id: str, payment_id: str | None) -> Spending:
    """Release the head-room of a purchase that was never charged, without counting a decline.

    Does nothing if another worker has stored a payment since: that one may be charged.
    """
    held = spending.reservation(purchase_id)
    if held is None or held.payment_id != payment_id:
        return spending
    return _update(spending, reservations=_without(spending, purchase_id))


def _after_success(spending: Spending, method: PaymentMethod) -> dict[str, object]:
    # Only another payment method lifts a suspension. A late success of the suspended one does not.
    suspended = spending.suspended_payment_method
    return {
        "declines_in_a_row": 0,
        "declined_payment_method": None,
        "suspended_payment_method": suspended if suspended == method.name else None,
    }


def _after_decline(spending: Spending, method: PaymentMethod) -> dict[str, object]:
    same = spending.declined_payment_method == method.name
    declines = spending.declines_in_a_row + 1 if same else 1
    counted: dict[str, object] = {
        "declines_in_a_row": declines,
        "declined_payment_method": method.name,
    }
    if declines >= DECLINES_MAX:
        counted["suspended_payment_method"] = method.name
    return counted


def with_cap(spending: Spending, cap_cents: int) -> Spending:
    """Return the spending under another cap; warnings that it is below again may be sent again."""
    return _update(
        spending,
        warned_percents=tuple(
            p for p in spending.warned_percents if spending.spent_cents * 100 >= p * cap_cents
        ),
    )


def _without(spending: Spending, purchase_id: str) -> tuple[CapReservation, ...]:
    return tuple(r for r in spending.reservations if r.purchase_id != purchase_id)


def _remembered(
    spending: Spending,
    held: CapReservation,
    outcome: Literal["settled", "declined"],
    now: datetime,
    warned_percents: tuple[int, ...] = (),
) -> tuple[EndedPurchase, ...]:
    purchase = EndedPurchase(
        purchase_id=held.purchase_id,
        principal=held.principal,
        month=held.month,
        price_cents=held.price_cents,
        currency=held.currency,
        outcome=outcome,
        ended_at=now,
        warned_percents=warned_percents,
    )
    return (*spending.recent, purchase)[-RECENT_MAX:]


def _update(spending: Spending, **fields: object) -> Spending:
    # Not model_copy, which does not validate.
    return Spending.model_validate({**dict(spending), **fields})
