from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_credits.values.periods import Period, period_containing


def utc(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("anchor", "now", "start", "end"),
    [
        pytest.param(
            date(2026, 1, 31), utc(2026, 2, 10), utc(2026, 1, 31), utc(2026, 2, 28), id="clamped"
        ),
        pytest.param(
            date(2026, 1, 31),
            utc(2026, 3, 5),
            utc(2026, 2, 28),
            utc(2026, 3, 31),
            id="a clamp does not stick",
        ),
        pytest.param(
            date(2026, 1, 31), utc(2026, 4, 30), utc(2026, 4, 30), utc(2026, 5, 31), id="30 days"
        ),
        pytest.param(
            date(2023, 12, 31), utc(2024, 2, 29), utc(2024, 2, 29), utc(2024, 3, 31), id="leap"
        ),
        pytest.param(
            date(2024, 2, 29), utc(2025, 3, 1), utc(2025, 2, 28), utc(2025, 3, 29), id="leap anchor"
        ),
        pytest.param(
            date(2025, 12, 15), utc(2026, 1, 1), utc(2025, 12, 15), utc(2026, 1, 15), id="new year"
        ),
        pytest.param(
            date(2000, 2, 1), utc(2100, 2, 28), utc(2100, 2, 1), utc(2100, 3, 1), id="no leap 2100"
        ),
    ],
)
def test_a_period_starts_on_the_anchor_day_clamped_at_the_end_of_the_month(
    anchor: date, now: datetime, start: datetime, end: datetime
) -> None:
    assert period_containing(anchor, now) == Period(start, end)


def test_there_is_no_period_before_the_anchor() -> None:
    anchor = date(2026, 11, 1)

    assert period_containing(anchor, utc(2026, 11, 1) - timedelta(microseconds=1)) is None
    assert period_containing(anchor, utc(2026, 11, 1)) is not None


def test_the_very_boundary_belongs_to_the_next_period() -> None:
    anchor = date(2026, 10, 15)
    boundary = utc(2026, 11, 15)

    before = period_containing(anchor, boundary - timedelta(microseconds=1))
    after = period_containing(anchor, boundary)

    assert before == Period(utc(2026, 10, 15), boundary)
    assert after == Period(boundary, utc(2026, 12, 15))


def test_the_same_instant_in_another_zone_falls_into_the_same_period() -> None:
    anchor = date(2026, 10, 15)
    instant = utc(2026, 11, 14) + timedelta(hours=20)
    in_tokyo = instant.astimezone(timezone(timedelta(hours=9)))

    assert in_tokyo.day == 15
    assert period_containing(anchor, in_tokyo) == period_containing(anchor, instant)


@given(
    st.dates(date(2000, 1, 1), date(2100, 1, 1)),
    st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_periods_tile_time_without_gap_or_overlap(anchor: date, now: datetime) -> None:
    period = period_containing(anchor, now)

    if period is None:
        assert now.date() < anchor
        return
    assert period.start <= now < period.end
    assert timedelta(days=28) <= period.end - period.start <= timedelta(days=31)
    following = period_containing(anchor, period.end)
    assert following is not None
    assert following.start == period.end
