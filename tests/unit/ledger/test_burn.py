"""What an account burns by day, and how long its credits last at that rate."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.burn import (
    BurnByDay,
    burn_of,
    burned_over,
    entries_since,
    exhausted_on,
    first_day,
)
from agent_credits.ledger.entries import Draw, Entry, Page
from tests.conformance.samples import entry
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    BEN,
    NOW,
    finished,
    grant_change,
    history,
    open_account,
    pause,
    requested,
    run_changes,
    usage,
)
from tests.unit.commit.test_shared_pools import TEAM, SharingWorld

TODAY = date(2025, 3, 2)
NOON = datetime(2025, 3, 2, 12, tzinfo=UTC)
CREDIT = 1_000_000


def drawn(at: datetime, microcredits: int, outcome: str = "debited") -> Entry:
    draws = (Draw("plan", "g-1", microcredits),)
    return replace(entry("run-1", "e-1"), recorded_at=at, draws=draws, outcome=outcome)  # type: ignore[arg-type]


def on(days: dict[int, int]) -> BurnByDay:
    """Return what was burned so many days before today."""
    return Counter({TODAY - timedelta(days=back): amount for back, amount in days.items()})


def test_burn_is_what_usage_drew_less_what_was_returned() -> None:
    rows = MemoryRows()
    open_account(rows, grant_change("g-1", credits="100"), now=NOON - timedelta(days=9))
    days = [
        (8, [requested("e0", credits="5"), usage("e1", "10")]),
        (7, [usage("e2", "30", run="run-2"), usage("e3", "1000", run="run-3")]),
        (6, [finished("e4", "error", run="run-2"), finished("e5", "ok")]),
    ]
    for back, documents in days:
        at = NOON - timedelta(days=back)
        sent = [{**document, "time": at.isoformat()} for document in documents]
        commit(rows, ANA, run_changes(*sent), now=at, pause=pause)

    burned = burn_of(rows.accounts[ANA].entries, first_day(TODAY))

    # Run 3 asked for 1,000 and drew the 60 that were left.
    assert burned == on({8: 10 * CREDIT, 7: 90 * CREDIT, 6: -30 * CREDIT})


def test_credits_that_expire_or_are_granted_are_not_burned() -> None:
    granted = replace(drawn(NOON, 5, "granted"), draws=())
    expired = replace(drawn(NOON, 5, "expired"), draws=())

    assert burn_of([granted, expired], first_day(TODAY)) == {}


def test_a_day_is_a_utc_day() -> None:
    tokyo = timezone(timedelta(hours=9))
    late = drawn(datetime(2025, 3, 1, 23, 59, tzinfo=UTC), 1)
    early = drawn(datetime(2025, 3, 1, 9, 0, tzinfo=tokyo), 2)
    before = drawn(datetime(2025, 3, 1, 8, 59, tzinfo=tokyo), 4)

    burned = burn_of([late, early, before], first_day(TODAY))

    assert burned == on({1: 3, 2: 4})


def test_windows_are_complete_days_and_today_is_in_none() -> None:
    burned = on({0: 1_000, 1: 1, 2: 2, 7: 4, 8: 8, 30: 16, 31: 32})

    assert [burned_over(burned, days, TODAY) for days in (1, 7, 30)] == [1, 7, 31]


def test_a_window_reaches_over_the_end_of_a_short_month() -> None:
    assert first_day(date(2025, 3, 2)) == date(2025, 1, 31)
    assert first_day(date(2024, 3, 2)) == date(2024, 2, 1)


def test_burn_is_never_negative() -> None:
    assert burned_over(on({1: -5, 2: 3}), 1, TODAY) == 0
    assert burned_over(on({1: -5, 2: 3, 3: 4}), 7, TODAY) == 2


@pytest.mark.parametrize(
    ("available", "burned", "expected"),
    [
        (70, {1: 70}, 7),  # 10 a day.
        (69, {1: 70}, 6),
        (0, {1: 70}, 0),
        (1, {7: 7}, 1),
        (100, {}, None),
        (100, {8: 70}, None),  # Nothing in the week that a rate is judged by.
        (100, {0: 70}, None),
        (10**15, {1: 1}, None),  # Millions of years.
        (3_650, {1: 7}, 3_650),
        (3_651, {1: 7}, None),
    ],
)
def test_the_projection_assumes_the_rate_of_the_last_week(
    available: int, burned: dict[int, int], expected: int | None
) -> None:
    day = exhausted_on(available, on(burned), TODAY)

    assert day == (None if expected is None else TODAY + timedelta(days=expected))


class Pages:
    """The full pages of an account, newest first, and how many were asked for."""

    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows
        self.read = 0

    def __iter__(self) -> Iterator[Page]:
        for _, page in sorted(self._rows.pages.items(), key=lambda i: -i[0][1]):
            self.read += 1
            yield page


def account_of_days(days: int) -> MemoryRows:
    """An account that is debited twelve credits a day, of which eight entries fill a page."""
    rows = MemoryRows()
    begin = NOON - timedelta(days=days)
    open_account(rows, grant_change("g-1", credits="1000000"), now=begin)
    for day in range(days):
        for number in range(12):
            at = begin + timedelta(days=day, minutes=number)
            document = usage(f"e{day}-{number}", run=f"run-{day}", time=at)
            commit(rows, ANA, run_changes(document), now=at, pause=pause)
    return rows


def test_the_ledger_is_read_only_back_to_the_longest_window() -> None:
    rows = account_of_days(90)
    pages, since = Pages(rows), first_day(TODAY)

    burned = burn_of(entries_since(rows.accounts[ANA], pages, since), since)

    assert [burned_over(burned, d, TODAY) // CREDIT for d in (1, 7, 30)] == [12, 84, 360]
    month_of_pages = 30 * 12 / 8
    assert month_of_pages - 1 <= pages.read <= month_of_pages + 3
    assert len(rows.pages) > 2 * month_of_pages


def test_a_page_flushed_during_the_read_is_counted_once() -> None:
    rows = account_of_days(2)
    row = rows.accounts[ANA]
    rows.put_page(row.page)

    burned = burn_of(entries_since(row, Pages(rows), first_day(TODAY)), first_day(TODAY))

    assert burned_over(burned, 30, TODAY) == 24 * CREDIT


@given(
    st.lists(
        st.tuples(
            st.integers(0, 40), st.integers(1, 10**9), st.sampled_from(["debited", "returned"])
        ),
        max_size=30,
    ),
    st.integers(0, 30),
)
def test_counting_in_parts_gives_the_same_as_counting_at_once(
    sent: list[tuple[int, int, str]], split: int
) -> None:
    entries = [drawn(NOON - timedelta(days=back), amount, how) for back, amount, how in sent]
    since = first_day(TODAY)

    parts = burn_of(entries[:split], since)
    parts.update(burn_of(entries[split:], since))

    assert parts == burn_of(entries, since)


def test_what_a_member_draws_of_its_team_is_burned_on_the_account_of_the_team() -> None:
    world, yesterday = SharingWorld(), NOW.date()
    world.send(usage("e-1", "530"), usage("e-2", "540", user="ben", run="run-2"))
    world.send(finished("f-1", "error"), now=NOW + timedelta(minutes=1))

    burned = {p: burn_of(history(world.rows, p), yesterday)[yesterday] for p in world.rows.accounts}

    # Ana's run ended with a platform error, so only ben burned: 500 of his own, 40 of the team.
    assert burned == {ANA: 0, BEN: 500 * CREDIT, TEAM: 40 * CREDIT}
