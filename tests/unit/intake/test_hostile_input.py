"""Any input from a queue or the change stream is rejected cleanly, in bounded memory."""

import base64
import json
import lzma
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_credits.aws.codec import unpack_entries
from agent_credits.aws.items import (
    account_from_item,
    account_item,
    burn_count_from_item,
    burn_count_item,
    page_from_item,
    page_item,
    team_item,
)
from agent_credits.aws.reload_queue import read_request
from agent_credits.aws.stream_records import change_of
from agent_credits.billing.directory import Directory
from agent_credits.events.agent_runs import EVENTS_PER_MESSAGE_MAX
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.burn import BurnByDay
from agent_credits.ledger.burn_counts import BurnCount
from agent_credits.notices.announcements import NoticeSettings, Observed, notices_of
from agent_credits.values.errors import AgentCreditsError
from agent_credits.values.principals import Principal
from tests.conformance.samples import full_account, team
from tests.dispositions import postponed, rejected
from tests.memory_rows import MemoryRows

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
# What a queue takes at most.
BODY_BYTES_MAX = 1 << 20
MIB = 1 << 20
# With any of them a record of the change stream fails alone, and is set aside after its retries.
UNDERSTOOD_AS_WRONG = (ValueError, TypeError, KeyError, AgentCreditsError)
# The errors of the rows for a row that they cannot read.
ROW_NOT_UNDERSTOOD = (KeyError, ValueError, TypeError)
NESTED_TOO_DEEPLY = "[" * 100_000 + "]" * 100_000

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/platform",
    "type": "agent_run.usage",
    "subject": "run-1",
    "time": "2026-11-21T10:00:00Z",
    "data": {"team_id": "acme", "trigger": {"kind": "user", "user_id": "ana"}, "credits": "1"},
}
TEXT = json.dumps(EVENT)


def is_rejected(body: str) -> bool:
    """Deliver a body beside a valid message; return whether it was rejected. No team exists."""
    rows = MemoryRows()
    deliveries = [Delivery("hostile", body), Delivery("neighbour", TEXT)]

    batch = Debits(rows, Directory(rows), lambda _: None).debit(
        deliveries, now=NOW, time_is_left=lambda: True
    )

    assert rejected(batch)["neighbour"].code == "unknown_team"
    assert not postponed(batch)
    assert rows.accounts == {}
    return "hostile" in rejected(batch)


edits = st.lists(
    st.tuples(st.integers(0, len(TEXT)), st.integers(0, 4), st.text(max_size=4)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=400)
@given(edits)
def test_an_event_with_changed_characters_does_not_affect_its_neighbour(
    edits: list[tuple[int, int, str]],
) -> None:
    body = TEXT
    for at, removed, inserted in edits:
        body = body[:at] + inserted + body[at + removed :]

    assert is_rejected(body)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*EVENT, *EVENT["data"], "kind", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.lists(values, max_size=5), st.sampled_from([*EVENT]), values)
def test_any_message_body_leaves_its_neighbour_unaffected(
    others: list[Any], field: str, value: Any
) -> None:
    assert is_rejected(json.dumps([*others, {**EVENT, field: value}]))


@settings(max_examples=200)
@given(st.text(max_size=200) | values.map(json.dumps))
def test_an_invalid_reload_request_is_rejected(body: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_request(body)


HUGE: dict[str, Callable[[], str]] = {
    "blanks": lambda: " " * BODY_BYTES_MAX,
    "open brackets": lambda: "[" * BODY_BYTES_MAX,
    "empty objects": lambda: f"[{','.join(['{}'] * (BODY_BYTES_MAX // 3 - 1))}]",
    "one long string": lambda: json.dumps({**EVENT, "id": "x" * (BODY_BYTES_MAX - 400)}),
    "one long number": lambda: TEXT.replace('"1"', "9" * (BODY_BYTES_MAX - 400)),
    "one long fraction": lambda: TEXT.replace('"1"', '"0.' + "0" * (BODY_BYTES_MAX - 400) + '1"'),
    "one long exponent": lambda: TEXT.replace('"1"', '"1e999999999"'),
    "halves of characters": lambda: TEXT.replace("run-1", "\\ud800" * (BODY_BYTES_MAX // 7)),
    "open objects": lambda: '{"data":' * (BODY_BYTES_MAX // 8),
    "an event of nested arrays": lambda: TEXT.replace('"1"', "[" * 500_000 + "]" * 500_000),
    "the same key": lambda: "{" + ",".join(['"id":1'] * (BODY_BYTES_MAX // 7 - 1)) + "}",
    "short keys": lambda: json.dumps({f"{n:x}": 0 for n in range(BODY_BYTES_MAX // 12)}),
    "numbers": lambda: f"[{','.join(['0'] * (BODY_BYTES_MAX // 2 - 1))}]",
    "many keys": lambda: json.dumps({str(n): 0 for n in range(BODY_BYTES_MAX // 12)}),
    "as many events as there may be": lambda: json.dumps(
        [{**EVENT, "id": f"e-{n}", "x": "y" * 400} for n in range(EVENTS_PER_MESSAGE_MAX)]
    ),
}


@pytest.mark.parametrize("make", HUGE.values(), ids=HUGE.keys())
def test_the_largest_message_takes_bounded_memory(make: Callable[[], str]) -> None:
    body = make()
    assert len(body) <= BODY_BYTES_MAX

    tracemalloc.start()
    was_rejected = is_rejected(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert was_rejected
    assert peak < 64 * MIB


def _compressed(columns: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 6, "dict_size": 1 << 18, "lc": 2, "pb": 0}]
    return lzma.compress(columns, lzma.FORMAT_RAW, filters=filters)


def test_a_page_that_unpacks_beyond_the_limit_is_rejected() -> None:
    bomb = _compressed(b" " * (256 * MIB))

    tracemalloc.start()
    with pytest.raises(ValueError, match=r".+"):
        unpack_entries(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 32 * MIB


def test_an_image_of_the_change_stream_is_read_as_the_row_was_written() -> None:
    account = full_account(Principal("user", "ana"))
    item = account_item(account)
    image = {name: _as_in_stream(value) for name, value in item.items()}

    assert account_from_item(json.loads(json.dumps(image))) == account


@settings(max_examples=200)
@given(st.sampled_from(sorted(account_item(full_account(Principal("user", "ana"))))), st.text())
def test_a_damaged_image_is_an_error_and_never_another_account(field: str, text: str) -> None:
    item = account_item(full_account(Principal("user", "ana")))
    ((kind, _),) = item[field].items()
    if kind == "BOOL":
        return
    item[field] = {kind: f"{text}\x00"}

    with pytest.raises(UNDERSTOOD_AS_WRONG):
        account_from_item(item)


@pytest.mark.parametrize("empty", [{"S": "[]"}, {"S": "{}"}, {"B": _compressed(b"{}")}])
def test_a_row_or_a_page_without_entries_is_rejected(empty: dict[str, Any]) -> None:
    account = full_account(Principal("user", "ana"))
    row, page = account_item(account), page_item(account.page)

    with pytest.raises(ValueError, match="a page holds at least one entry"):
        account_from_item({**row, "entries": empty})
    with pytest.raises(ValueError, match="a page holds at least one entry"):
        page_from_item({**page, "entries": empty})


@pytest.mark.parametrize(
    ("field", "attribute"),
    [
        ("reloaded_at", {"S": "[-62135596801]"}),
        ("reloaded_at", {"S": "[1e400]"}),
        ("entries", {"B": b"no columns"}),
        ("entries", {"B": _compressed(b"[1]")}),
        ("entries", {"B": _compressed(NESTED_TOO_DEEPLY.encode())}),
        ("entries", {"S": NESTED_TOO_DEEPLY}),
        ("grants", {"S": NESTED_TOO_DEEPLY}),
    ],
    ids=[
        "before the calendar",
        "without end",
        "not compressed",
        "no object",
        "columns nested too deeply",
        "entries nested too deeply",
        "grants nested too deeply",
    ],
)
def test_a_row_that_cannot_be_read_affects_only_its_account(
    field: str, attribute: dict[str, Any]
) -> None:
    item = account_item(full_account(Principal("user", "ana")))

    with pytest.raises(ROW_NOT_UNDERSTOOD):
        account_from_item({**item, field: attribute})


@pytest.mark.parametrize(
    "by_day", ["[]", '["2026-11-20"]', "7", NESTED_TOO_DEEPLY], ids=lambda text: text[:16]
)
def test_a_burn_count_that_cannot_be_read_affects_only_its_account(by_day: str) -> None:
    counted = BurnCount(Principal("user", "ana"), 3, BurnByDay({NOW.date(): 7}))

    with pytest.raises(ROW_NOT_UNDERSTOOD):
        burn_count_from_item({**burn_count_item(counted), "by_day": {"S": by_day}})


IMAGES: tuple[dict[str, Any], ...] = (
    account_item(full_account(Principal("user", "ana"))),
    team_item(team("acme")),
)
attributes = st.one_of(
    st.none(),
    st.text(max_size=20).map(lambda text: {"S": text}),
    st.text(max_size=20).map(lambda text: {"N": text}),
    st.integers().map(lambda number: {"N": str(number)}),
    st.binary(max_size=40).map(lambda octets: {"B": base64.b64encode(octets).decode()}),
    st.booleans().map(lambda flag: {"BOOL": flag}),
    values.map(lambda value: {"S": json.dumps(value)}),
    st.just({}),
)


@settings(max_examples=400)
@given(st.sampled_from(IMAGES), st.data())
def test_a_record_of_the_change_stream_is_understood_or_is_an_error(
    image: dict[str, Any], data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(sorted(image)))
    whole = {name: _as_in_stream(value) for name, value in image.items()}
    damaged = {name: value for name, value in whole.items() if name != field}
    attribute = data.draw(attributes)
    if attribute is not None:
        damaged[field] = attribute
    old, new = data.draw(st.sampled_from([(None, damaged), (whole, damaged), (damaged, whole)]))

    try:
        change = change_of({"OldImage": old, "NewImage": new})
    except UNDERSTOOD_AS_WRONG:
        return

    # What is understood can be announced, whatever it says.
    if not isinstance(change, Observed):
        notices_of(change, NoticeSettings(""))


def _as_in_stream(typed: dict[str, Any]) -> dict[str, Any]:
    if "B" not in typed:
        return typed
    return {"B": base64.b64encode(typed["B"]).decode()}
