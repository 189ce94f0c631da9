"""A sweep visits every account in bounded steps, despite crashes, new rows and deleted rows."""

from collections import Counter
from datetime import UTC, date, datetime

import pytest

from agent_credits.ledger.accounts import Account
from agent_credits.sweeps.last_sweep import LastSweep
from agent_credits.sweeps.rows import Unreadable
from agent_credits.sweeps.sweep import (
    ROWS_PER_STEP_MAX,
    VISITS_PER_ROW_MAX,
    Step,
    Visit,
    Visited,
    beginning,
    parse_sweep_message,
    take_step,
    take_visit,
)
from agent_credits.values.errors import InvariantViolated
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows
from tests.unit.builders import NOW, TEAMS
from tests.unit.sweeps.sweep_fakes import MemorySweepQueue, NotingSweep, Poller

FIRST = Step(sweep="reconciliation", day=NOW.date(), number=0)


def many(accounts: int) -> MemoryRows:
    rows = MemoryRows()
    rows.teams.update(TEAMS)
    for number in range(accounts):
        principal = Principal("user", f"u{number}")
        rows.accounts[principal] = Account(principal, version=1)
    return rows


def keys(rows: MemoryRows) -> set[str]:
    return {f"ACCOUNT#{principal}" for principal in rows.accounts}


def poller(rows: MemoryRows, **settings: int) -> Poller:
    queue = MemorySweepQueue()
    queue.send([FIRST])
    return Poller(NotingSweep(rows), queue, NOW, **settings)


def sweep_of(worker: Poller) -> NotingSweep:
    assert isinstance(worker.sweep, NotingSweep)
    return worker.sweep


def test_ten_thousand_accounts_are_visited_once_each_in_bounded_steps() -> None:
    rows = many(10_000)
    worker = poller(rows)

    counts = worker.run()

    visited = sweep_of(worker).visited
    assert len(visited) == 10_000
    assert set(visited) == keys(rows)
    assert counts == Counter(Seen=10_000)
    assert max(swept.rows for swept in worker.swept) <= ROWS_PER_STEP_MAX
    # The two teams stand among the accounts, and are read over.
    assert len(worker.swept) == -(-10_002 // ROWS_PER_STEP_MAX)
    assert worker.swept[-1].next is None


def test_a_step_ends_when_its_time_is_up_and_the_next_starts_after_its_last_row() -> None:
    rows = many(100)
    worker = poller(rows, rows_per_step=7)

    worker.run()

    assert sorted(sweep_of(worker).visited) == sorted(keys(rows))
    assert {swept.rows for swept in worker.swept} <= set(range(8))


def test_one_row_is_visited_although_no_time_is_left() -> None:
    rows = many(3)
    worker = poller(rows, rows_per_step=1)

    worker.run()

    assert sorted(sweep_of(worker).visited) == sorted(keys(rows))


def test_a_sweep_over_nothing_ends_at_once() -> None:
    worker = poller(MemoryRows())

    assert worker.run() == Counter()
    assert len(worker.swept) == 1


@pytest.mark.parametrize("stops", [1, 2])
def test_a_step_that_crashed_is_repeated_and_the_sweep_continues(stops: int) -> None:
    rows = many(50)
    worker = poller(rows, rows_per_step=10)
    sweep_of(worker).stops_at["ACCOUNT#user:u7"] = stops

    worker.run()

    assert set(sweep_of(worker).visited) == keys(rows)
    assert worker.dead == []
    # No more than the rows of its own step are visited again.
    assert len(sweep_of(worker).visited) < 50 + 10 * stops


def test_a_lost_answer_to_sending_the_next_step_does_not_fork_the_sweep() -> None:
    rows = many(60)
    worker = poller(rows, rows_per_step=10)
    worker.queue.loses_the_next_answer = True

    worker.run()

    steps = [m.number for m in worker.queue.sent if isinstance(m, Step)]
    assert steps == sorted(set(steps))
    assert set(sweep_of(worker).visited) == keys(rows)
    assert len(sweep_of(worker).visited) == 70


def test_two_steps_with_one_number_lead_to_one_next_step() -> None:
    rows = many(60)
    worker = poller(rows, rows_per_step=10)
    worker.queue.loses_the_next_answer = True
    worker.queue.forget_what_was_seen()
    crashed = worker.queue.messages.pop()
    assert isinstance(crashed, Step)
    # A repeat, minutes later, of a step that had sent its next one already.
    worker.queue.messages += [crashed, crashed]

    worker.run()

    numbers = Counter(m.number for m in worker.queue.sent if isinstance(m, Step))
    assert max(numbers.values()) <= 2
    assert numbers[max(numbers)] == 1
    assert set(sweep_of(worker).visited) == keys(rows)


def test_of_two_next_steps_with_different_starts_only_the_first_is_kept() -> None:
    sweep, queue = NotingSweep(many(60)), MemorySweepQueue()

    for rows_per_step in (10, 20):
        left = iter(range(rows_per_step - 1, 0, -1))
        take_step(
            sweep,
            queue,
            FIRST,
            attempt=1,
            now=NOW,
            time_is_left=lambda left=left: next(left, 0) > 0,
        )

    assert [m.number for m in queue.sent if isinstance(m, Step)] == [1]


def test_an_account_that_always_fails_is_dead_lettered_alone() -> None:
    rows = many(50)
    worker = poller(rows, rows_per_step=10)
    sweep_of(worker).stops_at["ACCOUNT#user:u7"] = 10**9

    worker.run()

    assert set(sweep_of(worker).visited) == keys(rows) - {"ACCOUNT#user:u7"}
    assert worker.dead == [
        Visit(sweep="reconciliation", day=NOW.date(), key="ACCOUNT#user:u7", part=0)
    ]


def test_a_redrive_visits_an_account_that_was_dead_lettered() -> None:
    rows = many(20)
    worker = poller(rows)
    sweep_of(worker).stops_at["ACCOUNT#user:u7"] = 10**9
    worker.run()
    before = len(sweep_of(worker).visited)
    sweep_of(worker).stops_at.clear()

    worker.queue.messages += worker.dead
    worker.run()

    assert sweep_of(worker).visited[before:] == ["ACCOUNT#user:u7"]


def test_an_unreadable_row_is_visited_like_any_other() -> None:
    rows = many(5)
    rows.unreadable.add("ACCOUNT#user:u3")
    worker = poller(rows)

    worker.run()

    assert set(sweep_of(worker).visited) == keys(rows)


def test_a_row_that_is_left_out_is_named_by_its_step_and_by_its_visit() -> None:
    rows = many(5)
    rows.unreadable.add("ACCOUNT#user:u3")
    sweep, queue = NotingSweep(rows), MemorySweepQueue()
    visit = Visit(sweep="reconciliation", day=NOW.date(), key="ACCOUNT#user:u3", part=0)

    stepped = take_step(sweep, queue, FIRST, attempt=1, now=NOW, time_is_left=lambda: True)
    visited = take_visit(sweep, queue, visit, NOW)

    assert stepped.log_fields["left_out"] == ("ACCOUNT#user:u3",)
    assert visited.log_fields["left_out"] == ("ACCOUNT#user:u3",)


def test_a_large_row_gets_visits_of_its_own_beside_the_sweep() -> None:
    rows = many(30)
    worker = poller(rows, rows_per_step=10)
    sweep_of(worker).visits_needed["ACCOUNT#user:u7"] = 4

    worker.run()

    visited = Counter(sweep_of(worker).visited)
    assert visited.pop("ACCOUNT#user:u7") == 4
    assert set(visited.values()) == {1}
    parts = [m.part for m in worker.queue.sent if isinstance(m, Visit)]
    assert parts == [1, 2, 3]


def test_a_row_that_never_ends_is_given_up() -> None:
    rows = many(1)
    last = Visit(
        sweep="reconciliation", day=NOW.date(), key="ACCOUNT#user:u0", part=VISITS_PER_ROW_MAX
    )

    with pytest.raises(InvariantViolated, match="come to an end"):
        take_visit(NotingSweep(rows), MemorySweepQueue(), last, NOW)


def test_a_row_that_was_deleted_is_not_a_failure() -> None:
    visit = Visit(sweep="reconciliation", day=NOW.date(), key="ACCOUNT#user:gone", part=0)

    swept = take_visit(NotingSweep(MemoryRows()), MemorySweepQueue(), visit, NOW)

    assert swept.rows == 0


class ChangingSweep(NotingSweep):
    """With each visit of the sweep, an account is added."""

    def visit(self, row: Account | Unreadable, *_: object) -> Visited:
        number = len(self.rows.accounts)
        if number < 200:
            principal = Principal("user", f"new{number}")
            self.rows.accounts[principal] = Account(principal, version=1)
        return super().visit(row)


def test_accounts_added_during_a_sweep_cause_no_missed_or_repeated_visit() -> None:
    rows = many(100)
    there = keys(rows)
    queue = MemorySweepQueue()
    queue.send([FIRST])
    sweep = ChangingSweep(rows)

    Poller(sweep, queue, NOW, rows_per_step=9).run()

    assert there <= set(sweep.visited)
    assert set(Counter(sweep.visited).values()) == {1}


@pytest.mark.parametrize(
    ("sent_at", "day"),
    [
        (datetime(2026, 10, 25, 0, 59, 59, tzinfo=UTC), date(2026, 10, 25)),
        (datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), date(2026, 11, 30)),
        (datetime(2028, 2, 29, 3, 0, tzinfo=UTC), date(2028, 2, 29)),
    ],
)
def test_a_sweep_belongs_to_the_day_on_which_it_started(sent_at: datetime, day: date) -> None:
    step = parse_sweep_message(beginning("reconciliation"), sent_at)

    assert step == Step(sweep="reconciliation", day=day, number=0, after=None)


def test_steps_and_visits_are_read_back_as_they_were_sent() -> None:
    messages = [
        FIRST.model_copy(update={"number": 3, "after": "TEAM#acme"}),
        Visit(sweep="reconciliation", day=NOW.date(), key="ACCOUNT#user:a", part=2),
    ]

    assert [parse_sweep_message(m.model_dump_json(), NOW) for m in messages] == messages


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        '{"sweep":"unheard_of"}',
        '{"sweep":"reconciliation","day":"2026-11-23"}',
        '{"sweep":"reconciliation","day":"2026-11-23","number":-1}',
        '{"sweep":"reconciliation","day":"2026-11-23","number":1,"key":"ACCOUNT#user:a","part":1}',
    ],
)
def test_any_other_body_is_rejected(body: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        parse_sweep_message(body, NOW)


def test_the_last_step_alone_says_what_all_steps_did() -> None:
    worker = poller(many(60), rows_per_step=10)

    worker.run()

    *earlier, last = worker.swept
    assert {swept.ended for swept in earlier} == {None}
    assert last.ended == LastSweep(
        "reconciliation", NOW.date(), NOW, rows=60, visits=0, counts={"Seen": 60}
    )


def test_a_step_that_is_delivered_twice_is_counted_once() -> None:
    worker = poller(many(60), rows_per_step=10)
    worker.queue.loses_the_next_answer = True

    counts = worker.run()

    last = worker.swept[-1].ended
    assert last is not None
    assert len(sweep_of(worker).visited) == 70
    assert (last.rows, last.counts) == (60, {"Seen": 60})
    assert counts == Counter(Seen=60)


def test_rows_that_were_left_to_visits_are_counted_apart() -> None:
    split, large = poller(many(20)), poller(many(20))
    sweep_of(split).stops_at["ACCOUNT#user:u7"] = 2
    sweep_of(large).visits_needed["ACCOUNT#user:u7"] = 3

    split.run()
    large.run()

    (all_split,) = [swept.ended for swept in split.swept if swept.ended]
    (one_large,) = [swept.ended for swept in large.swept if swept.ended]
    assert (all_split.rows, all_split.visits, all_split.counts) == (0, 20, {})
    assert (one_large.rows, one_large.visits, one_large.counts) == (20, 1, {"Seen": 20})
