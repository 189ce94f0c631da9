"""Invariants 13 to 16, and the rules of reservations, broken on purpose: the checks must notice."""

import json
from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.billing.teams import bill
from agent_credits.commit.changes import GrantChange, RunChange
from agent_credits.commit.write_protocol import commit
from agent_credits.events.agent_runs import AgentRunEvent, ModelProviderErrorReported
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Draw, Entry, Move
from tests.memory_rows import MemoryRows
from tests.simulation.invariants import Invariants, Sent, asked_in
from tests.simulation.outside import StoredRows
from tests.simulation.violation import Violation
from tests.simulation.workers import pause
from tests.simulation.world import CREDIT, RESERVING_POLICIES
from tests.unit.builders import (
    ACME,
    ANA,
    MINUTE,
    NOW,
    finished,
    parsed,
    requested,
    usage,
)
from tests.unit.reservation_world import extended

# Pauses, with a grace of two credits; a run reserves for ten minutes where its event says so.
POLICY = RESERVING_POLICIES["r2"]
LAST_STEP = 1_000


class Ledger:
    """An account of twenty credits, and two runs that reserved five of them each."""

    def __init__(self) -> None:
        self.invariants = Invariants()
        self.invariants.keeps_views = True
        self.invariants.steps = count().__next__
        self.rows = StoredRows(self.invariants)
        gift = GrantChange(ANA, "gift", "add_on", 20 * CREDIT, None, "gift")
        commit(self.rows, ANA, [gift], now=NOW, pause=pause, opens_account=True)
        self.send(reserves("r-1"), reserves("r-2", run="run-2"))

    @property
    def account(self) -> Account:
        return self.rows.accounts[ANA]

    def send(self, *documents: dict[str, Any], now: datetime = NOW) -> None:
        commit(self.rows, ANA, self.changes(*documents), now=now, pause=pause)

    def next_row(self, *documents: dict[str, Any], now: datetime = NOW) -> Account:
        """Return the row that the protocol would write for these events."""
        elsewhere = MemoryRows()
        elsewhere.accounts[ANA] = self.account
        changes = self.changes(*documents)
        return commit(elsewhere, ANA, changes, now=now, pause=pause).account

    def write(self, row: Account) -> None:
        assert self.rows.compare_and_set(row) is None

    def check_by_ledger(self, row: Account) -> None:
        """Check the row by its ledger alone, and not by what the rules say."""
        new = row.entries[len(self.account.entries) :]
        self.invariants.reservations[ANA].commit(row, new)

    def changes(self, *documents: dict[str, Any]) -> list[RunChange]:
        return [self._change(document, parsed(document)) for document in documents]

    def _change(self, document: dict[str, Any], event: AgentRunEvent) -> RunChange:
        assert not isinstance(event, ModelProviderErrorReported)
        self.invariants.asked[event.identity] = asked_in(document)
        self.invariants.billed[event.identity] = (ANA, POLICY.version, "user")
        return RunChange(event, bill(event, ACME, POLICY))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def reserves(event_id: str, credits: str = "5", **fields: Any) -> dict[str, Any]:  # noqa: A002
    return requested(event_id, credits=credits, reserve="estimate", **fields)


def with_last_entry(row: Account, change: Callable[[Entry], Entry]) -> Account:
    return replace(row, entries=(*row.entries[:-1], change(row.entries[-1])))


def with_facts(row: Account, **facts: Any) -> Account:
    return with_last_entry(row, lambda e: replace(e, reservation=replace(e.reservation, **facts)))


def test_what_is_right_is_not_complained_about(ledger: Ledger) -> None:
    ledger.send(reserves("r-3", "2", run="run-3", parent_run_id="run-1"))
    ledger.send(usage("u-3", "6", run="run-3"), extended("e-1", credits="1"), finished("f-1"))
    ledger.send(usage("u-2", "1", run="run-2"), now=NOW + 11 * MINUTE)

    assert not ledger.account.reservations


def test_13_a_grant_that_holds_more_than_its_ledger_leaves(ledger: Ledger) -> None:
    row = ledger.next_row(usage("u-1", "1"))
    more = tuple(
        replace(g, remaining_microcredits=g.remaining_microcredits + 1) for g in row.grants
    )

    with pytest.raises(Violation, match="a grant is available, reserved, burned or expired"):
        ledger.check_by_ledger(replace(row, grants=more))


def test_13_a_reservation_that_holds_more_than_its_ledger_says(ledger: Ledger) -> None:
    row = ledger.next_row(usage("u-1", "1"))
    first, second = row.reservations
    more = replace(first, parts=(Draw("add_on", "gift", 5 * CREDIT),))

    with pytest.raises(Violation, match="the row reserves what the ledger says"):
        ledger.check_by_ledger(replace(row, reservations=(more, second)))


def test_13_what_leaves_a_reservation_and_comes_nowhere(ledger: Ledger) -> None:
    row = with_facts(
        ledger.next_row(usage("u-1", "1")), moves=(Move("run-1", "gift", -2 * CREDIT),)
    )

    with pytest.raises(Violation, match="what leaves a reservation is drawn"):
        ledger.check_by_ledger(row)


def test_14_a_run_that_draws_what_another_run_reserved(ledger: Ledger) -> None:
    row = with_facts(ledger.next_row(usage("u-1", "1")), moves=(Move("run-2", "gift", -CREDIT),))

    with pytest.raises(Violation, match="a run draws no reservation but its own and those of its"):
        ledger.check_by_ledger(row)


def test_14_a_parent_that_draws_what_its_child_reserved(ledger: Ledger) -> None:
    ledger.send(reserves("r-3", "2", run="run-3", parent_run_id="run-1"))
    row = with_facts(ledger.next_row(usage("u-1", "1")), moves=(Move("run-3", "gift", -CREDIT),))

    with pytest.raises(Violation, match="a run draws no reservation but its own and those of its"):
        ledger.check_by_ledger(row)


def test_14_a_child_that_reserves_what_nobody_holds(ledger: Ledger) -> None:
    row = ledger.next_row(reserves("r-3", "2", run="run-3", parent_run_id="run-1"))
    row = with_facts(row, moves=(Move("run-3", "gift", 2 * CREDIT),))

    with pytest.raises(Violation, match="a child reserves from its parent alone"):
        ledger.check_by_ledger(row)


def test_14_an_end_that_gives_to_another_run(ledger: Ledger) -> None:
    row = ledger.next_row(finished("f-1"))
    moves = (*row.entries[-1].reservation.moves, Move("run-2", "gift", 5 * CREDIT))

    with pytest.raises(Violation, match="what ends gives to the nearest parent that goes on"):
        ledger.check_by_ledger(with_facts(row, moves=moves))


def test_15_a_reservation_that_ends_twice(ledger: Ledger) -> None:
    row = ledger.next_row(finished("f-1"))
    ended = row.entries[-1].reservation.ended

    with pytest.raises(Violation, match="a reservation ends once"):
        ledger.check_by_ledger(with_facts(row, ended=ended * 2))


def test_15_a_reservation_that_ended_and_ends_again(ledger: Ledger) -> None:
    ledger.send(finished("f-1"))
    row = ledger.next_row(finished("f-2", run="run-2"))
    before = next(e for e in ledger.account.entries if e.outcome == "finished").reservation.ended

    with pytest.raises(Violation, match="a reservation ends once, after it began"):
        ledger.check_by_ledger(with_facts(row, ended=(*row.entries[-1].reservation.ended, *before)))


def test_15_a_reservation_that_is_made_twice(ledger: Ledger) -> None:
    row = ledger.next_row(reserves("r-3", run="run-3"))
    again = with_last_entry(
        row,
        lambda e: replace(
            e,
            identity=replace(e.identity, subject="run-1"),
            reservation=replace(e.reservation, moves=(Move("run-1", "gift", 5 * CREDIT),)),
        ),
    )

    with pytest.raises(Violation, match="a run holds one reservation"):
        ledger.check_by_ledger(again)


def test_15_a_reservation_that_is_lost_from_the_row(ledger: Ledger) -> None:
    row = ledger.next_row(reserves("r-3", "2", run="run-3", parent_run_id="run-1"))
    drawn = ledger.next_row(usage("u-1", "5"))

    with pytest.raises(Violation, match="the row holds the reservations that began"):
        ledger.check_by_ledger(replace(drawn, reservations=drawn.reservations[1:]))
    with pytest.raises(Violation, match="the row reserves what the ledger says"):
        Ledger().check_by_ledger(replace(row, reservations=row.reservations[:2]))


def test_15_a_reservation_that_survives_its_run(ledger: Ledger) -> None:
    row = with_facts(ledger.next_row(finished("f-1")), moves=(), ended=())

    with pytest.raises(Violation, match="a run's end ends its reservation"):
        ledger.check_by_ledger(row)


def test_15_a_child_that_survives_its_parent(ledger: Ledger) -> None:
    ledger.send(reserves("r-3", "2", run="run-3", parent_run_id="run-1"))
    row = ledger.next_row(finished("f-1"))
    facts = row.entries[-1].reservation

    with pytest.raises(Violation, match="a parent that ends closes its children"):
        ledger.check_by_ledger(
            with_facts(
                row,
                moves=tuple(move for move in facts.moves if move.run_id == "run-1"),
                ended=tuple(end for end in facts.ended if end.run_id == "run-1"),
            )
        )


def test_15_usage_of_a_reservation_that_ended(ledger: Ledger) -> None:
    ledger.send(finished("f-1"))
    row = with_facts(ledger.next_row(usage("u-1", "1")), moves=(Move("run-1", "gift", -CREDIT),))

    with pytest.raises(Violation, match="only a live reservation holds anything"):
        ledger.check_by_ledger(row)


@pytest.mark.parametrize("says", ["overdrawn", "extended"])
def test_16_a_tree_that_draws_past_its_grace(ledger: Ledger, says: str) -> None:
    row = ledger.next_row(usage("u-1", "7"))
    past = with_last_entry(row, lambda e: replace(e, draws=(Draw("add_on", "gift", 8 * CREDIT),)))
    overdrawn = 3 * CREDIT if says == "overdrawn" else 2 * CREDIT
    invariant = (
        "what its root was given, and its grace" if says == "overdrawn" else "without a step"
    )

    with pytest.raises(Violation, match=invariant):
        ledger.check_by_ledger(with_facts(past, overdrawn_microcredits=overdrawn))


def test_16_a_child_that_draws_past_the_grace_of_its_root(ledger: Ledger) -> None:
    ledger.send(reserves("r-3", "2", run="run-3", parent_run_id="run-1"), usage("u-1", "5"))
    row = ledger.next_row(usage("u-3", "2", run="run-3"))
    past = with_last_entry(row, lambda e: replace(e, draws=(Draw("add_on", "gift", 3 * CREDIT),)))

    with pytest.raises(Violation, match="what its root was given, and its grace"):
        ledger.check_by_ledger(with_facts(past, overdrawn_microcredits=CREDIT))


# What the ledger alone cannot tell: the rules do.


@pytest.mark.parametrize(
    "facts",
    [
        {"directive": "continue"},
        {"overruns": False},
        {"overdrawn_microcredits": 0},
        {"moves": ()},
    ],
    ids=["directive", "overruns", "overdrawn", "moves"],
)
def test_an_entry_that_does_not_say_what_happened(ledger: Ledger, facts: dict[str, Any]) -> None:
    row = with_facts(ledger.next_row(usage("u-1", "6")), **facts)

    with pytest.raises(Violation, match="but the rules say"):
        ledger.write(row)


@pytest.mark.parametrize(
    "fields",
    [{"directive": "stop"}, {"drawn_microcredits": 0}, {"expires_at": NOW + 9 * MINUTE}],
    ids=["directive", "drawn", "expiry"],
)
def test_a_row_that_does_not_hold_what_happened(ledger: Ledger, fields: dict[str, Any]) -> None:
    row = ledger.next_row(usage("u-1", "6"))
    first, second = row.reservations

    with pytest.raises(Violation, match="is reserved, but the rules say"):
        ledger.write(replace(row, reservations=(replace(first, **fields), second)))


def test_a_reservation_that_lives_past_its_time(ledger: Ledger) -> None:
    row = ledger.next_row(usage("u-9", "1", run="run-9"))
    late = with_last_entry(row, lambda e: replace(e, recorded_at=NOW + 11 * MINUTE))

    with pytest.raises(Violation, match="what is due is recorded"):
        ledger.write(late)


def test_an_event_that_is_recorded_though_it_has_to_be_rejected(ledger: Ledger) -> None:
    row = ledger.next_row(extended("e-1", credits="1"))
    of_nobody = extended("e-1", credits="1", run="run-9")
    ledger.changes(of_nobody)
    wrong = with_last_entry(row, lambda e: replace(e, identity=parsed(of_nobody).identity))

    with pytest.raises(Violation, match=r"it must be rejected: .*no_reservation"):
        ledger.write(wrong)


def test_an_event_that_is_rejected_though_it_contradicts_nothing(ledger: Ledger) -> None:
    sent = extended("e-1", credits="1")
    ledger.changes(sent)
    event = parsed(sent)
    message = Sent(1, json.dumps(sent), ((event.identity, event.payload_hash),), is_rejected=False)

    with pytest.raises(Violation, match="rejected as no_reservation only if it is so"):
        ledger.invariants.check_contradicted(message, "no_reservation", LAST_STEP, NOW)

    late = NOW + 11 * MINUTE
    ledger.invariants.check_contradicted(message, "reservation_ended", LAST_STEP, late)
    with pytest.raises(Violation, match="rejected as no_reservation only if it is so"):
        ledger.invariants.check_contradicted(message, "no_reservation", LAST_STEP, late)


def test_an_event_that_is_rejected_while_the_one_before_it_may_be_in_the_queue(
    ledger: Ledger,
) -> None:
    sent = extended("e-9", credits="1", run="run-9")
    ledger.changes(sent)
    event = parsed(sent)
    message = Sent(1, json.dumps(sent), ((event.identity, event.payload_hash),), is_rejected=False)

    ledger.invariants.check_contradicted(message, "out of order", LAST_STEP, NOW)
    with pytest.raises(Violation, match="rejected as no_reservation only if it is so"):
        ledger.invariants.check_contradicted(message, "no_reservation", LAST_STEP, NOW)

    ledger.invariants.check_contradicted(message, "no_reservation", LAST_STEP, NOW + MINUTE)
    with pytest.raises(Violation, match="rejected as out of order only if it is so"):
        ledger.invariants.check_contradicted(message, "out of order", LAST_STEP, NOW + MINUTE)
