"""Making and extending reservations, and what usage may draw of them.

Usage of a run with a reservation draws, in this order:

1. what its own reservation holds
2. for a child with a step: what the parent's reservation holds, one step after another
3. what its parent's reservation holds, and so on up to the root
4. for a root with a step: what nobody holds, one step after another
5. what nobody holds: without a bound under `finish`, at most the root's grace under the others

It never draws a reservation outside its own line of parents. Usage and extensions renew the whole
line, so no parent expires under a child at work.
"""

from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from agent_credits.billing.teams import Billing
from agent_credits.commit.limits import Room
from agent_credits.events.agent_runs import Rejection
from agent_credits.ledger.accounts import Account, available_microcredits
from agent_credits.ledger.entries import NO_RESERVATION, Draw, Move, ReservationFacts, total_of
from agent_credits.ledger.limits import LimitFacts, LimitKey
from agent_credits.ledger.reservations import (
    CHILDREN_MAX,
    RESERVATIONS_MAX,
    RUN_ID_BYTES_MAX,
    TREE_DEPTH_MAX,
    Reservation,
    ReservationTerms,
    line_of,
    moved,
    net,
    reservation_of,
    take,
    together,
)
from agent_credits.ledger.waterfall import draw
from agent_credits.values.errors import InvariantViolated


class Held(Struct, frozen=True):
    """The account after a reservation was made or extended, and what the entry records of it."""

    account: Account
    facts: ReservationFacts


class Lacking(Struct, frozen=True):
    """There is too little to reserve from.

    `available_microcredits`: what the parent's reservation holds, or what nobody holds.
    """

    available_microcredits: int
    is_of_parent: bool


class UsageDrawn(Struct, frozen=True):
    """The account after usage drew what it may.

    `is_bound`: more credits in the pools would not have covered the shortfall. `refusal`: the limit
    that refused the shortfall, if one did.
    """

    account: Account
    draws: tuple[Draw, ...]
    shortfall_microcredits: int
    facts: ReservationFacts = NO_RESERVATION
    is_bound: bool = False
    refusal: LimitFacts | None = None


def reserve(
    account: Account,
    run_id: str,
    parent_run_id: str | None,
    estimate: int,
    terms: ReservationTerms,
    billing: Billing,
    now: datetime,
    limits: tuple[LimitKey, ...] = (),
) -> Held | Lacking:
    """Put the estimate aside: from the parent's reservation, or from what nobody holds."""
    reservation = Reservation(
        run_id=run_id,
        parent_run_id=parent_run_id,
        parts=(),
        reserved_microcredits=0,
        expires_at=now + terms.ttl,
        terms=terms,
        limits=limits,
    )
    with_none = replace(account, reservations=(*account.reservations, reservation))
    held = _put_in(with_none, reservation, estimate, billing, now)
    if isinstance(held, Lacking):
        return held
    facts = replace(held.facts, parent_run_id=parent_run_id)
    return Held(_renewed(held.account, run_id, terms.ttl, now), facts)


def extend(
    account: Account,
    reservation: Reservation,
    microcredits: int,
    ttl: timedelta | None,
    billing: Billing,
    now: datetime,
) -> Held | Lacking:
    """Put more into the run's reservation, and renew it. Of zero, only renew it."""
    goes_on = replace(reservation, directive="continue" if microcredits else reservation.directive)
    held = _put_in(_with(account, goes_on), goes_on, microcredits, billing, now)
    if isinstance(held, Lacking):
        return held
    return Held(_renewed(held.account, reservation.run_id, ttl, now), held.facts)


def rejection_of_request(
    account: Account, run_id: str, parent_run_id: str | None
) -> Rejection | None:
    """Return why this run cannot reserve, whatever the pools hold."""
    if reservation_of(account.reservations, run_id) is not None:
        if parent_run_id is not None and _is_in_line(account, parent_run_id, run_id):
            return Rejection("circular_parents", "data.parent_run_id names a run below this one")
        return Rejection(
            "already_reserved",
            "the run holds a reservation; send agent_run.extended to ask for more",
        )
    if parent_run_id == run_id:
        return Rejection("circular_parents", "data.parent_run_id names the run itself")
    if len(account.reservations) >= RESERVATIONS_MAX:
        return Rejection(
            "too_many_reservations",
            f"the account holds {RESERVATIONS_MAX} reservations, which is the most",
        )
    if len(run_id) + sum(len(held.run_id) for held in account.reservations) > RUN_ID_BYTES_MAX:
        return Rejection(
            "too_many_reservations",
            f"the ids of the account's reservations have more than {RUN_ID_BYTES_MAX:,} characters",
        )
    if parent_run_id is None:
        return None
    if len(line_of(account.reservations, parent_run_id)) >= TREE_DEPTH_MAX:
        return Rejection("tree_too_deep", f"a tree of runs is at most {TREE_DEPTH_MAX} deep")
    if sum(r.parent_run_id == parent_run_id for r in account.reservations) >= CHILDREN_MAX:
        return Rejection(
            "too_many_children",
            f"the parent has {CHILDREN_MAX} runs with a reservation below it, which is the most",
        )
    return None


def draw_for_usage(
    account: Account, run_id: str, amount: int, billing: Billing, now: datetime, room: Room
) -> UsageDrawn:
    """Draw the amount for a run, in the order that this module describes, within its limits."""
    line = line_of(account.reservations, run_id)
    if not line:
        within = min(amount, room.of(None))
        drawn = draw(account.grants, billing.pools, within, now)
        refusal = room.refusal(amount) if drawn.shortfall_microcredits == 0 else None
        return UsageDrawn(
            account=replace(account, grants=drawn.grants),
            draws=drawn.draws,
            shortfall_microcredits=amount - total_of(drawn.draws),
            is_bound=refusal is not None,
            refusal=refusal,
        )
    own, root = line[0], line[-1]
    current, moves, drawn_parts, uncovered = account, list[Move](), list[Draw](), amount
    is_limited = False

    def take_from(run: str) -> None:
        nonlocal current, uncovered, is_limited
        holder = _reservation(current, run)
        is_limited |= room.of(run) < min(uncovered, holder.left_microcredits)
        taken, left = take(holder.parts, min(uncovered, room.of(run)))
        current = _with(current, replace(holder, parts=left))
        moves.extend(moved(run, taken, -1))
        drawn_parts.extend(taken)
        room.draw(run, total_of(taken))
        uncovered -= total_of(taken)

    def extend_by_steps(reservation: Reservation) -> None:
        nonlocal current, is_limited
        step = reservation.terms.step_microcredits
        if uncovered == 0 or step == 0:
            return
        wanted = -(-uncovered // step) * step
        at_hand = _at_hand(current, reservation, billing, now)
        source = reservation.parent_run_id
        is_limited |= room.of(source) < min(uncovered, at_hand)
        more = min(wanted, at_hand, room.of(source))
        held = _moved_in(current, reservation, more, billing, now)
        room.hold(source, more)
        current = held.account
        moves.extend(held.facts.moves)
        take_from(reservation.run_id)

    take_from(run_id)
    if own is not root:
        extend_by_steps(_reservation(current, run_id))
    for ancestor in line[1:]:
        take_from(ancestor.run_id)
    extend_by_steps(_reservation(current, root.run_id))

    root = _reservation(current, root.run_id)
    may_finish = root.terms.overrun == "finish"
    allowed = uncovered if may_finish else min(uncovered, root.grace_left_microcredits)
    # A root with a step would have been extended by whatever the pools hold.
    is_bound = allowed < uncovered and root.terms.step_microcredits == 0
    within = min(allowed, room.of(None))
    overrun = draw(current.grants, billing.pools, within, now)
    overdrawn = total_of(overrun.draws)
    # The pools had all that the limits left to the run.
    refusal = room.refusal(max(allowed, int(is_limited))) if overdrawn == within else None
    current = replace(current, grants=overrun.grants)
    uncovered -= overdrawn

    directive = root.overrun_directive if uncovered or overdrawn else None
    overruns = overdrawn > 0 and root.overdrawn_microcredits == 0
    root = replace(root, overdrawn_microcredits=root.overdrawn_microcredits + overdrawn)
    current = _with(current, root)
    for member in line:
        counted = _reservation(current, member.run_id)
        counted = replace(
            counted, drawn_microcredits=counted.drawn_microcredits + amount - uncovered
        )
        current = _with(current, counted)
    if directive is not None:
        current = _with(current, replace(_reservation(current, run_id), directive=directive))
    facts = ReservationFacts(
        moves=net(moves),
        overdrawn_microcredits=overdrawn,
        overruns=overruns,
        directive=directive,
    )
    return UsageDrawn(
        account=_renewed(current, run_id, None, now),
        draws=together(drawn_parts, overrun.draws),
        shortfall_microcredits=uncovered,
        facts=facts,
        is_bound=is_bound or refusal is not None,
        refusal=refusal,
    )


def _at_hand(account: Account, reservation: Reservation, billing: Billing, now: datetime) -> int:
    """Return what the reservation can be extended by."""
    if reservation.parent_run_id is not None:
        return _reservation(account, reservation.parent_run_id).left_microcredits
    return available_microcredits(account, billing.pools, now)


def _put_in(
    account: Account, reservation: Reservation, microcredits: int, billing: Billing, now: datetime
) -> Held | Lacking:
    """Move credits into a reservation of the account: all of them, or none."""
    at_hand = _at_hand(account, reservation, billing, now)
    if microcredits > at_hand:
        return Lacking(at_hand, is_of_parent=reservation.parent_run_id is not None)
    return _moved_in(account, reservation, microcredits, billing, now)


def _moved_in(
    account: Account, reservation: Reservation, microcredits: int, billing: Billing, now: datetime
) -> Held:
    """Move credits into a reservation; no more than are at hand."""
    moves = list[Move]()
    if reservation.parent_run_id is not None:
        parent = _reservation(account, reservation.parent_run_id)
        parts, left = take(parent.parts, microcredits)
        account = _with(account, replace(parent, parts=left))
        moves += moved(parent.run_id, parts, -1)
    else:
        drawn = draw(account.grants, billing.pools, microcredits, now)
        parts = drawn.draws
        account = replace(account, grants=drawn.grants)
    moves += moved(reservation.run_id, parts, 1)
    fuller = replace(
        reservation,
        parts=together(reservation.parts, parts),
        reserved_microcredits=reservation.reserved_microcredits + microcredits,
    )
    return Held(_with(account, fuller), ReservationFacts(net(moves)))


def _renewed(account: Account, run_id: str, ttl: timedelta | None, now: datetime) -> Account:
    """Let the run's reservation and those above it expire no earlier than their time from now.

    `ttl`: the time of the run's own reservation, if not that of its terms. None gets less time.
    """
    line = line_of(account.reservations, run_id)
    at_least = now + ttl if ttl is not None else now
    for member in line:
        at_least = max(at_least, member.expires_at, now + member.terms.ttl)
        account = _with(account, replace(member, expires_at=at_least))
    return account


def _is_in_line(account: Account, run_id: str, ancestor: str) -> bool:
    return any(held.run_id == ancestor for held in line_of(account.reservations, run_id))


def _reservation(account: Account, run_id: str) -> Reservation:
    found = reservation_of(account.reservations, run_id)
    if found is None:
        raise InvariantViolated("a reservation is on the row while its run's events are applied")
    return found


def _with(account: Account, reservation: Reservation) -> Account:
    reservations = tuple(
        reservation if held.run_id == reservation.run_id else held for held in account.reservations
    )
    return replace(account, reservations=reservations)
