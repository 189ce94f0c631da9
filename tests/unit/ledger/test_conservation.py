"""A commit that makes, loses or misplaces reserved credits is never written."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from agent_credits.ledger.accounts import Account, check_account
from agent_credits.ledger.conservation import check_commit
from agent_credits.ledger.entries import Draw, Entry, Move, ReservationFacts
from agent_credits.values.credits import parse_credits
from agent_credits.values.errors import InvariantViolated
from tests.unit.builders import finished, requested, usage
from tests.unit.reservation_world import NO_STEP, ReservingWorld, policy, requests

FIVE = parse_credits("5")


def world() -> ReservingWorld:
    """Two runs that hold 75 credits each, and a child that holds 10 of the first one's."""
    made = ReservingWorld()
    made.send(*requests(2), requested("r-3", run="run-3", credits="10", parent_run_id="run-1"))
    return made


def committed(*documents: dict[str, object]) -> tuple[Account, Account]:
    """Return the row before and after these events."""
    made = world()
    before = made.account
    made.send(*documents)
    return before, made.account


def check(before: Account, after: Account, entry: Entry | None = None) -> None:
    entries = after.entries[len(before.entries) :]
    check_commit(before, after, entries if entry is None else (*entries[:-1], entry))


def with_moves(entry: Entry, *moves: Move) -> Entry:
    return replace(entry, reservation=replace(entry.reservation, moves=moves))


def test_what_adds_up_is_not_complained_about() -> None:
    check(*committed(usage("u-1", "5"), usage("u-3", "12", run="run-3"), finished("f-1")))


def test_13_a_grant_that_holds_more_than_its_entries_leave() -> None:
    before, after = committed(usage("u-1", "5"))
    (only,) = after.grants
    more = replace(only, remaining_microcredits=only.remaining_microcredits + 1)

    with pytest.raises(InvariantViolated, match="available, reserved, burned or expired"):
        check(before, replace(after, grants=(more,)))


def test_13_a_reservation_that_gives_up_more_than_was_drawn() -> None:
    before, after = committed(usage("u-1", "5"))
    entry = with_moves(after.entries[-1], Move("run-1", "g-1", -FIVE - 1))

    with pytest.raises(InvariantViolated, match="available, reserved, burned or expired"):
        check(before, after, entry)


def test_14_a_run_that_draws_what_another_run_holds() -> None:
    before, after = committed(usage("u-1", "5"))
    entry = with_moves(after.entries[-1], Move("run-2", "g-1", -FIVE))

    with pytest.raises(InvariantViolated, match="only its own reservation and those of its par"):
        check(before, after, entry)


def test_14_a_parent_that_draws_what_its_child_holds() -> None:
    before, after = committed(usage("u-1", "5"))
    entry = with_moves(after.entries[-1], Move("run-3", "g-1", -FIVE))

    with pytest.raises(InvariantViolated, match="only its own reservation and those of its par"):
        check(before, after, entry)


def lost(after: Account) -> tuple[Account, Entry]:
    """The child leaves the row, and no entry ends it."""
    first, second, _ = after.reservations
    return replace(after, reservations=(first, second)), after.entries[-1]


def ended_and_kept(after: Account) -> tuple[Account, Entry]:
    ends = tuple(held.at_its_end for held in after.reservations[-1:])
    return after, replace(after.entries[-1], reservation=ReservationFacts(ended=ends))


def ended_twice(after: Account) -> tuple[Account, Entry]:
    ends = tuple(held.at_its_end for held in after.reservations[-1:])
    return after, replace(after.entries[-1], reservation=ReservationFacts(ended=ends * 2))


@pytest.mark.parametrize("wrong", [lost, ended_and_kept, ended_twice])
def test_15_a_reservation_that_does_not_end_exactly_once(
    wrong: Callable[[Account], tuple[Account, Entry]],
) -> None:
    # It draws all that the child holds, so that what it held does not give it away.
    before, after = committed(usage("u-3", "10", run="run-3"), usage("u-9", "1", run="run-9"))
    account, entry = wrong(after)

    with pytest.raises(InvariantViolated, match="a reservation ends exactly once"):
        check(before, account, entry)


def test_15_usage_that_draws_a_reservation_that_has_ended() -> None:
    before, after = committed(finished("f-2", run="run-2"), usage("u-2", "5", run="run-2"))
    entry = with_moves(after.entries[-1], Move("run-2", "g-1", -FIVE))

    with pytest.raises(InvariantViolated, match="only a live reservation holds anything"):
        check(before, after, entry)


def test_16_a_tree_that_drew_more_than_it_was_given() -> None:
    _, after = committed(usage("u-1", "5"))
    first, *others = after.reservations
    drew_more = replace(first, drawn_microcredits=first.drawn_microcredits + 1)

    with pytest.raises(InvariantViolated, match="what a tree was given is held or drawn"):
        check_account(replace(after, reservations=(drew_more, *others)))


def test_16_a_child_that_holds_what_its_root_was_never_given() -> None:
    _, after = committed(usage("u-1", "5"))
    first, second, child = after.reservations
    (part,) = child.parts
    more = replace(child, parts=(Draw(part.pool, part.grant_id, part.microcredits + 1),))

    with pytest.raises(InvariantViolated, match="what a tree was given is held or drawn"):
        check_account(replace(after, reservations=(first, second, more)))


@pytest.mark.parametrize("overrun", ["pause", "stop"])
def test_16_a_tree_that_drew_past_its_grace(overrun: str) -> None:
    made = ReservingWorld(policy(**NO_STEP, overrun=overrun, grace_microcredits=FIVE))
    made.send(requested("r-1", credits="75", reserve="estimate"), usage("u-1", "80"))
    (only,) = made.account.reservations
    past = replace(
        only,
        drawn_microcredits=only.drawn_microcredits + 1,
        overdrawn_microcredits=only.overdrawn_microcredits + 1,
    )

    check_account(made.account)
    with pytest.raises(InvariantViolated, match="at most its grace past what it was given"):
        check_account(replace(made.account, reservations=(past,)))
