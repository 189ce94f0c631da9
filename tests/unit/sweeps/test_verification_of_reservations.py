"""Verifying recomputes reservations from the ledger too, and finds what was tampered with."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.entries import EndedReservation, Entry, Move
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.verification import verify_row
from tests.unit.builders import (
    ANA,
    MINUTE,
    NOW,
    finished,
    grant_change,
    history,
    pause,
    requested,
    usage,
)
from tests.unit.reservation_world import (
    HOUR,
    ReservingWorld,
    extended,
    policy,
    released,
    requests,
)
from tests.unit.sweeps.test_verification import LedgerInMemory

CREDIT = 1_000_000


@pytest.fixture
def rows() -> LedgerInMemory:
    """An account whose reservations ended in every way, and with a tree that is still live."""
    rows = LedgerInMemory()
    world = ReservingWorld(rows=rows)
    world.send(*requests(3))
    world.send(usage("used", "10", run="run-1"))
    world.send(finished("settled", run="run-1"), released("released", run="run-2"))
    world.send(extended("more", run="run-3", credits="5"))
    world.send(usage("beyond", "500", run="run-3"))
    later = NOW + 2 * HOUR
    more = grant_change("g-2", credits="100")
    commit(rows, ANA, [more], now=later, pause=pause)
    world.send(requested("expiring", run="run-4", credits="1"), now=later)
    later += 2 * HOUR
    world.send(requested("parent", run="run-5", credits="3"), now=later)
    world.send(requested("child", run="run-6", credits="1", parent_run_id="run-5"), now=later)
    world.send(requested("other", run="run-7", credits="1"), now=later + MINUTE)
    world.send(requested("closed", run="run-8", credits="2"), now=later + MINUTE)
    world.send(
        requested("orphan", run="run-9", credits="1", parent_run_id="run-8"), now=later + MINUTE
    )
    world.send(finished("closing", run="run-8"), now=later + MINUTE)
    return rows


def findings(rows: LedgerInMemory) -> str:
    verification = verify_row(rows, rows.accounts[ANA], {}, Checkpoint(ANA, NOW.date()))
    return "\n".join(str(finding) for finding in verification.findings)


def with_facts(entry: Entry, **changes: object) -> Entry:
    return replace(entry, reservation=replace(entry.reservation, **changes))


def test_an_untouched_ledger_is_clean_and_says_what_is_reserved(rows: LedgerInMemory) -> None:
    verification = verify_row(rows, rows.accounts[ANA], {}, Checkpoint(ANA, NOW.date()))

    assert verification.findings == ()
    assert verification.sums.reserved_microcredits == 4 * CREDIT


def test_reservations_are_verified_across_checkpoints(rows: LedgerInMemory) -> None:
    row, reserved = rows.accounts[ANA], 0
    rows.put_checkpoint(Checkpoint(ANA, NOW.date()))
    for _ in range(row.page_number + 1):
        since = rows.read_checkpoint(ANA)
        assert since is not None
        verification = verify_row(rows, row, {}, since, entries_max=1)
        assert verification.findings == ()
        reserved += verification.sums.reserved_microcredits
        rows.put_checkpoint(verification.checkpoint)
        if verification.is_complete:
            break

    # The stretch that reaches the row replays the open page beyond its checkpoint.
    assert verification.is_complete
    assert reserved == 4 * CREDIT


TAMPERED: dict[str, tuple[str, Callable[[Entry], Entry], str]] = {
    "a draw from another run's reservation": (
        "used",
        lambda e: with_facts(e, moves=(Move("run-2", "g-1", -10 * CREDIT),)),
        "changes the reservation of run run-2, which is not in its line",
    ),
    "a draw of more than was reserved": (
        "used",
        lambda e: with_facts(e, moves=(Move("run-1", "g-1", -100 * CREDIT),)),
        "takes 100 of grant g-1 from the reservation of run run-1, which held 75",
    ),
    "an end that leaves something": (
        "released",
        lambda e: with_facts(e, moves=(Move("run-2", "g-1", -70 * CREDIT),)),
        "ends the reservation of run run-2 and leaves 5 in it",
    ),
    "a second end": (
        "released",
        lambda e: with_facts(
            e, ended=(*e.reservation.ended, EndedReservation("run-1", None, 75, 10))
        ),
        "ends a reservation of run run-1, which holds none",
    ),
    "a child that outlives its parent": (
        "closing",
        lambda e: with_facts(e, ended=e.reservation.ended[:1], moves=e.reservation.moves[:1]),
        "ends the parent of run run-9, but not its reservation",
    ),
    "a reservation on top of one": (
        "child",
        lambda e: replace(e, identity=replace(e.identity, subject="run-5")),
        "reserves for run run-5, which holds a reservation",
    ),
    "usage beside its reservation": (
        "used",
        lambda e: with_facts(e, moves=()),
        "draws past the reservation of its run",
    ),
    "an extension of nothing": (
        "more",
        lambda e: replace(
            with_facts(e, moves=(Move("run-x", "g-1", 5 * CREDIT),)),
            identity=replace(e.identity, subject="run-x"),
        ),
        "extends run run-x, which holds no reservation",
    ),
    "another sum of what is reserved": (
        "beyond",
        lambda e: with_facts(e, reserved_before_microcredits=1),
        "states other balances than the pools had",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_found_even_if_page_receipt_and_row_agree(
    rows: LedgerInMemory, what: str
) -> None:
    event_id, change, expected = TAMPERED[what]

    rows.change_entry(event_id, change)

    assert expected in findings(rows)


def test_a_reservation_that_is_changed_on_the_row_is_found(rows: LedgerInMemory) -> None:
    row = rows.accounts[ANA]
    (first, *others) = row.reservations
    (part,) = first.parts
    emptier = replace(first, parts=(replace(part, microcredits=CREDIT),))

    rows.change_account(reservations=(emptier, *others))
    assert "run-5 holds 1 credit, but its ledger leaves 2" in findings(rows)
    rows.change_account(reservations=tuple(others))
    assert "the reservation of run run-5 is live on its ledger alone" in findings(rows)


@pytest.mark.parametrize(("credits", "outcome"), [("30", "accepted"), ("600", "insufficient")])
def test_a_child_that_asks_without_reserving_is_answered_by_the_pools(
    credits: str,  # noqa: A002
    outcome: str,
) -> None:
    world = ReservingWorld()
    world.send(*requests(1))
    world.send(requested("r-2", run="run-2", credits="60", parent_run_id="run-1"))

    # The world verifies its account after each commit.
    asked = requested("r-2b", run="run-2", reserve="none", credits=credits)
    assert world.outcomes(asked) == [outcome]


@pytest.mark.parametrize("reserved", ["3", "1"])
def test_usage_that_leaves_as_much_reserved_as_it_found_is_right(reserved: str) -> None:
    world = ReservingWorld(policy("3"))
    world.send(*requests(1, credits=reserved))

    # It draws what is left, then steps of three. The world verifies its account afterwards.
    assert world.outcomes(usage("u-1", "3"), usage("u-2", "3")) == ["debited", "debited"]

    assert not history(world.rows, ANA)[-1].reservation.moves
    assert world.left("run-1") == ("0" if reserved == "3" else "1")


def test_usage_that_draws_its_own_part_before_an_earlier_grant_is_right() -> None:
    world = ReservingWorld(policy("3"))
    world.send(*requests(1, credits="1"))
    commit(world.rows, ANA, [grant_change("p-1", "plan", "1")], now=NOW, pause=pause)

    # It draws the add-on credit that it holds, and then a step of three that begins with the plan.
    # As much is reserved of each grant as before, so the entry says nothing of reservations.
    assert world.outcomes(usage("u-1", "3")) == ["debited"]

    entry = history(world.rows, ANA)[-1]
    assert not entry.reservation.moves
    assert [part.grant_id for part in entry.draws] == ["g-1", "p-1"]
