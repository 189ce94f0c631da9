import json
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agent_credits.intake.debits
from agent_credits.billing.directory import Directory
from agent_credits.commit.changes import Recorded
from agent_credits.intake.debited_batch import DebitedBatch, Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.accounts import Account
from agent_credits.values.errors import (
    AccountTooLarge,
    Contended,
    OutOfTime,
    PolicyMissing,
    RowsUnavailable,
)
from agent_credits.values.principals import Principal
from tests.dispositions import postponed, rejected
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    NOW,
    OLGA,
    TRIGGERS,
    body,
    grant_change,
    history,
    open_account,
    pause,
    remaining_by_grant,
    remaining_on,
    sample_rows,
    settle,
    usage,
)


class BrokenFor(MemoryRows):
    """Rows in which one account cannot be written."""

    def __init__(self, broken: Principal) -> None:
        super().__init__()
        settle(self)
        self.broken: Principal | None = None
        self._to_break = broken

    def break_down(self) -> None:
        self.broken = self._to_break

    def compare_and_set(self, account: Account) -> Account | None:
        if account.principal == self.broken:
            raise RowsUnavailable("throttled")
        return super().compare_and_set(account)


def worker(rows: MemoryRows) -> Debits:
    return Debits(rows, Directory(rows), pause)


def always() -> bool:
    return True


def debit(
    rows: MemoryRows,
    *bodies: str,
    debits: Debits | None = None,
    time_is_left: Callable[[], bool] = always,
) -> DebitedBatch:
    """Deliver the bodies as messages m0, m1, ... to a new worker."""
    deliveries = [Delivery(f"m{number}", text) for number, text in enumerate(bodies)]
    return (debits or worker(rows)).debit(deliveries, now=NOW, time_is_left=time_is_left)


def opened(rows: MemoryRows, *principals: Principal) -> MemoryRows:
    for principal in principals:
        open_account(rows, grant_change("g-1", credits="1000", principal=principal))
    return rows


def recorded_ids(rows: MemoryRows, principal: Principal) -> list[str]:
    return [e.identity.id for e in history(rows, principal) if e.identity.realm == "RUN"]


def test_a_batch_is_grouped_by_account_and_each_group_is_committed_once() -> None:
    rows = opened(sample_rows(), ANA, BEN)
    commits_before = len(rows.stream)

    batch = debit(
        rows,
        body(usage("e1", user="ana")),
        body(usage("e2", user="ben")),
        body(usage("e3", user="ana")),
    )

    assert batch.failed_message_ids == []
    assert [o.name for o in batch.outcomes] == ["debited"] * 3
    assert len(rows.stream) - commits_before == 2
    assert recorded_ids(rows, ANA) == ["e1", "e3"]


def test_an_outcome_has_exactly_the_fields_of_a_log_line() -> None:
    rows = opened(sample_rows(), ANA)

    (outcome,) = debit(rows, body(usage("e1"))).outcomes

    assert outcome.log_fields == {
        "message_id": "m0",
        "event_id": "e1",
        "run_id": "run-1",
        "principal": "user:ana",
        "version": 2,
    }


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("not JSON", "malformed"),
        ("[]", "malformed"),
        (body(usage("bad", 1.5)), "malformed"),  # type: ignore[arg-type]
        (body(usage("bad", team="nobody")), "unknown_team"),
        (body(usage("bad", user="mallory")), "unknown_user"),
        (body(usage("bad", user="ben")), "unknown_user"),
        (body({**usage("bad"), "time": "2026-01-01T00:00:00Z"}), "from_the_future"),
        (body(usage("e0", "2")), "conflicting"),
    ],
)
def test_a_rejected_message_does_not_affect_its_neighbours(text: str, code: str) -> None:
    rows = opened(sample_rows(), ANA)
    debit(rows, body(usage("e0", "1")))

    batch = debit(rows, body(usage("e1")), text, body(usage("e2")))

    assert batch.failed_message_ids == ["m1"]
    assert rejected(batch)["m1"].code == code
    assert postponed(batch) == {}
    assert recorded_ids(rows, ANA) == ["e0", "e1", "e2"]


def test_a_deeply_nested_message_does_not_affect_its_neighbours() -> None:
    rows = opened(sample_rows(), ANA)
    deep = [f'{{"x": {"[" * depth}{"]" * depth}}}' for depth in range(850, 1_000)]

    batch = debit(rows, *deep, body(usage("e1")))

    assert len(rejected(batch)) == len(deep)
    assert recorded_ids(rows, ANA) == ["e1"]


def test_an_account_in_trouble_costs_its_neighbours_nothing() -> None:
    rows = BrokenFor(BEN)
    opened(rows, ANA, BEN)
    rows.break_down()

    batch = debit(rows, body(usage("e1", user="ben")), body(usage("e2", user="ana")))

    assert batch.failed_message_ids == ["m0"]
    assert isinstance(postponed(batch)["m0"], RowsUnavailable)
    assert rejected(batch) == {}
    assert recorded_ids(rows, ANA) == ["e2"]


def test_an_account_that_recovers_records_what_was_postponed() -> None:
    rows = BrokenFor(BEN)
    opened(rows, ANA, BEN)
    rows.break_down()
    debits = worker(rows)
    debit(rows, body(usage("e1", user="ben")), debits=debits)
    rows.broken = None

    batch = debit(rows, body(usage("e1", user="ben")), debits=debits)

    assert [o.name for o in batch.outcomes] == ["debited"]


def test_unreadable_settings_postpone_only_their_own_message() -> None:
    class Unreadable(MemoryRows):
        def read_team(self, team_id: str) -> Any:
            if team_id == "bigcorp":
                raise RowsUnavailable("throttled")
            return super().read_team(team_id)

    rows = Unreadable()
    settle(rows)
    opened(rows, ANA)

    batch = debit(rows, body(usage("e1", team="bigcorp")), body(usage("e2")))

    assert batch.failed_message_ids == ["m0"]
    assert isinstance(postponed(batch)["m0"], RowsUnavailable)


def test_a_policy_that_is_missing_postpones_its_messages() -> None:
    rows = opened(sample_rows(), ANA)
    rows.policies.clear()

    batch = debit(rows, body(usage("e1")))

    assert isinstance(postponed(batch)["m0"], PolicyMissing)


def test_a_member_without_an_account_is_rejected() -> None:
    batch = debit(sample_rows(), body(usage("e1")))

    assert rejected(batch)["m0"].code == "unknown_user"
    assert rejected(batch)["m0"].reason == "user:ana has no account"


def test_messages_left_when_time_runs_out_are_postponed() -> None:
    rows = opened(sample_rows(), ANA, BEN, OLGA)
    # Before reading for all of them together, and before each commit.
    answers: Iterator[bool] = iter([True, True, False, False])

    batch = debit(
        rows,
        body(usage("e1", user="ana")),
        body(usage("e2", user="ben")),
        body(usage("e3", trigger=TRIGGERS["schedule"])),
        time_is_left=lambda: next(answers),
    )

    assert batch.failed_message_ids == ["m1", "m2"]
    assert [type(why) for why in postponed(batch).values()] == [OutOfTime, OutOfTime]
    assert recorded_ids(rows, ANA) == ["e1"]
    assert recorded_ids(rows, BEN) == recorded_ids(rows, OLGA) == []


def test_an_array_is_done_only_when_all_of_it_is_recorded() -> None:
    rows = BrokenFor(BEN)
    opened(rows, ANA, BEN)
    rows.break_down()
    array = body(usage("e1", user="ana"), usage("e2", user="ben"), usage("e3", user="ana"))

    first = debit(rows, array)
    rows.broken = None
    second = debit(rows, array)

    assert first.failed_message_ids == ["m0"]
    assert recorded_ids(rows, ANA) == ["e1", "e3"]
    assert second.failed_message_ids == []
    assert sorted(o.name for o in second.outcomes) == [
        "already_recorded",
        "already_recorded",
        "debited",
    ]


def test_an_array_with_a_malformed_event_records_the_others_and_is_rejected() -> None:
    rows = opened(sample_rows(), ANA)

    batch = debit(rows, body(usage("e1"), {"no": "event"}, usage("e2")))

    assert batch.failed_message_ids == ["m0"]
    assert rejected(batch)["m0"].reason.startswith("event 1: ")
    assert recorded_ids(rows, ANA) == ["e1", "e2"]


def test_an_array_that_is_rejected_and_postponed_comes_back_and_is_then_rejected() -> None:
    rows = BrokenFor(ANA)
    opened(rows, ANA)
    rows.break_down()

    array = body(usage("e1"), {"no": "event"})

    first = debit(rows, array)
    rows.broken = None
    second = debit(rows, array)

    assert isinstance(postponed(first)["m0"], RowsUnavailable)
    assert rejected(first) == {}
    assert first.failed_message_ids == second.failed_message_ids == ["m0"]
    assert rejected(second)["m0"].code == "malformed"
    assert recorded_ids(rows, ANA) == ["e1"]


def test_the_same_event_in_two_messages_counts_once_and_both_are_done() -> None:
    rows = opened(sample_rows(), ANA)

    batch = debit(rows, body(usage("e1")), body(usage("e1")))

    assert batch.failed_message_ids == []
    assert [o.name for o in batch.outcomes] == ["debited", "already_recorded"]
    assert remaining_on(rows.accounts[ANA]) == {"g-1": 999_000_000}


def test_the_same_id_with_another_payload_in_one_batch_is_rejected() -> None:
    rows = opened(sample_rows(), ANA)

    batch = debit(rows, body(usage("e1", "1")), body(usage("e1", "2")))

    assert batch.failed_message_ids == ["m1"]
    assert rejected(batch)["m1"].code == "conflicting"
    assert remaining_on(rows.accounts[ANA]) == {"g-1": 999_000_000}


def test_the_same_id_for_another_account_is_a_conflict_once_its_page_is_flushed() -> None:
    rows = opened(sample_rows(), ANA, BEN)
    debit(rows, body(usage("e1", user="ana")))
    for number in range(20):
        debit(rows, body(usage(f"between-{number}", user="ana")))

    batch = debit(rows, body(usage("e1", user="ben")))

    assert rejected(batch)["m0"].code == "conflicting"


def test_a_large_group_is_committed_in_bounded_parts() -> None:
    rows = opened(sample_rows(), ANA)
    commits_before = len(rows.stream)

    batch = debit(rows, body(*[usage(f"e{number}", "0.1") for number in range(450)]))

    assert batch.failed_message_ids == []
    assert len(rows.stream) - commits_before == 3
    assert len(recorded_ids(rows, ANA)) == 450


def bulky(number: int) -> dict[str, Any]:
    """Return an event with incompressible identifiers of the maximum length."""
    visible = random.Random(number).choices([chr(code) for code in range(0x21, 0x7F)], k=4 * 128)
    parts = ["".join(visible[start : start + 128]) for start in range(0, len(visible), 128)]
    event = usage(parts[0], "0.1", run=parts[1], project_id=parts[2])
    return {**event, "traceparent": parts[3]}


def test_a_group_that_does_not_fit_a_row_is_halved_until_it_does() -> None:
    rows = opened(sample_rows(), ANA)
    commits_before = len(rows.stream)
    documents = [bulky(number) for number in range(200)]

    batch = debit(rows, body(*documents))

    assert batch.failed_message_ids == []
    assert len(rows.stream) - commits_before == 2
    assert recorded_ids(rows, ANA) == [d["id"] for d in documents]


def test_a_single_event_that_does_not_fit_is_postponed_by_itself() -> None:
    class FullRow(MemoryRows):
        def compare_and_set(self, account: Account) -> Account | None:
            if any(entry.identity.id == "e1" for entry in account.entries):
                raise AccountTooLarge("a row passes its ceiling")
            return super().compare_and_set(account)

    rows = FullRow()
    settle(rows)
    opened(rows, ANA)

    batch = debit(rows, body(usage("e0")), body(usage("e1")), body(usage("e2")))

    assert batch.failed_message_ids == ["m1"]
    assert isinstance(postponed(batch)["m1"], AccountTooLarge)
    assert recorded_ids(rows, ANA) == ["e0", "e2"]


def test_a_worker_keeps_a_bounded_number_of_rows_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    class CountedReads(MemoryRows):
        def __init__(self) -> None:
            super().__init__()
            self.reads: list[str] = []

        def read_account(self, principal: Principal) -> Account | None:
            self.reads.append(principal.id)
            return super().read_account(principal)

    monkeypatch.setattr(agent_credits.intake.debits, "WARM_ACCOUNTS_MAX", 2)
    rows = CountedReads()
    settle(rows)
    opened(rows, ANA, BEN, OLGA)
    rows.reads.clear()
    debits = worker(rows)

    for number, user in enumerate(["ana", "ben", "ben", "olga", "olga", "ben", "ana"]):
        debit(rows, body(usage(f"e{number}", user=user)), debits=debits)

    assert rows.reads == ["ana", "ben", "olga", "ana"]


def test_retries_and_failed_runs_are_counted() -> None:
    rows = opened(sample_rows(), ANA)
    debits = worker(rows)
    debit(rows, body(usage("e1")), debits=debits)
    debit(rows, body(usage("e2")))

    batch = debit(rows, body(usage("e3", "5000")), body(usage("e4", "5000")), debits=debits)

    assert batch.retries == 1
    assert batch.runs_failed == 1


def test_races_lost_in_vain_are_counted_too() -> None:
    class AlwaysLost(MemoryRows):
        lost = False

        def compare_and_set(self, account: Account) -> Account | None:
            return (
                self.accounts[account.principal] if self.lost else super().compare_and_set(account)
            )

    rows = AlwaysLost()
    settle(rows)
    opened(rows, ANA)
    rows.lost = True

    batch = debit(rows, body(usage("e1")))

    assert isinstance(postponed(batch)["m0"], Contended)
    assert batch.retries == 10


def test_settings_that_name_another_payer_do_not_move_an_event_to_another_account() -> None:
    """Tenures never change, so someone edited these settings: the event keeps its account."""
    rows = opened(sample_rows(), OLGA)
    debits = worker(rows)
    debit(rows, body(usage("e1", trigger=TRIGGERS["schedule"])), debits=debits)
    (tenure,) = ACME.tenures
    by_hand = tenure.model_copy(update={"kind": "enterprise"})
    rows.teams["acme"] = ACME.model_copy(update={"tenures": (by_hand,)})

    batch = debit(rows, body(usage("e2", "5000", trigger=TRIGGERS["schedule"])), debits=debits)

    (outcome,) = batch.outcomes
    run = outcome.result.entry.run
    assert outcome.name == "insufficient"
    assert run is not None
    assert (outcome.principal, run.payer) == (OLGA, "owner")
    assert outcome.result.entry.drawn_microcredits == 999_000_000


USERS = ("ana", "ben", "olga")
sent_events = st.lists(
    st.tuples(st.sampled_from(USERS), st.integers(0, 12), st.sampled_from(["1", "40", "700"])),
    min_size=1,
    max_size=25,
)


def after(bodies: Iterable[str], *, batch_size: int, workers: int = 1) -> MemoryRows:
    rows = opened(sample_rows(), ANA, BEN, OLGA)
    pool = [worker(rows) for _ in range(workers)]
    texts = list(bodies)
    for number, start in enumerate(range(0, len(texts), batch_size)):
        debit(rows, *texts[start : start + batch_size], debits=pool[number % workers])
    return rows


@settings(max_examples=60)
@given(sent_events, st.integers(1, 10), st.integers(1, 3), st.randoms(use_true_random=False))
def test_the_order_in_which_independent_accounts_arrive_does_not_matter(
    events: list[tuple[str, int, str]], batch_size: int, workers: int, chance: Any
) -> None:
    by_user = {
        user: [
            usage(f"{user}-{number}", amount, user=user, run=f"{user}-run-{number % 3}")
            for of_user, number, amount in events
            if of_user == user
        ]
        for user in USERS
    }
    in_order = [json.dumps(document) for user in USERS for document in by_user[user]]
    queues = {user: list(documents) for user, documents in by_user.items()}
    interleaved = []
    while any(queues.values()):
        user = chance.choice([user for user in USERS if queues[user]])
        interleaved.append(json.dumps(queues[user].pop(0)))

    one = after(in_order, batch_size=1)
    other = after(interleaved, batch_size=batch_size, workers=workers)

    for principal in (ANA, BEN, OLGA):
        assert history(one, principal) == history(other, principal)
        assert remaining_on(one.accounts[principal]) == remaining_on(other.accounts[principal])
        assert remaining_by_grant(history(other, principal)) == remaining_on(
            other.accounts[principal]
        )


@settings(max_examples=40)
@given(sent_events, st.integers(1, 10), st.randoms(use_true_random=False))
def test_replaying_the_whole_queue_changes_nothing(
    events: list[tuple[str, int, str]], batch_size: int, chance: Any
) -> None:
    bodies = [
        body(usage(f"e{number}", amount, user=user, run=f"{user}-run-{number % 3}"))
        for number, (user, _, amount) in enumerate(events)
    ]
    rows = after(bodies, batch_size=batch_size)
    before = dict(rows.accounts)
    chance.shuffle(bodies)

    batch = debit(rows, *bodies)

    assert rows.accounts == before
    assert not any(isinstance(o.result, Recorded) for o in batch.outcomes)
    assert batch.failed_message_ids == []
