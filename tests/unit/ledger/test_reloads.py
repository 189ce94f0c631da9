from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent_credits.ledger.reloads import (
    DECLINE_HOLD,
    LIFTED_BY_SETTINGS,
    RELOAD_DEADLINE,
    Reload,
    ReloadTerms,
    hold_after,
    packs_to_close,
    standing,
)
from tests.unit.builders import MINUTE, NOW, SECOND

TERMS = ReloadTerms(
    team_id="acme",
    settings_version=1,
    pools=("plan", "add_on"),
    threshold_microcredits=100,
    reloads_max=3,
    window=60 * MINUTE,
)
REQUESTED = Reload(
    id="reload:user:ana:2",
    team_id="acme",
    pools=("plan", "add_on"),
    state="requested",
    wanted_microcredits=0,
    settings_version=1,
    since=NOW,
    until=NOW + RELOAD_DEADLINE,
)
REFUSED = replace(REQUESTED, state="declined", cause="payment_declined", until=NOW + DECLINE_HOLD)
MONTH_END = NOW + timedelta(days=9)

amounts = st.integers(0, 10**12)


@given(amounts, amounts, amounts, st.integers(1, 10**12))
def test_a_reload_closes_the_whole_shortfall_and_lands_above_the_threshold(
    available: int, wanted: int, threshold: int, pack: int
) -> None:
    packs = packs_to_close(
        available=available,
        wanted=wanted,
        threshold=threshold,
        pack=pack,
        affordable_packs=10**18,
    )

    assert packs >= 1
    assert available + packs * pack - wanted > threshold
    # One pack less would not do, where more than one is bought.
    assert packs == 1 or available + (packs - 1) * pack - wanted <= threshold


@given(amounts, amounts, amounts, st.integers(1, 10**12), st.integers(0, 100))
def test_a_reload_is_as_large_as_needed_but_never_more_than_the_cap_affords(
    available: int, wanted: int, threshold: int, pack: int, affordable: int
) -> None:
    def packs(affordable_packs: int) -> int:
        return packs_to_close(
            available=available,
            wanted=wanted,
            threshold=threshold,
            pack=pack,
            affordable_packs=affordable_packs,
        )

    assert packs(affordable) == min(packs(10**18), affordable)


@pytest.mark.parametrize(
    ("available", "wanted", "packs"),
    [
        (99, 0, 1),
        (0, 0, 1),
        (0, 299, 1),
        # On the threshold is not above it: one more.
        (0, 300, 2),
        (0, 301, 2),
        (300, 600, 2),
        (50, 3000, 8),
        # The balance has risen since.
        (10_000, 0, 1),
    ],
)
def test_packs_are_bought_whole(available: int, wanted: int, packs: int) -> None:
    assert packs == packs_to_close(
        available=available, wanted=wanted, threshold=100, pack=400, affordable_packs=99
    )


def test_a_team_that_does_not_reload_has_auto_reload_off() -> None:
    assert standing(None, (), None, NOW) == "auto_reload_off"
    assert standing(REQUESTED, (), None, NOW) == "auto_reload_off"


def test_an_account_without_a_reload_is_able() -> None:
    assert standing(None, (), TERMS, NOW) == "able"


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (timedelta(0), "waiting"),
        (RELOAD_DEADLINE - SECOND, "waiting"),
        (RELOAD_DEADLINE, "payment_unavailable"),
        (RELOAD_DEADLINE + DECLINE_HOLD - SECOND, "payment_unavailable"),
        (RELOAD_DEADLINE + DECLINE_HOLD, "able"),
    ],
)
def test_a_reload_that_never_resolves_counts_as_declined_and_ends_its_hold(
    after: timedelta, expected: str
) -> None:
    assert standing(REQUESTED, (), TERMS, NOW + after) == expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (timedelta(0), "payment_declined"),
        (DECLINE_HOLD - SECOND, "payment_declined"),
        (DECLINE_HOLD, "able"),
    ],
)
def test_a_decline_holds_for_its_time(after: timedelta, expected: str) -> None:
    assert standing(REFUSED, (), TERMS, NOW + after) == expected


def test_a_decline_that_settings_lift_holds_until_they_change() -> None:
    declined = replace(REFUSED, cause="suspended", until=None)

    assert standing(declined, (), TERMS, NOW + timedelta(days=400)) == "suspended"
    assert standing(declined, (), replace(TERMS, settings_version=2), NOW) == "able"


def test_settings_as_old_as_the_decline_or_older_do_not_lift_it() -> None:
    declined = replace(REFUSED, settings_version=7)

    assert standing(declined, (), replace(TERMS, settings_version=7), NOW) == "payment_declined"
    assert standing(declined, (), replace(TERMS, settings_version=6), NOW) == "payment_declined"


def test_the_decline_of_one_team_does_not_block_another() -> None:
    """A user runs for two teams, each with its cap, its card and its own count of settings."""
    declined = replace(REFUSED, cause="spend_cap_reached", until=MONTH_END, settings_version=9)
    of_other_team = replace(TERMS, team_id="other", settings_version=1)

    assert standing(declined, (), of_other_team, NOW) == "able"


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        ((59, 30, 1), "too_many_reloads"),
        ((60, 30, 1), "able"),
        ((30, 1), "able"),
        ((300, 200, 100, 30, 1), "able"),
        ((59, 58, 57, 56), "too_many_reloads"),
    ],
)
def test_more_reloads_in_a_window_than_allowed_are_too_many(
    ages: tuple[int, ...], expected: str
) -> None:
    reloaded_at = tuple(NOW - age * MINUTE for age in ages)

    assert standing(None, reloaded_at, TERMS, NOW) == expected


def test_events_wait_for_a_reload_even_if_it_is_the_last_one_allowed() -> None:
    reloaded_at = tuple(NOW - age * MINUTE for age in (3, 2, 1))

    assert standing(REQUESTED, reloaded_at, TERMS, NOW) == "waiting"


def test_each_decline_holds_as_long_as_what_caused_it() -> None:
    assert hold_after("spend_cap_reached", NOW, MONTH_END) == MONTH_END
    for cause in ("payment_declined", "payment_unavailable", "too_many_reloads"):
        assert hold_after(cause, NOW, MONTH_END) == NOW + DECLINE_HOLD
    for cause in LIFTED_BY_SETTINGS:
        assert hold_after(cause, NOW, MONTH_END) is None
