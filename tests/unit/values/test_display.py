"""The one format in which people read each kind of value."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_credits.values.credits import format_credits
from agent_credits.values.display import (
    amount_text,
    count_text,
    credits_text,
    decimal_credits_text,
    money_text,
    shortened,
    time_text,
)

amounts = st.integers(min_value=-(10**15), max_value=10**15)


@pytest.mark.parametrize(
    ("microcredits", "text"),
    [
        (0, "0 credits"),
        (1, "0.000001 credits"),
        (999_999_999, "999.999999 credits"),
        (1_000_000, "1 credit"),
        (1_500_000, "1.5 credits"),
        (1_249_000_000, "1,249 credits"),
        (1_000_000_500_000, "1,000,000.5 credits"),
        (-1_250_500_000, "-1,250.5 credits"),
    ],
)
def test_credits_have_thousands_separators_and_the_right_plural(
    microcredits: int, text: str
) -> None:
    assert credits_text(microcredits) == text
    assert amount_text(microcredits) == text.partition(" ")[0]


@given(amounts)
def test_an_amount_without_its_separators_is_the_exact_decimal(microcredits: int) -> None:
    assert amount_text(microcredits).replace(",", "") == format_credits(microcredits)


@given(amounts)
def test_a_decimal_string_of_data_is_shown_like_the_amount_it_was_made_from(
    microcredits: int,
) -> None:
    assert decimal_credits_text(format_credits(microcredits)) == credits_text(microcredits)


@pytest.mark.parametrize("text", ["", "?", "1e9", "12.", "٣", "1,000", "007", "9" * 5_000])
def test_text_that_is_no_decimal_is_shown_unchanged(text: str) -> None:
    assert decimal_credits_text(text) == f"{text} credits"


@pytest.mark.parametrize(
    ("cents", "currency", "text"),
    [
        (0, "usd", "0.00 USD"),
        (5, "usd", "0.05 USD"),
        (1999, "eur", "19.99 EUR"),
        (123_450, "usd", "1,234.50 USD"),
        (100_000_000, "usd", "1,000,000.00 USD"),
        (-150, "usd", "-1.50 USD"),
    ],
)
def test_money_has_thousands_separators_two_places_and_its_currency(
    cents: int, currency: str, text: str
) -> None:
    assert money_text(cents, currency) == text


@pytest.mark.parametrize("hours", [0, 5.5, -8])
def test_a_time_is_shown_in_utc_to_the_minute_whatever_its_offset(hours: float) -> None:
    instant = datetime(2026, 11, 30, 0, 0, 59, tzinfo=UTC)

    assert time_text(instant.astimezone(timezone(timedelta(hours=hours)))) == "2026-11-30 00:00 UTC"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 packs"), (1, "1 pack"), (2, "2 packs"), (2_000, "2,000 packs")]
)
def test_a_count_has_the_right_plural(count: int, text: str) -> None:
    assert count_text(count, "pack") == text


@pytest.mark.parametrize(
    ("text", "length_max", "expected"),
    [
        ("fits exactly", 12, "fits exactly"),
        ("one two three", 12, "one two…"),
        ("one two three", 8, "one two…"),
        ("one two three", 6, "one…"),
        ("one, two", 5, "one…"),
        ("Run failed: nobody pays", 13, "Run failed…"),
        ("x" * 20, 10, "xxxxxxxxx…"),
        ("Run " + "r" * 20, 12, "Run rrrrrrr…"),
    ],
)
def test_text_is_cut_behind_a_whole_word_and_ends_in_an_ellipsis(
    text: str, length_max: int, expected: str
) -> None:
    assert shortened(text, length_max) == expected


@given(st.text(), st.integers(min_value=2, max_value=50))
def test_shortened_text_never_passes_its_length(text: str, length_max: int) -> None:
    short = shortened(text, length_max)

    assert len(short) <= length_max
    assert short == text or text.startswith(short.removesuffix("…"))
