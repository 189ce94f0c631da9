import json
import lzma
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_credits.aws import codec
from agent_credits.aws.items import account_item, page_item
from agent_credits.ledger.accounts import ErroredRun, PlanSubscription, run_hash
from agent_credits.ledger.entries import (
    Draw,
    Entry,
    Identity,
    PoolBalance,
    RunContext,
    RunFacts,
    run_identity,
)
from agent_credits.ledger.grants import Grant
from tests.memory_rows import MemoryRows
from tests.unit.builders import NOW, open_account

VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)
MICROCREDITS = st.integers(0, 10**15)
# To the second, as everything that the system itself dates.
INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda instant: instant.replace(microsecond=0)
)
# As senders date: in any zone, to the microsecond.
EVENT_TIMES = st.datetimes(
    datetime(2000, 1, 2),  # noqa: DTZ001
    datetime(2199, 12, 30),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=9)), timezone(-timedelta(hours=3.5))]),
)
GRANTS = st.builds(
    Grant,
    id=VISIBLE,
    pool=st.sampled_from(["trial", "plan", "add_on", "contract"]),
    amount_microcredits=MICROCREDITS,
    remaining_microcredits=MICROCREDITS,
    granted_at=INSTANTS,
    expires_at=st.none() | INSTANTS,
    cause=st.sampled_from(["refill", "purchase", "gift", "contract"]),
)
RUNS = st.builds(
    RunContext,
    team_id=VISIBLE,
    trigger_kind=st.sampled_from(["user", "team_api_key", "schedule"]),
    trigger_id=VISIBLE,
    project_id=st.none() | VISIBLE,
    event_time=EVENT_TIMES,
    payer=st.sampled_from(["user", "owner", "team"]),
    policy_version=VISIBLE,
    traceparent=st.none() | VISIBLE,
)
DRAWS = st.builds(
    Draw, pool=st.sampled_from(["plan", "add_on"]), grant_id=VISIBLE, microcredits=MICROCREDITS
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """Combine what no constructor would: what is stored is read back, whatever wrote it."""
    draws = tuple(draw(st.lists(DRAWS, max_size=4)))
    shortfall = draw(st.sampled_from([0, 0, 1, 10**15]))
    undrawn = 0 if draws else draw(MICROCREDITS)
    return Entry(
        identity=Identity(
            draw(st.sampled_from(["RUN", "GRANT"])), draw(VISIBLE), draw(VISIBLE), draw(VISIBLE)
        ),
        payload_hash=draw(st.sampled_from(["", "q83vEjRWeJCrze8S"])),
        type="agent_run.usage",
        outcome=draw(st.sampled_from(["debited", "insufficient", "returned", "waived"])),
        recorded_at=draw(INSTANTS),
        amount_microcredits=sum(d.microcredits for d in draws) + shortfall + undrawn,
        draws=draws,
        shortfall_microcredits=shortfall,
        run=draw(st.none() | RUNS),
        pools_before=tuple(
            PoolBalance(pool, draw(MICROCREDITS)) for pool in draw(st.sampled_from([(), ("plan",)]))
        ),
        fails_run=draw(st.booleans()),
        grant=draw(st.none() | GRANTS),
        plan_name=draw(st.none() | VISIBLE),
    )


def to_the_millisecond(entry: Entry) -> dict[str, Any]:
    """Return what of an entry has to survive; an event's own time is kept to the millisecond."""
    named = {name: getattr(entry, name) for name in Entry.__slots__ if name != "run"}
    if entry.run is not None:
        time = entry.run.event_time.astimezone(UTC)
        kept = time.replace(microsecond=time.microsecond // 1000 * 1000)
        named |= {name: getattr(entry.run, name) for name in RunContext.__slots__}
        named["event_time"] = kept
    return named


@given(entries())
def test_an_entry_is_read_back_as_it_was_written(entry: Entry) -> None:
    read = codec.unpack_entry(codec.pack_entry(entry))

    assert to_the_millisecond(read) == to_the_millisecond(entry)


@given(entries())
def test_no_entry_is_shorter_than_the_names_that_every_entry_has(entry: Entry) -> None:
    assert len(codec.pack_entry(entry)) >= codec._ENTRY_BYTES_MIN


def test_a_page_that_is_flushed_as_it_was_committed_is_packed_once() -> None:
    account = open_account(MemoryRows())
    codec.pack_entries.cache_clear()

    row, page = account_item(account), page_item(account.page)

    assert page["entries"] == row["entries"]
    assert codec.pack_entries.cache_info().misses == 1


@given(st.lists(entries(), max_size=12).map(tuple))
def test_a_page_written_twice_is_the_same_bytes(page: tuple[Entry, ...]) -> None:
    packed = codec.pack_entries(page)

    read = codec.unpack_entries(packed)

    assert [to_the_millisecond(e) for e in read] == [to_the_millisecond(e) for e in page]
    # Packed again, and not read from the cache.
    assert codec.pack_entries.__wrapped__(read) == packed
    assert [codec.pack_entry(e) for e in read] == [codec.pack_entry(e) for e in page]


@given(st.lists(GRANTS, max_size=5))
def test_grants_are_read_back_as_they_were_written(grants: list[Grant]) -> None:
    packed = codec.pack_grants(grants)

    assert codec.unpack_grants(packed) == tuple(grants)


@pytest.mark.parametrize("refilled_from", [None, NOW.date()])
def test_a_plan_is_read_back_as_it_was_written(refilled_from: Any) -> None:
    subscription = PlanSubscription("max", "plan", 7, NOW.date(), refilled_from)

    assert codec.unpack_plan(codec.pack_plan(subscription)) == subscription


def test_errored_runs_are_read_back_as_they_were_written() -> None:
    runs = (
        ErroredRun(run_hash("run-1"), NOW),
        ErroredRun(run_hash("run-2"), NOW + timedelta(seconds=1)),
    )

    assert codec.unpack_errored_runs(codec.pack_errored_runs(runs)) == runs


def test_a_small_page_can_be_read_in_the_console() -> None:
    rows = MemoryRows()
    account = open_account(rows)

    packed = codec.pack_entries(account.entries)

    assert isinstance(packed, str)
    (row,) = json.loads(packed)
    assert row["type"] == "credits.granted"
    assert row["id"] == "g-1"


@settings(max_examples=20)
@given(st.integers(20, 200))
def test_a_large_page_is_compressed_to_the_same_entries(count: int) -> None:
    run = RunContext("acme", "user", "ana", None, NOW, "user", "1")

    def usage(number: int) -> Entry:
        event_id, run_id = (str(uuid.UUID(int=n)) for n in (number, number // 10))
        identity = run_identity("/platform", run_id, event_id)
        facts = RunFacts(identity, "q83vEjRWeJCrze8S", run, NOW)
        amount = number + 1
        return Entry.debited(facts, amount, (Draw("plan", "refill:2025-11-01", amount),))

    page = tuple(usage(number) for number in range(count))

    packed = codec.pack_entries(page)

    assert isinstance(packed, bytes)
    assert len(packed) < len(json.dumps([codec.entry_to_json(e) for e in page])) / 4
    assert codec.unpack_entries(packed) == page


def test_a_page_that_would_unpack_to_more_than_any_row_holds_is_not_unpacked() -> None:
    bomb = lzma.compress(b"[" + b" " * 50_000_000 + b"]", lzma.FORMAT_RAW, filters=codec._LZMA)

    with pytest.raises(json.JSONDecodeError):
        codec.unpack_entries(bomb)
