from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent_credits.ledger.accounts import Account, available_microcredits
from agent_credits.ledger.expiry import bring_up_to, resets_at
from tests.unit.builders import ANA, NOW, grant, plan

PERIOD_START = datetime(2025, 11, 1, tzinfo=UTC)
PERIOD_END = datetime(2025, 12, 1, tzinfo=UTC)


def subscribed(refilled_from: date | None = None) -> Account:
    return Account(ANA, 1, plan=replace(plan(anchor=PERIOD_START), refilled_from=refilled_from))


def test_a_plan_refills_once_a_period_with_credits_that_end_with_it() -> None:
    once = bring_up_to(subscribed(), NOW)
    twice = bring_up_to(once, PERIOD_END - timedelta(seconds=1))

    (refill,) = once.grants
    assert refill.id == "refill:2025-11-01"
    assert (refill.granted_at, refill.expires_at) == (PERIOD_START, PERIOD_END)
    assert refill.remaining_microcredits == 100_000_000
    assert [entry.outcome for entry in once.entries] == ["refilled"]
    assert twice == once


def test_plan_credits_do_not_roll_over() -> None:
    november = bring_up_to(subscribed(), NOW)

    december = bring_up_to(november, PERIOD_END)

    assert [g.id for g in december.grants] == ["refill:2025-12-01"]
    assert available_microcredits(december, ("plan",), PERIOD_END) == 100_000_000
    assert [e.outcome for e in december.entries] == ["refilled", "expired", "refilled"]
    assert december.entries[1].amount_microcredits == 100_000_000


def test_an_account_unused_for_months_is_refilled_only_for_the_current_one() -> None:
    awake = bring_up_to(bring_up_to(subscribed(), NOW), datetime(2026, 5, 20, tzinfo=UTC))

    assert [g.id for g in awake.grants] == ["refill:2026-05-01"]


def test_a_slow_clock_does_not_refill_twice() -> None:
    ahead = bring_up_to(subscribed(), PERIOD_END)

    assert bring_up_to(ahead, PERIOD_END - timedelta(seconds=2)) == ahead


def test_a_plan_without_credits_never_refills() -> None:
    account = Account(ANA, 1, plan=replace(plan(), microcredits=0))

    assert bring_up_to(account, NOW) == account
    assert resets_at(account, NOW) is None


def test_a_plan_refills_from_its_anchor_on() -> None:
    account = Account(ANA, 1, plan=plan(anchor=PERIOD_END))

    assert bring_up_to(account, NOW).grants == ()
    assert bring_up_to(account, PERIOD_END).grants[0].id == "refill:2025-12-01"


def test_the_next_refill_is_at_the_end_of_the_period() -> None:
    assert resets_at(subscribed(), NOW) == PERIOD_END
    assert resets_at(subscribed(), PERIOD_END) == datetime(2026, 1, 1, tzinfo=UTC)
    assert resets_at(Account(ANA), NOW) is None


def test_a_plan_that_has_not_started_refills_at_its_anchor() -> None:
    account = Account(ANA, 1, plan=plan(anchor=PERIOD_END))

    assert resets_at(account, NOW) == PERIOD_END


def test_expired_credits_expire_with_an_entry_each() -> None:
    account = Account(
        ANA,
        1,
        grants=(
            grant("gone", credits="7", remaining="3", expires_at=NOW),
            grant("here", expires_at=NOW + timedelta(seconds=1)),
            grant("forever"),
        ),
    )

    expired = bring_up_to(account, NOW)

    assert [g.id for g in expired.grants] == ["here", "forever"]
    (entry,) = expired.entries
    assert (entry.type, entry.outcome) == ("credits.expired", "expired")
    assert entry.amount_microcredits == 3_000_000
    assert entry.grant == account.grants[0]


def test_an_empty_grant_that_expires_leaves_no_entry() -> None:
    empty = replace(grant("empty", expires_at=NOW), remaining_microcredits=0)

    assert bring_up_to(Account(ANA, 1, grants=(empty,)), NOW) == Account(ANA, 1)


@given(st.lists(st.integers(-3, 6), max_size=6), st.integers(0, 300))
def test_bringing_an_account_up_to_date_is_idempotent(expiries: list[int], days: int) -> None:
    grants = tuple(
        grant(f"g-{number}", expires_at=NOW + timedelta(days=in_days))
        for number, in_days in enumerate(expiries)
    )
    account = replace(subscribed(), grants=grants)
    now = NOW + timedelta(days=days)

    once = bring_up_to(account, now)

    assert bring_up_to(once, now) == once
    assert all(g.is_live(now) for g in once.grants)
    assert len({entry.identity for entry in once.entries}) == len(once.entries)
