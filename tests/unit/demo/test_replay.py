"""A replay depends only on the trace and its options, and is compared only with them."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from msgspec import structs

from agent_credits.billing.teams import bill
from agent_credits.commit.changes import RunChange
from agent_credits.commit.write_protocol import commit
from agent_credits.events.agent_runs import parse_message
from agent_credits.ledger.entries import Entry
from agent_credits.values.principals import Principal
from agent_credits_cli.errors import CommandError
from agent_credits_cli.stack import read_stack
from agent_credits_cli.steps import carry_out, plan_steps
from agent_credits_demo.replay_run import bills_of, misrecorded, packed
from agent_credits_demo.trace import (
    TRACE_EVENTS,
    TRACE_FILE,
    TWICE_EVERY,
    Replay,
    ReplayOptions,
    Request,
    plan_replay,
    read_trace,
    sum_by_principal,
)
from agent_credits_local.checkout import this_checkout
from tests.sample_world import OperatedRows, pause

OPTIONS = ReplayOptions("t", events=300, principals=20, seed=7)
NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture(scope="module")
def trace() -> list[Request]:
    return read_trace(this_checkout().root / "data" / TRACE_FILE, TRACE_EVENTS)


@pytest.fixture(scope="module")
def planned(trace: list[Request]) -> Replay:
    return plan_replay(trace[: OPTIONS.events], OPTIONS)


@pytest.fixture
def entries(planned: Replay) -> dict[Principal, list[Entry]]:
    """Return what the domain records of the deliveries, one commit after another."""
    rows = OperatedRows()
    steps = plan_steps(planned.world, read_stack(rows, planned.world), NOW)
    carry_out(rows, steps, clock=lambda: NOW, pause=pause)
    recorded: dict[Principal, list[Entry]] = {principal: [] for principal in planned.principals}
    team = rows.teams[OPTIONS.team_id]
    policy = rows.policies[planned.world.policy.version]
    for delivery in planned.deliveries:
        (event,) = parse_message(delivery.body).events
        change = RunChange(event, bill(event, team, policy))
        before = rows.accounts[change.billing.principal].version
        committed = commit(rows, change.billing.principal, [change], now=NOW, pause=pause)
        if committed.account.version > before:
            recorded[committed.account.principal].append(committed.results[0].entry)
    return recorded


def test_the_whole_trace_is_there(trace: list[Request]) -> None:
    assert len(trace) == TRACE_EVENTS
    assert trace[0] == Request("2023-11-16T18:17:03.979960Z", 4808, 10)
    assert sum(request.context_tokens for request in trace) == 18_059_974
    assert sum(request.generated_tokens for request in trace) == 245_896


def test_the_price_is_in_whole_microcredits() -> None:
    assert Request("", context_tokens=1_000, generated_tokens=0).microcredits == 1_000_000
    assert Request("", context_tokens=0, generated_tokens=1_000).microcredits == 3_000_000
    assert Request("", context_tokens=1, generated_tokens=1).microcredits == 4_000


def test_every_event_of_the_whole_trace_is_valid(trace: list[Request]) -> None:
    planned = plan_replay(trace, replace(OPTIONS, events=TRACE_EVENTS))

    for event in planned.events:
        message = parse_message(event.body)
        assert not message.rejections
        assert message.events[0].data.credits == event.microcredits
    assert len({event.id for event in planned.events}) == TRACE_EVENTS


def test_the_same_options_give_the_same_replay_to_the_byte(
    trace: list[Request], planned: Replay
) -> None:
    assert plan_replay(trace[: OPTIONS.events], ReplayOptions.from_tag(OPTIONS.tag)) == planned


def test_another_seed_gives_another_replay(trace: list[Request], planned: Replay) -> None:
    other = plan_replay(trace[: OPTIONS.events], replace(OPTIONS, seed=8))

    assert [e.principal for e in other.events] != [e.principal for e in planned.events]


def test_another_tag_shares_no_event_and_no_account(trace: list[Request], planned: Replay) -> None:
    other = plan_replay(trace[: OPTIONS.events], replace(OPTIONS, name="u"))

    assert {e.id for e in other.events}.isdisjoint(e.id for e in planned.events)
    assert set(other.principals).isdisjoint(planned.principals)


def test_every_tenth_event_is_delivered_twice_and_the_order_is_shuffled(planned: Replay) -> None:
    times = Counter(delivery.id for delivery in planned.deliveries)

    assert set(times) == {event.id for event in planned.events}
    assert Counter(times.values()) == {1: 270, 2: 30}
    assert len(planned.deliveries) == len(planned.events) * (TWICE_EVERY + 1) // TWICE_EVERY
    assert [d.id for d in planned.deliveries[:300]] != [e.id for e in planned.events]


def test_the_spread_has_a_heavy_tail_and_runs_of_several_events(trace: list[Request]) -> None:
    planned = plan_replay(trace, replace(OPTIONS, events=TRACE_EVENTS, principals=40))
    per_principal = Counter(event.principal for event in planned.events).most_common()

    assert per_principal[0][0] == planned.principals[0]
    assert per_principal[0][1] > 5 * per_principal[20][1]
    assert max(Counter(event.run_id for event in planned.events).values()) > 1


def test_only_members_have_an_account(planned: Replay) -> None:
    assert list(planned.world.team_of_accounts()) == planned.principals


def test_most_members_hold_enough_and_a_few_do_not(planned: Replay) -> None:
    asked = sum_by_principal(planned.events)
    granted: Counter[Principal] = Counter()
    for grant in planned.world.grants:
        granted[grant.principal] += grant.microcredits

    short = {p for p in asked if asked[p] > granted[p]}

    assert 0 < len(short) < len(asked) / 4


@pytest.mark.parametrize("pack", [1, 7, 1_000])
def test_packing_keeps_every_delivery_in_its_order(planned: Replay, pack: int) -> None:
    messages = packed(planned.deliveries, pack)

    ids = [event.id for message in messages for event in parse_message(message.body).events]
    assert ids == [delivery.id for delivery in planned.deliveries]
    assert sum(message.events for message in messages) == len(planned.deliveries)
    assert all(isinstance(json.loads(m.body), dict if pack == 1 else list) for m in messages)


def test_what_the_domain_records_is_what_the_trace_says(
    planned: Replay, entries: dict[Principal, list[Entry]]
) -> None:
    bills = bills_of(planned, entries)

    assert list(misrecorded(planned.events, entries)) == []
    assert not any(bill.is_wrong for bill in bills)
    assert any(bill.shortfall_microcredits for bill in bills)


def test_a_missing_repeated_or_misplaced_event_is_reported(
    planned: Replay, entries: dict[Principal, list[Entry]]
) -> None:
    first, second, *_ = planned.principals
    missing = entries[first].pop()
    entries[first].append(entries[first][0])
    entries[second][0] = structs.replace(entries[second][0], amount_microcredits=1)

    told = list(misrecorded(planned.events, entries))

    assert len(told) == 4
    assert f"{missing.identity.id} is not recorded on {first}" in told[0] + told[1]
    assert f"{entries[first][0].identity.id} is recorded on {first}" in told[2] + told[3]


@pytest.mark.parametrize("field", ["amount_microcredits", "shortfall_microcredits", "draws"])
def test_a_sum_that_differs_from_the_trace_is_wrong(
    planned: Replay, entries: dict[Principal, list[Entry]], field: str
) -> None:
    first = planned.principals[0]
    tampered = {field: () if field == "draws" else 1}
    entries[first][0] = structs.replace(entries[first][0], **tampered)

    wrong = [bill.principal for bill in bills_of(planned, entries) if bill.is_wrong]

    assert wrong == [first]


@pytest.mark.parametrize("tag", ["", "t", "t-1-2", "t-1-2-x", "t-1-2-3-4"])
def test_an_invalid_tag_is_rejected(tag: str) -> None:
    with pytest.raises(CommandError, match="is not the tag of a replay"):
        ReplayOptions.from_tag(tag)
