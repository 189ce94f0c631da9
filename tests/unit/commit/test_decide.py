from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent_credits.aws.items import ROW_BYTES_MAX, account_item, item_bytes
from agent_credits.commit.changes import AlreadyRecorded, Conflicting, Past, Recorded, Result
from agent_credits.commit.decide import ERRORED_RUNS_REMEMBERED_FOR, decide
from agent_credits.commit.write_protocol import CHANGES_PER_COMMIT_MAX, Committed, commit
from agent_credits.ledger.accounts import (
    ERRORED_RUNS_MAX,
    Account,
    available_microcredits,
    check_account,
)
from agent_credits.ledger.entries import Draw, Entry
from agent_credits.values.errors import InvariantViolated
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    NOW,
    finished,
    grant,
    grant_change,
    history,
    open_account,
    pause,
    plan_change,
    remaining_by_grant,
    remaining_on,
    requested,
    run_changes,
    usage,
)

ADD_ON = ("add_on",)


def account(credits: str = "10") -> Account:  # noqa: A002
    return Account(ANA, version=1, grants=(grant("g-1", credits=credits),))


def decided(row: Account, *documents: dict[str, Any]) -> list[Result]:
    return list(decide(row, run_changes(*documents), Past(), NOW).results)


def entry_of(result: Result) -> Entry:
    assert isinstance(result, Recorded)
    return result.entry


def send(rows: MemoryRows, *documents: dict[str, Any], now: datetime = NOW) -> list[Result]:
    """Commit the events in one batch, by a worker that has read nothing yet."""
    return list(commit(rows, ANA, run_changes(*documents), now=now, pause=pause).results)


def test_usage_is_debited_in_full() -> None:
    (result,) = decided(account(), usage("e1", "4"))

    entry = entry_of(result)
    assert entry.outcome == "debited"
    assert entry.draws == (Draw("add_on", "g-1", 4_000_000),)
    assert entry.shortfall_microcredits == 0
    assert entry.recorded_at == NOW


def test_usage_takes_what_there_is_and_records_the_rest_as_shortfall() -> None:
    decision = decide(account("3"), run_changes(usage("e1", "8.5")), Past(), NOW)

    entry = entry_of(decision.results[0])
    assert entry.outcome == "insufficient"
    assert entry.drawn_microcredits == 3_000_000
    assert entry.shortfall_microcredits == 5_500_000
    assert [(p.pool, p.available_microcredits) for p in entry.pools_before] == [
        ("trial", 0),
        ("plan", 0),
        ("add_on", 3_000_000),
    ]
    assert entry.fails_run
    assert decision.account.grants == ()


@pytest.mark.parametrize(
    ("held", "estimate", "outcome", "shortfall"),
    [
        ("10", {"credits": "10"}, "accepted", 0),
        ("10", {"credits": "10.000001"}, "insufficient", 1),
        ("0.000001", {}, "accepted", 0),
    ],
)
def test_a_request_takes_nothing_and_is_accepted_if_the_pools_cover_it(
    held: str, estimate: dict[str, str], outcome: str, shortfall: int
) -> None:
    row = account(held)

    decision = decide(row, run_changes(requested("e1", **estimate)), Past(), NOW)

    entry = entry_of(decision.results[0])
    assert (entry.outcome, entry.shortfall_microcredits) == (outcome, shortfall)
    assert entry.draws == ()
    assert decision.account.grants == row.grants


def test_a_request_without_an_estimate_needs_any_credits_at_all() -> None:
    (result,) = decided(Account(ANA, 1), requested("e1"))

    entry = entry_of(result)
    assert (entry.outcome, entry.shortfall_microcredits) == ("insufficient", 0)
    assert entry.fails_run


@pytest.mark.parametrize("status", ["ok", "cancelled"])
def test_a_run_that_ends_without_an_error_gives_nothing_back(status: str) -> None:
    first, end = decided(account(), usage("e1", "4"), finished("e2", status))

    assert entry_of(first).outcome == "debited"
    assert entry_of(end).outcome == "finished"
    assert entry_of(end).draws == ()


def test_events_of_a_batch_are_decided_in_their_order() -> None:
    results = decided(account("10"), usage("e1", "7"), usage("e2", "7"), usage("e3", "1"))

    assert [entry_of(r).outcome for r in results] == ["debited", "insufficient", "insufficient"]
    assert [entry_of(r).shortfall_microcredits for r in results] == [0, 4_000_000, 1_000_000]


def test_a_repeat_in_one_batch_counts_once() -> None:
    first, second = decided(account(), usage("e1"), usage("e1"))

    assert isinstance(second, AlreadyRecorded)
    assert second.entry == entry_of(first)


def test_the_same_id_with_another_payload_is_never_applied_in_one_batch() -> None:
    decision = decide(account(), run_changes(usage("e1", "1"), usage("e1", "2")), Past(), NOW)

    assert isinstance(decision.results[1], Conflicting)
    assert available_microcredits(decision.account, ADD_ON, NOW) == 9_000_000


@pytest.mark.parametrize("events_between", [0, 3, 20], ids=["on the page", "same page", "flushed"])
def test_what_an_id_has_decided_stays_decided(events_between: int) -> None:
    rows = MemoryRows()
    open_account(rows)
    send(rows, usage("e1", "1"))
    for number in range(events_between):
        send(rows, usage(f"between-{number}"))
    before = rows.accounts[ANA]

    conflict, repeat = send(rows, usage("e1", "2"), usage("e1", "1"))

    assert isinstance(conflict, Conflicting)
    assert isinstance(repeat, AlreadyRecorded)
    assert rows.accounts[ANA] == before


def test_a_conflict_takes_precedence_over_every_other_outcome() -> None:
    rows = MemoryRows()
    open_account(rows)
    send(rows, usage("e1", "1000"))

    (insufficient_again,) = send(rows, usage("e1", "2000"))

    assert isinstance(insufficient_again, Conflicting)


def test_the_same_id_of_another_run_or_source_is_another_event() -> None:
    results = decided(account(), usage("e1"), usage("e1", run="run-2"), usage("e1", source="/x"))

    assert [entry_of(r).outcome for r in results] == ["debited"] * 3


def test_a_failed_event_stays_failed_after_a_purchase() -> None:
    rows = MemoryRows()
    open_account(rows, grant_change("g-1", credits="1"))
    send(rows, usage("e1", "5"))
    commit(rows, ANA, [grant_change("g-2", credits="100")], now=NOW, pause=pause)

    (repeat,) = send(rows, usage("e1", "5"))

    assert isinstance(repeat, AlreadyRecorded)
    assert repeat.entry.outcome == "insufficient"
    assert remaining_on(rows.accounts[ANA]) == {"g-2": 100_000_000}


@pytest.mark.parametrize("events_between", [0, 20], ids=["on the page", "flushed"])
def test_a_run_that_ends_in_an_error_gives_its_draws_back_to_their_grants(
    events_between: int,
) -> None:
    rows = MemoryRows()
    soon = NOW + timedelta(days=3)
    open_account(
        rows,
        grant_change("t", "trial", "2", expires_at=soon),
        grant_change("a", "add_on", "3"),
        grant_change("b", "add_on", "50"),
    )
    before = {g.id: g for g in rows.accounts[ANA].grants}
    send(rows, usage("e1", "1.5"), usage("e2", "4.5"))
    for number in range(events_between):
        send(rows, requested(f"between-{number}", run="run-2"))

    (result,) = send(rows, finished("e3", "error"))

    entry = entry_of(result)
    assert entry.outcome == "returned"
    assert entry.amount_microcredits == 6_000_000
    assert {g.id: g for g in rows.accounts[ANA].grants} == before


@pytest.mark.parametrize("events_between", [0, 20], ids=["on the page", "flushed"])
def test_a_run_that_ends_in_an_error_twice_gives_its_draws_back_once(events_between: int) -> None:
    rows = MemoryRows()
    open_account(rows)
    send(rows, usage("e1", "5"), finished("e2", "error"))
    for number in range(events_between):
        send(rows, requested(f"between-{number}", run="run-2"))

    (again,) = send(rows, finished("e3", "error"))

    assert entry_of(again).outcome == "returned"
    assert entry_of(again).draws == ()
    assert remaining_on(rows.accounts[ANA]) == {"g-1": 100_000_000}


def test_late_usage_of_a_run_that_ended_in_an_error_is_waived() -> None:
    rows = MemoryRows()
    open_account(rows)
    send(rows, usage("e1", "5"), finished("e2", "error"))

    late, other = send(rows, usage("e3", "7"), usage("e4", "1", run="run-2"))

    assert entry_of(late).outcome == "waived"
    assert entry_of(late).amount_microcredits == 7_000_000
    assert entry_of(late).draws == ()
    assert entry_of(other).outcome == "debited"


def test_a_run_that_ended_in_an_error_is_remembered_for_a_day() -> None:
    rows = MemoryRows()
    open_account(rows)
    send(rows, finished("e1", "error"))
    send(rows, requested("e2", run="run-2"), now=NOW + ERRORED_RUNS_REMEMBERED_FOR)

    (late,) = send(rows, usage("e3"), now=NOW + ERRORED_RUNS_REMEMBERED_FOR)

    assert entry_of(late).outcome == "debited"


def in_commits(rows: MemoryRows, documents: list[dict[str, Any]]) -> list[Committed]:
    parts = range(0, len(documents), CHANGES_PER_COMMIT_MAX)
    chunks = [run_changes(*documents[n : n + CHANGES_PER_COMMIT_MAX]) for n in parts]
    return [commit(rows, ANA, chunk, now=NOW, pause=pause) for chunk in chunks]


def test_late_usage_of_a_thousand_runs_is_waived_and_the_row_stays_far_below_its_ceiling() -> None:
    rows = MemoryRows()
    open_account(rows)
    runs = [f"run-{n}" for n in range(ERRORED_RUNS_MAX)]
    in_commits(rows, [finished(f"end-{run}", "error", run=run) for run in runs])
    row_bytes = item_bytes(account_item(rows.accounts[ANA]))

    late = in_commits(rows, [usage(f"late-{run}", "1", run=run) for run in runs])

    outcomes = Counter(entry_of(result).outcome for part in late for result in part.results)
    assert outcomes == {"waived": ERRORED_RUNS_MAX}
    assert row_bytes < ROW_BYTES_MAX / 2


def test_runs_beyond_the_bound_are_counted_and_the_oldest_is_charged_for_late_usage() -> None:
    rows = MemoryRows()
    open_account(rows)
    runs = [f"run-{n}" for n in range(ERRORED_RUNS_MAX + 5)]

    ended = in_commits(rows, [finished(f"end-{run}", "error", run=run) for run in runs])

    first, last = send(rows, usage("e1", run=runs[4]), usage("e2", run=runs[5]))
    assert sum(part.errored_runs_forgotten for part in ended) == 5
    assert (entry_of(first).outcome, entry_of(last).outcome) == ("debited", "waived")


def test_an_account_without_errored_runs_pays_nothing_for_them() -> None:
    rows = MemoryRows()
    open_account(rows)

    send(rows, usage("e1"))

    assert "errored_runs" not in account_item(rows.accounts[ANA])


def test_credits_given_back_to_an_expired_grant_are_good_for_the_grace_period() -> None:
    rows = MemoryRows()
    expiry = NOW + timedelta(hours=1)
    open_account(rows, grant_change("t", "trial", "10", expires_at=expiry), grant_change("a"))
    send(rows, usage("e1", "4"))
    late = NOW + timedelta(days=2)
    send(rows, requested("e2", run="run-2"), now=late)

    send(rows, finished("e3", "error"), now=late)

    revived = next(g for g in rows.accounts[ANA].grants if g.id == "t")
    assert revived.pool == "trial"
    assert revived.remaining_microcredits == 4_000_000
    assert revived.amount_microcredits == 10_000_000
    assert revived.expires_at == expiry + timedelta(days=30)
    assert remaining_by_grant(history(rows, ANA)) == remaining_on(rows.accounts[ANA])


def test_grace_is_counted_once_however_often_credits_come_back() -> None:
    rows = MemoryRows()
    expiry = NOW + timedelta(hours=1)
    open_account(rows, grant_change("t", "trial", "10", expires_at=expiry))
    send(rows, usage("e1", "4", run="run-1"), usage("e2", "6", run="run-2"))
    send(rows, finished("end-1", "error", run="run-1"), now=expiry + timedelta(days=10))
    send(rows, usage("e3", "4", run="run-3"), now=expiry + timedelta(days=20))

    send(rows, finished("end-2", "error", run="run-2"), now=expiry + timedelta(days=29))

    (revived,) = rows.accounts[ANA].grants
    assert revived.remaining_microcredits == 6_000_000
    assert revived.expires_at == expiry + timedelta(days=30)


def test_credits_of_a_grant_whose_grace_is_over_do_not_come_back() -> None:
    rows = MemoryRows()
    expiry = NOW + timedelta(hours=1)
    open_account(
        rows, grant_change("t", "trial", "4", expires_at=expiry), grant_change("a", credits="10")
    )
    send(rows, usage("e1", "5"))
    after_grace = expiry + timedelta(days=30)

    (ended,) = send(rows, finished("e2", "error"), now=after_grace)

    assert [(d.grant_id, d.microcredits) for d in entry_of(ended).draws] == [("a", 1_000_000)]
    assert remaining_on(rows.accounts[ANA]) == {"a": 10_000_000}
    assert remaining_by_grant(history(rows, ANA)) == remaining_on(rows.accounts[ANA])


def test_a_revived_grant_that_expires_in_this_very_commit_is_not_revived_again() -> None:
    rows = MemoryRows()
    expiry = NOW + timedelta(hours=1)
    open_account(rows, grant_change("t", "trial", "10", expires_at=expiry))
    send(rows, usage("e1", "4", run="run-1"), usage("e2", "6", run="run-2"))
    send(rows, finished("end-1", "error", run="run-1"), now=expiry + timedelta(days=10))

    (ended,) = send(rows, finished("end-2", "error", run="run-2"), now=expiry + timedelta(days=30))

    assert entry_of(ended).draws == ()
    assert [e.amount_microcredits for e in history(rows, ANA) if e.outcome == "expired"] == [
        4_000_000
    ]
    assert rows.accounts[ANA].grants == ()


def test_a_grant_expires_again_after_its_grace_period() -> None:
    rows = MemoryRows()
    open_account(rows, grant_change("t", "trial", "10", expires_at=NOW + timedelta(hours=1)))
    send(rows, usage("e1", "4"))
    send(rows, finished("e2", "error"), now=NOW + timedelta(days=2))

    send(rows, requested("e3", run="run-2"), now=NOW + timedelta(days=32))

    expires = [e for e in history(rows, ANA) if e.outcome == "expired"]
    assert [e.amount_microcredits for e in expires] == [6_000_000, 4_000_000]
    assert len({e.identity for e in expires}) == 2
    assert rows.accounts[ANA].grants == ()


@pytest.mark.parametrize("events_between", [0, 20], ids=["on the page", "flushed"])
def test_draws_go_back_to_a_grant_that_was_emptied_and_left_the_row(events_between: int) -> None:
    rows = MemoryRows()
    open_account(rows, grant_change("a", credits="5"), grant_change("b", credits="500"))
    send(rows, usage("e1", "5"))
    for number in range(events_between):
        send(rows, usage(f"between-{number}", run="run-2"))
    assert "a" not in remaining_on(rows.accounts[ANA])

    send(rows, finished("e2", "error"))

    assert remaining_on(rows.accounts[ANA])["a"] == 5_000_000


def test_a_run_fails_once() -> None:
    results = decided(
        account("1"),
        usage("e1", "5"),
        usage("e2", "5"),
        requested("e3"),
        usage("e4", "5", run="run-2"),
    )

    assert [entry_of(r).fails_run for r in results] == [True, False, False, True]


@pytest.mark.parametrize("events_between", [0, 3, 20], ids=["on the page", "same page", "flushed"])
def test_a_run_fails_once_for_workers_that_never_saw_it_fail(events_between: int) -> None:
    rows = MemoryRows()
    open_account(rows, grant_change("g-1", credits="1"))
    (first,) = send(rows, usage("e1", "5"))
    for number in range(events_between):
        send(rows, requested(f"between-{number}", run=f"other-{number}"))

    (second,) = send(rows, usage("e2", "5"))

    assert entry_of(first).fails_run
    assert entry_of(second).outcome == "insufficient"
    assert not entry_of(second).fails_run


def test_usage_draws_from_a_grant_that_precedes_it_in_the_batch() -> None:
    changes = [*run_changes(usage("e1", "5")), grant_change("g-2"), *run_changes(usage("e2", "5"))]

    decision = decide(Account(ANA, 1), changes, Past(), NOW)

    assert [entry_of(r).outcome for r in decision.results] == ["insufficient", "granted", "debited"]


def test_the_same_grant_id_with_other_credits_is_a_conflict() -> None:
    rows = MemoryRows()
    open_account(rows, grant_change("g-1", credits="10"))

    committed = commit(rows, ANA, [grant_change("g-1", credits="11")], now=NOW, pause=pause)

    assert isinstance(committed.results[0], Conflicting)
    assert remaining_on(rows.accounts[ANA]) == {"g-1": 10_000_000}


def test_a_changed_plan_takes_effect_at_its_next_refill() -> None:
    rows = MemoryRows()
    open_account(rows, plan_change("100"))
    before = remaining_on(rows.accounts[ANA])
    change = plan_change("500", change_id="plan:business")

    commit(rows, ANA, [change], now=NOW, pause=pause)
    assert remaining_on(rows.accounts[ANA]) == before
    send(rows, requested("e1"), now=NOW + timedelta(days=31))

    assert list(remaining_on(rows.accounts[ANA]).values()) == [500_000_000]


def test_time_never_runs_backwards_on_an_account() -> None:
    row = replace(account(), grants=(grant("g-1", expires_at=NOW),))
    later = decide(row, run_changes(usage("e1")), Past(), NOW).account

    decision = decide(later, run_changes(usage("e2")), Past(), NOW - timedelta(minutes=3))

    entry = entry_of(decision.results[0])
    assert entry.recorded_at == NOW
    assert entry.outcome == "insufficient"


def test_a_full_page_is_followed_by_the_next_one() -> None:
    row = account()
    for number in range(9):
        row = decide(row, run_changes(usage(f"e{number}")), Past(), NOW).account

    assert (row.page_number, len(row.entries), row.version) == (2, 1, 10)


def test_a_batch_of_repeats_changes_nothing_though_a_refill_is_due() -> None:
    rows = MemoryRows()
    open_account(rows, plan_change())
    send(rows, usage("e1"))
    before = rows.accounts[ANA]

    decision = decide(before, run_changes(usage("e1")), Past(), NOW + timedelta(days=60))

    assert not decision.changes_account
    assert decision.account == before


@pytest.mark.parametrize(
    ("grants", "invariant"),
    [
        ((grant("g-1"), grant("g-1")), "a grant stands on the row once"),
        ((replace(grant("g-1"), remaining_microcredits=-1),), "no grant is below zero"),
        ((grant("g-1", credits="1", remaining="2"),), "no grant holds more than was granted"),
        ((), "a commit records an entry"),
    ],
    ids=["grant twice", "below zero", "more than granted", "nothing recorded"],
)
def test_a_row_that_could_never_be_right_is_rejected(grants: Any, invariant: str) -> None:
    with pytest.raises(InvariantViolated, match=invariant):
        check_account(Account(ANA, 1, grants=grants))


# The laws. Runs, amounts and pools are few, so that events meet each other often.

runs = st.sampled_from(["run-1", "run-2", "run-3"])
amounts = st.sampled_from(["0.000001", "1", "2.5", "7"])
kinds = st.one_of(
    st.tuples(st.just("usage"), runs, amounts),
    st.tuples(st.just("usage"), runs, amounts),
    st.tuples(st.just("requested"), runs, amounts),
    st.tuples(st.just("finished"), runs, st.sampled_from(["ok", "error"])),
)


def documents_of(events: Sequence[tuple[str, str, str]], prefix: str) -> list[dict[str, Any]]:
    documents = []
    for number, (kind, run, argument) in enumerate(events):
        event_id = f"{prefix}{number}"
        match kind:
            case "usage":
                documents.append(usage(event_id, argument, run=run))
            case "requested":
                documents.append(requested(event_id, credits=argument, run=run))
            case _:
                documents.append(finished(event_id, argument, run=run))
    return documents


batches = st.lists(kinds, min_size=1, max_size=14)
earlier_events = batches.map(lambda events: documents_of(events, "early-"))
events_now = batches.map(lambda events: documents_of(events, "e-"))


def sample_account(rows: MemoryRows, early: Sequence[dict[str, Any]]) -> None:
    """Open an account whose trial expires between the early events and now."""
    open_account(
        rows,
        grant_change("t", "trial", "8", expires_at=NOW - timedelta(hours=1)),
        plan_change("9"),
        grant_change("a", "add_on", "6"),
        grant_change("b", "add_on", "3", expires_at=NOW + timedelta(days=1)),
    )
    send(rows, *early, now=NOW - timedelta(hours=5))


def expiry_of(account: Account) -> dict[str, datetime | None]:
    return {g.id: g.expires_at for g in account.grants}


def comparable(entry: Entry) -> Entry:
    # A return lists its draws in the order in which it found the run's entries.
    return replace(entry, draws=tuple(sorted(entry.draws, key=lambda d: d.grant_id)))


@settings(max_examples=150)
@given(earlier_events, events_now, st.data())
def test_splitting_a_batch_equals_the_whole_batch(
    early: list[dict[str, Any]], events: list[dict[str, Any]], data: st.DataObject
) -> None:
    whole, split = MemoryRows(), MemoryRows()
    sample_account(whole, early)
    sample_account(split, early)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(events)), max_size=5)) | {len(events)})

    at_once = send(whole, *events)
    in_parts = []
    for start, end in zip([0, *cuts], cuts, strict=False):
        in_parts += send(split, *events[start:end])

    assert [comparable(entry_of(r)) for r in at_once] == [comparable(entry_of(r)) for r in in_parts]
    assert remaining_on(whole.accounts[ANA]) == remaining_on(split.accounts[ANA])
    assert expiry_of(whole.accounts[ANA]) == expiry_of(split.accounts[ANA])


@settings(max_examples=100)
@given(earlier_events, events_now, st.randoms(use_true_random=False))
def test_a_replay_changes_nothing(
    early: list[dict[str, Any]], events: list[dict[str, Any]], random: Any
) -> None:
    rows = MemoryRows()
    sample_account(rows, early)
    first = {r.entry.identity: r.entry for r in [*send(rows, *events), *send(rows, *early)]}
    before = rows.accounts[ANA]
    again = [*early, *events]
    random.shuffle(again)

    results = send(rows, *again, now=NOW + timedelta(days=400))

    assert all(isinstance(r, AlreadyRecorded) for r in results)
    assert {r.entry.identity: r.entry for r in results} == first
    assert rows.accounts[ANA] == before


@settings(max_examples=100)
@given(earlier_events, st.lists(events_now, min_size=1, max_size=4))
def test_the_ledger_alone_explains_every_row(
    early: list[dict[str, Any]], sent: list[list[dict[str, Any]]]
) -> None:
    rows = MemoryRows()
    sample_account(rows, early)

    for number, events in enumerate(sent):
        send(rows, *events, now=NOW + timedelta(days=20 * number))

    entries = history(rows, ANA)
    assert remaining_by_grant(entries) == remaining_on(rows.accounts[ANA])
    assert len({e.identity for e in entries}) == len(entries)
    assert [new.version for _, new in rows.stream] == list(range(1, len(rows.stream) + 1))
    for entry in entries:
        if entry.type == "agent_run.usage" and entry.outcome != "waived":
            taken = entry.drawn_microcredits + entry.shortfall_microcredits
            assert taken == entry.amount_microcredits


@settings(max_examples=100)
@given(earlier_events, events_now)
def test_a_run_fails_at_its_first_insufficient_event_and_only_there(
    early: list[dict[str, Any]], events: list[dict[str, Any]]
) -> None:
    rows = MemoryRows()
    sample_account(rows, early)
    for event in events:
        send(rows, event)

    failed: set[str] = set()
    for entry in history(rows, ANA):
        first = entry.outcome == "insufficient" and entry.identity.subject not in failed
        assert entry.fails_run == first
        if first:
            failed.add(entry.identity.subject)


@settings(max_examples=100)
@given(earlier_events, events_now)
def test_a_run_that_ended_in_an_error_keeps_no_draws(
    early: list[dict[str, Any]], events: list[dict[str, Any]]
) -> None:
    rows = MemoryRows()
    sample_account(rows, early)
    send(rows, *events)

    send(rows, finished("end", "error", run="run-1"), usage("late", run="run-1"))

    of_run = [e for e in history(rows, ANA) if e.identity.subject == "run-1"]
    net: dict[str, int] = {}
    for entry in of_run:
        sign = -1 if entry.outcome == "returned" else 1
        for part in entry.draws:
            net[part.grant_id] = net.get(part.grant_id, 0) + sign * part.microcredits
    assert set(net.values()) <= {0}
    assert of_run[-1].outcome == "waived"
