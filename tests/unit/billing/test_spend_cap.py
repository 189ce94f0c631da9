import zoneinfo
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent_credits.billing.spend_cap import (
    DECLINES_MAX,
    RECENT_MAX,
    PaymentMethod,
    Spending,
    month_end,
    month_of,
    release,
    reserve,
    settle,
    with_cap,
    with_payment,
)
from agent_credits.billing.teams import Team
from agent_credits.values.errors import InvariantViolated
from tests.unit.builders import (
    CARD,
    INVOICE,
    NOW,
    OTHER_CARD,
    PACK_CENTS,
    RELOADING_ACME,
    reservation,
)

SECOND = timedelta(seconds=1)
CAP = 10 * PACK_CENTS
ZONES = sorted(zoneinfo.available_timezones())


def spent(percent: int, *, cap_cents: int = 100, already: Spending | None = None) -> Spending:
    """Spend this percentage of a cap of 100 cents in one purchase."""
    number = len(already.recent) if already else 0
    one = reservation(f"reload:user:ana:{number}", price_cents=percent)
    reserved = reserve(already or Spending(), one, cap_cents)
    assert reserved is not None
    return settle(reserved, one.purchase_id, cap_cents, NOW)


def declined(
    times: int, method: PaymentMethod = CARD, *, after: Spending | None = None
) -> Spending:
    spending = after or Spending()
    for number in range(times):
        one = reservation(f"reload:{method.name}:{number}", method=method)
        reserved = reserve(spending, one, CAP)
        assert reserved is not None
        spending = release(reserved, one.purchase_id, None, NOW)
    return spending


def test_a_reservation_reduces_the_head_room() -> None:
    spending = reserve(Spending(), reservation(), CAP)

    assert spending is not None
    assert spending.reserved_in("2025-11") == PACK_CENTS
    assert spending.head_room(CAP, "2025-11") == CAP - PACK_CENTS
    assert spending.head_room(CAP, "2025-12") == CAP


@pytest.mark.parametrize(("cap_cents", "fits"), [(PACK_CENTS - 1, False), (PACK_CENTS, True)])
def test_a_purchase_may_reach_the_cap_but_not_pass_it_by_a_cent(
    cap_cents: int, *, fits: bool
) -> None:
    assert (reserve(Spending(), reservation(), cap_cents) is not None) is fits


def test_what_is_reserved_and_what_is_spent_count_together() -> None:
    spending = spent(60)
    held = reserve(spending, reservation("reload:1", price_cents=30), 100)
    assert held is not None

    assert reserve(held, reservation("reload:2", price_cents=11), 100) is None
    assert reserve(held, reservation("reload:2", price_cents=10), 100) is not None


def test_a_purchase_is_reserved_once() -> None:
    held = reserve(Spending(), reservation(), CAP)
    assert held is not None

    with pytest.raises(InvariantViolated, match="one reservation"):
        reserve(held, reservation(), CAP)


def test_a_settled_purchase_is_spent_and_no_longer_reserved() -> None:
    spending = spent(30)

    assert (spending.month, spending.spent_cents, spending.reservations) == ("2025-11", 30, ())
    (purchase,) = spending.recent
    assert (purchase.outcome, purchase.price_cents, purchase.ended_at) == ("settled", 30, NOW)


def test_settling_or_releasing_a_second_time_changes_nothing() -> None:
    settled, released = spent(30), declined(1)

    assert settle(settled, "reload:user:ana:0", CAP, NOW) == settled
    assert release(settled, "reload:user:ana:0", None, NOW) == settled
    assert release(released, "reload:pm_good:0", None, NOW) == released
    assert settle(released, "reload:pm_good:0", CAP, NOW) == released


def test_a_released_purchase_gives_its_head_room_back() -> None:
    spending = declined(1)

    assert spending.head_room(CAP, "2025-11") == CAP
    assert [p.outcome for p in spending.recent] == ["declined"]


def test_of_two_payments_the_one_stored_first_counts() -> None:
    held = reserve(Spending(), reservation(), CAP)
    assert held is not None
    purchase_id = held.reservations[0].purchase_id

    stored = with_payment(with_payment(held, purchase_id, "pay_1"), purchase_id, "pay_2")

    assert stored.reservations[0].payment_id == "pay_1"
    assert with_payment(stored, "another", "pay_3") == stored


def test_a_month_starts_with_nothing_spent_and_no_warning_sent() -> None:
    november = spent(80)
    one = reservation("reload:dec", month="2025-12", price_cents=75)
    held = reserve(november, one, 100)
    assert held is not None

    december = settle(held, "reload:dec", 100, NOW)

    assert (december.month, december.spent_cents) == ("2025-12", 75)
    assert december.warned_percents == (70,)


def test_what_was_reserved_last_month_and_settles_now_counts_last_month() -> None:
    held = reserve(Spending(), reservation("reload:nov", price_cents=90), 100)
    assert held is not None
    both = reserve(held, reservation("reload:dec", month="2025-12", price_cents=80), 100)
    assert both is not None

    in_order = settle(both, "reload:nov", 100, NOW)
    assert (in_order.month, in_order.spent_cents) == ("2025-11", 90)
    december_first = settle(both, "reload:dec", 100, NOW)
    late = settle(december_first, "reload:nov", 100, NOW)

    assert (late.month, late.spent_cents, late.reservations) == ("2025-12", 80, ())
    assert late.warned_percents == december_first.warned_percents
    assert [(p.month, p.outcome) for p in late.recent] == [
        ("2025-12", "settled"),
        ("2025-11", "settled"),
    ]


def test_each_warning_level_is_recorded_once_when_it_is_reached() -> None:
    spending = spent(69)
    assert spending.warned_percents == ()
    for part, expected in [
        (1, (70,)),
        (19, (70,)),
        (1, (70, 90)),
        (9, (70, 90)),
        (1, (70, 90, 100)),
    ]:
        spending = spent(part, already=spending)
        assert spending.warned_percents == expected


def test_one_purchase_may_cross_several_warning_levels() -> None:
    spending = spent(95)

    assert spending.warned_percents == (70, 90)
    assert spending.recent[-1].warned_percents == (70, 90)


def test_a_raised_cap_resets_only_the_warning_levels_above_the_spending() -> None:
    spending = spent(100)

    assert with_cap(spending, 111).warned_percents == (70, 90)
    assert with_cap(spending, 112).warned_percents == (70,)
    assert with_cap(spending, 142).warned_percents == (70,)
    assert with_cap(spending, 143).warned_percents == ()


def test_a_warning_level_is_recorded_again_after_a_raised_cap_reset_it() -> None:
    raised = with_cap(spent(100), 200)
    assert raised.warned_percents == ()

    again = spent(40, cap_cents=200, already=raised)

    assert again.warned_percents == (70,)


def test_a_lowered_cap_leaves_no_head_room_and_keeps_the_spending() -> None:
    lowered = with_cap(spent(80), 50)

    assert lowered.spent_cents == 80
    assert lowered.head_room(50, "2025-11") == 0
    assert reserve(lowered, reservation("reload:2", price_cents=1), 50) is None


def test_a_purchase_reserved_before_the_cap_was_lowered_still_settles() -> None:
    held = reserve(Spending(), reservation("reload:1", price_cents=80), 100)
    assert held is not None

    settled = settle(with_cap(held, 50), "reload:1", 50, NOW)

    assert settled.spent_cents == 80
    assert settled.warned_percents == (70, 90, 100)


def test_without_a_cap_no_warning_level_is_recorded() -> None:
    held = reserve(Spending(), reservation("reload:1", price_cents=80), 100)
    assert held is not None

    assert settle(held, "reload:1", 0, NOW).warned_percents == ()


def test_the_third_decline_in_a_row_suspends_the_payment_method() -> None:
    assert declined(DECLINES_MAX - 1).suspended_payment_method is None
    assert declined(DECLINES_MAX).suspended_payment_method == CARD.name


def test_a_success_resets_the_count() -> None:
    spending = spent(30, cap_cents=CAP, already=declined(2))
    assert spending.declines_in_a_row == 0

    again = declined(2, after=spending)

    assert again.suspended_payment_method is None


def test_declines_of_one_card_are_not_counted_against_another() -> None:
    spending = declined(1, OTHER_CARD, after=declined(2, CARD))

    assert spending.suspended_payment_method is None


def test_a_late_decline_of_the_card_before_does_not_lift_the_suspension_of_the_present_one() -> (
    None
):
    held = reserve(Spending(), reservation("reload:old", method=CARD), CAP)
    assert held is not None
    suspended = declined(DECLINES_MAX, OTHER_CARD, after=held)
    assert suspended.suspended_payment_method == OTHER_CARD.name

    late = release(suspended, "reload:old", None, NOW)

    assert late.suspended_payment_method == OTHER_CARD.name


def test_a_late_success_of_the_suspended_card_does_not_lift_its_suspension() -> None:
    """Only a change of the payment method does; the purchase was reserved before the declines."""
    held = reserve(Spending(), reservation("reload:old", method=CARD), CAP)
    assert held is not None
    suspended = declined(DECLINES_MAX, CARD, after=held)

    late = settle(suspended, "reload:old", CAP, NOW)

    assert late.suspended_payment_method == CARD.name


def test_only_the_last_purchases_are_remembered() -> None:
    spending = declined(RECENT_MAX + 5)

    assert len(spending.recent) == RECENT_MAX
    assert spending.recent[-1].purchase_id == f"reload:pm_good:{RECENT_MAX + 4}"


def test_spending_and_its_reservations_survive_the_row() -> None:
    held = reserve(declined(3), reservation("reload:x", payment_id="pay_1"), CAP)
    assert held is not None

    assert Spending.model_validate_json(held.model_dump_json()) == held


def test_a_stripe_payment_method_names_customer_and_card_and_an_invoice_neither() -> None:
    assert (CARD.name, INVOICE.name) == ("pm_good", "invoice")
    with pytest.raises(ValidationError, match="needs `customer` and `payment_method`"):
        PaymentMethod(provider="stripe", customer="cus_1")


@pytest.mark.parametrize(
    ("zone", "instant", "month"),
    [
        ("UTC", "2026-11-30T23:59:59Z", "2026-11"),
        ("UTC", "2026-12-01T00:00:00Z", "2026-12"),
        # Fourteen hours ahead: December begins while it is morning in London.
        ("Pacific/Kiritimati", "2026-11-30T09:59:59Z", "2026-11"),
        ("Pacific/Kiritimati", "2026-11-30T10:00:00Z", "2026-12"),
        ("America/New_York", "2026-12-01T04:59:59Z", "2026-11"),
        ("America/New_York", "2026-12-01T05:00:00Z", "2026-12"),
        # On Halloween 2027 New York is still in summer, on the first of the next month it is too.
        ("America/New_York", "2027-11-01T03:59:59Z", "2027-10"),
        ("America/New_York", "2027-11-01T04:00:00Z", "2027-11"),
        ("Europe/Berlin", "2026-03-31T21:59:59Z", "2026-03"),
        ("Europe/Berlin", "2026-03-31T22:00:00Z", "2026-04"),
        ("Europe/Berlin", "2026-12-31T22:59:59Z", "2026-12"),
        ("Europe/Berlin", "2026-12-31T23:00:00Z", "2027-01"),
    ],
)
def test_a_purchase_counts_in_the_calendar_month_of_the_team_s_zone(
    zone: str, instant: str, month: str
) -> None:
    assert month_of(datetime.fromisoformat(instant), zone) == month


@pytest.mark.parametrize(
    ("zone", "now", "end"),
    [
        ("UTC", "2026-11-21T10:00:00Z", "2026-12-01T00:00:00Z"),
        ("UTC", "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"),
        ("Pacific/Kiritimati", "2026-11-21T10:00:00Z", "2026-11-30T10:00:00Z"),
        ("Pacific/Kiritimati", "2026-11-30T10:00:00Z", "2026-12-31T10:00:00Z"),
        # The clocks change between now and then.
        ("Europe/Berlin", "2026-03-01T00:00:00Z", "2026-03-31T22:00:00Z"),
        ("Europe/Berlin", "2026-10-01T00:00:00Z", "2026-10-31T23:00:00Z"),
        ("America/New_York", "2026-11-01T05:30:00Z", "2026-12-01T05:00:00Z"),
        # Havana goes back from one o'clock to midnight on a first: the month begins at the earlier.
        ("America/Havana", "2026-10-21T10:00:00Z", "2026-11-01T04:00:00Z"),
    ],
)
def test_a_month_ends_at_the_team_s_midnight(zone: str, now: str, end: str) -> None:
    assert month_end(datetime.fromisoformat(now), zone) == datetime.fromisoformat(end)


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.sampled_from(ZONES),
)
def test_in_every_zone_the_month_changes_at_its_end_and_not_a_second_earlier(
    now: datetime, zone: str
) -> None:
    end = month_end(now, zone)

    assert now < end <= now + timedelta(days=32)
    assert month_of(end - SECOND, zone) == month_of(now, zone)
    assert month_of(end, zone) > month_of(now, zone)


def test_a_team_s_zone_is_one_that_exists() -> None:
    with pytest.raises(ValidationError):
        Team.model_validate({**RELOADING_ACME.model_dump(), "time_zone": "Europe/Berlinn"})


def test_a_decline_releases_no_reservation_that_another_payment_is_stored_on() -> None:
    held = reserve(Spending(), reservation("reload:user:ana:9"), 100_000)
    assert held is not None
    stored = with_payment(held, "reload:user:ana:9", "pi-of-another-worker")

    assert release(stored, "reload:user:ana:9", None, NOW) == stored
