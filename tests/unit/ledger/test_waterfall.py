from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent_credits.ledger.grants import Grant, drawing_order
from agent_credits.ledger.waterfall import draw
from tests.unit.builders import NOW, grant

POOLS = ("trial", "plan", "add_on")
SOON, LATER = NOW + timedelta(days=1), NOW + timedelta(days=9)

grants_of_every_kind = st.lists(
    st.builds(
        Grant,
        id=st.uuids().map(str),
        pool=st.sampled_from([*POOLS, "contract"]),
        amount_microcredits=st.just(10_000_000),
        remaining_microcredits=st.integers(0, 10_000_000),
        granted_at=st.sampled_from([NOW - timedelta(days=2), NOW - timedelta(days=1)]),
        expires_at=st.sampled_from([None, NOW - timedelta(days=1), NOW, SOON, LATER]),
        cause=st.just("purchase"),
    ),
    max_size=8,
    unique_by=lambda g: g.id,
).map(tuple)
amounts = st.integers(1, 60_000_000)


def drawn_from(grants: tuple[Grant, ...], microcredits: int) -> list[str]:
    return [part.grant_id for part in draw(grants, POOLS, microcredits, NOW).draws]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(
            grant("z", "plan"), grant("a", "add_on", expires_at=SOON), id="pool before expiry"
        ),
        pytest.param(
            grant("z", expires_at=SOON), grant("a", expires_at=LATER), id="earliest expiry first"
        ),
        pytest.param(grant("z", expires_at=LATER), grant("a"), id="never expiring last"),
        pytest.param(
            grant("z", granted_at=NOW - timedelta(days=9)),
            grant("a", granted_at=NOW - timedelta(days=8)),
            id="oldest grant first",
        ),
        pytest.param(grant("a"), grant("z"), id="then the id"),
    ],
)
def test_grants_are_drawn_in_one_order(first: Grant, second: Grant) -> None:
    assert drawn_from((second, first), 15_000_000) == [first.id, second.id]
    assert drawn_from((first, second), 10_000_000) == [first.id]


def test_a_draw_spills_over_into_the_next_pool() -> None:
    grants = (grant("p", "plan", "3"), grant("a", "add_on", "10"))

    drawn = draw(grants, POOLS, 5_000_000, NOW)

    assert [(d.pool, d.microcredits) for d in drawn.draws] == [
        ("plan", 3_000_000),
        ("add_on", 2_000_000),
    ]
    assert drawn.shortfall_microcredits == 0


def test_what_the_pools_lack_is_the_shortfall() -> None:
    drawn = draw((grant("a", credits="3"),), POOLS, 5_000_000, NOW)

    assert drawn.shortfall_microcredits == 2_000_000
    assert [g.remaining_microcredits for g in drawn.grants] == [0]


def test_a_grant_can_be_drawn_until_just_before_its_expiry() -> None:
    grants = (grant("a", expires_at=NOW),)

    just_before = draw(grants, POOLS, 1, NOW - timedelta(microseconds=1))
    at_expiry = draw(grants, POOLS, 1, NOW)

    assert just_before.shortfall_microcredits == 0
    assert at_expiry.shortfall_microcredits == 1


def test_a_pool_outside_of_the_order_is_left_alone() -> None:
    assert drawn_from((grant("c", "contract"),), 1) == []


@given(grants_of_every_kind, amounts)
def test_draws_plus_shortfall_equal_the_amount(grants: tuple[Grant, ...], amount: int) -> None:
    drawn = draw(grants, POOLS, amount, NOW)

    taken = sum(part.microcredits for part in drawn.draws)
    assert taken + drawn.shortfall_microcredits == amount
    before = sum(g.remaining_microcredits for g in grants)
    assert before - sum(g.remaining_microcredits for g in drawn.grants) == taken


@given(grants_of_every_kind, amounts)
def test_no_grant_falls_below_zero_and_no_expired_one_is_drawn(
    grants: tuple[Grant, ...], amount: int
) -> None:
    drawn = draw(grants, POOLS, amount, NOW)

    assert all(g.remaining_microcredits >= 0 for g in drawn.grants)
    by_id = {g.id: g for g in grants}
    assert all(by_id[part.grant_id].is_live(NOW) for part in drawn.draws)
    assert all(part.microcredits > 0 for part in drawn.draws)


@given(grants_of_every_kind, amounts)
def test_credits_fall_short_only_when_every_live_grant_is_empty(
    grants: tuple[Grant, ...], amount: int
) -> None:
    drawn = draw(grants, POOLS, amount, NOW)

    if drawn.shortfall_microcredits:
        live = [g for g in drawn.grants if g.pool in POOLS and g.is_live(NOW)]
        assert not any(g.remaining_microcredits for g in live)


@given(grants_of_every_kind, amounts, st.randoms(use_true_random=False))
def test_the_order_of_the_grants_on_the_row_does_not_matter(
    grants: tuple[Grant, ...], amount: int, random: object
) -> None:
    shuffled = list(grants)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    one, other = draw(grants, POOLS, amount, NOW), draw(tuple(shuffled), POOLS, amount, NOW)

    assert one.draws == other.draws
    assert one.shortfall_microcredits == other.shortfall_microcredits
    assert {g.id: g for g in one.grants} == {g.id: g for g in other.grants}


@given(grants_of_every_kind)
def test_no_two_grants_ever_tie(grants: tuple[Grant, ...]) -> None:
    alike = tuple(replace(g, pool="plan", expires_at=None, granted_at=NOW) for g in grants)

    assert [g.id for g in drawing_order(alike, POOLS)] == sorted(g.id for g in alike)


@given(grants_of_every_kind, st.integers(1, 20_000_000), st.integers(1, 20_000_000))
def test_two_draws_in_a_row_take_what_one_draw_of_both_takes(
    grants: tuple[Grant, ...], first: int, second: int
) -> None:
    whole = draw(grants, POOLS, first + second, NOW)

    one = draw(grants, POOLS, first, NOW)
    two = draw(one.grants, POOLS, second, NOW)

    assert two.grants == whole.grants
    both = one.shortfall_microcredits + two.shortfall_microcredits
    assert both == whole.shortfall_microcredits
