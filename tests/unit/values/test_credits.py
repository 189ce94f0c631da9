from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_credits.values.credits import CREDITS_MAX, format_credits, parse_credits, parse_usage

MICROCREDITS_MAX = CREDITS_MAX * 1_000_000


@pytest.mark.parametrize(
    ("written", "microcredits"),
    [
        ("12.5", 12_500_000),
        ("0.000001", 1),
        ("0.1", 100_000),
        ("1.10", 1_100_000),
        ("400", 400_000_000),
        (400, 400_000_000),
        (1, 1_000_000),
        ("1000000000", MICROCREDITS_MAX),
        (CREDITS_MAX, MICROCREDITS_MAX),
    ],
)
def test_a_decimal_string_or_integer_is_read_exactly(written: str | int, microcredits: int) -> None:
    assert parse_credits(written) == microcredits


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(12.5, id="float"),
        pytest.param(1.0, id="whole float"),
        pytest.param(float("nan"), id="nan"),
        pytest.param(True, id="bool"),
        pytest.param(None, id="null"),
        pytest.param(["1"], id="array"),
        pytest.param(Decimal(1), id="Decimal"),
        pytest.param(b"1", id="bytes"),
        pytest.param(0, id="zero"),
        pytest.param("0", id="zero string"),
        pytest.param("0.000000", id="zero with places"),
        pytest.param(-1, id="negative"),
        pytest.param("-1", id="negative string"),
        pytest.param("-0", id="negative zero"),
        pytest.param("+1", id="sign"),
        pytest.param("0.0000001", id="seven decimals"),
        pytest.param("1.0000000", id="seven decimals that are zero"),
        pytest.param("1e3", id="exponent"),
        pytest.param("1_000", id="underscore"),
        pytest.param("1,5", id="comma"),
        pytest.param("01", id="leading zero"),
        pytest.param(".5", id="no whole part"),
        pytest.param("1.", id="no fraction"),
        pytest.param("", id="empty"),
        pytest.param(" 1", id="space"),
        pytest.param("1\n", id="line break"),
        pytest.param("\u0661", id="Arabic digit"),
        pytest.param("\uff11", id="full-width digit"),
        pytest.param("1\u00b2", id="superscript"),
        pytest.param("Infinity", id="infinity"),
        pytest.param("1000000000.000001", id="just above the largest"),
        pytest.param(CREDITS_MAX + 1, id="integer above the largest"),
        pytest.param("9" * 5_000, id="huge digit string"),
        pytest.param(10**5_000, id="huge integer"),
    ],
)
def test_any_other_value_is_rejected_without_being_quoted(written: object) -> None:
    with pytest.raises(ValueError, match=r"^credits must be") as rejected:
        parse_credits(written)

    assert len(str(rejected.value)) < 80


@pytest.mark.parametrize(
    ("microcredits", "text"),
    [
        (0, "0"),
        (1, "0.000001"),
        (12_500_000, "12.5"),
        (400_000_000, "400"),
        (1_000_000_000_000, "1000000"),
        (-5_500_000, "-5.5"),
        (-1, "-0.000001"),
    ],
)
def test_credits_are_written_as_the_shortest_decimal(microcredits: int, text: str) -> None:
    assert format_credits(microcredits) == text


@given(st.integers(min_value=1, max_value=MICROCREDITS_MAX))
def test_what_is_written_is_read_back(microcredits: int) -> None:
    assert parse_credits(format_credits(microcredits)) == microcredits


@given(st.integers(min_value=-MICROCREDITS_MAX, max_value=MICROCREDITS_MAX))
def test_what_is_written_is_the_exact_value(microcredits: int) -> None:
    assert Decimal(format_credits(microcredits)) * 1_000_000 == microcredits


@pytest.mark.parametrize("nothing", ["0", "0.0", "0.000000", 0])
def test_usage_may_be_none_and_what_is_given_may_not(nothing: str | int) -> None:
    assert parse_usage(nothing) == 0
    with pytest.raises(ValueError, match="credits must be more than zero"):
        parse_credits(nothing)
