"""Reservations as commands show them: those that are live, and what an entry did to them."""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from agent_credits.ledger.entries import (
    Directive,
    Draw,
    EndedReservation,
    Entry,
    ReservationFacts,
)
from agent_credits.ledger.reservations import Reservation
from agent_credits.ledger.shared_pools import is_holding, payers_run
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import amount_text, credits_text, time_text
from agent_credits_cli.entries import draws_text

DIRECTIVES: Final[Mapping[Directive, str]] = {
    "continue": "continue: the run may go on",
    "pause": "pause: the run waits until it is extended",
    "stop": "stop: the run ends here",
}

# The pool of each grant, by the grant's id.
Pools = Mapping[str, str]


def as_tree(reservations: Collection[Reservation]) -> Iterator[tuple[int, Reservation]]:
    """Yield each reservation with its depth, children below their parent, oldest first."""
    by_parent: dict[str | None, list[Reservation]] = {}
    for reservation in reservations:
        by_parent.setdefault(reservation.parent_run_id, []).append(reservation)
    waiting = [(0, root) for root in reversed(by_parent.get(None, []))]
    while waiting:
        depth, reservation = waiting.pop()
        yield depth, reservation
        waiting += [(depth + 1, r) for r in reversed(by_parent.get(reservation.run_id, []))]


def reservation_to_json(reservation: Reservation) -> dict[str, Any]:
    terms = reservation.terms
    return {
        "run_id": reservation.run_id,
        "held_for": _held_for_to_json(reservation),
        "parent_run_id": reservation.parent_run_id,
        "reserved_credits": format_credits(reservation.reserved_microcredits),
        "drawn_credits": format_credits(reservation.drawn_microcredits),
        "left_credits": format_credits(reservation.left_microcredits),
        "overdrawn_credits": format_credits(reservation.overdrawn_microcredits),
        "directive": reservation.directive,
        "overrun": terms.overrun,
        "grace_credits": format_credits(terms.grace_microcredits),
        "expires_at": iso(reservation.expires_at),
        "grants": [
            {
                "pool": part.pool,
                "grant_id": part.grant_id,
                "credits": format_credits(part.microcredits),
            }
            for part in reservation.parts
        ],
    }


def _held_for_to_json(reservation: Reservation) -> dict[str, str] | None:
    if not is_holding(reservation.run_id):
        return None
    payer, run_id = payers_run(reservation.run_id)
    return {"principal": str(payer), "run_id": run_id}


def state_text(reservation: Reservation, now: datetime) -> str:
    """Return what a reservation of the row is at `now`, in one sentence."""
    sums = (
        f"{credits_text(reservation.reserved_microcredits)} reserved,"
        f" {amount_text(reservation.drawn_microcredits)} drawn"
    )
    left, until = amount_text(reservation.left_microcredits), time_text(reservation.expires_at)
    if not reservation.is_live(now):
        return (
            f"The reservation expired at {until}: {sums}; the {left} left are available again,"
            " and the account's next entry records it."
        )
    overdrawn = reservation.overdrawn_microcredits
    over = f", {amount_text(overdrawn)} overdrawn" if overdrawn else ""
    return (
        f"The reservation is live until {until}: {sums}{over}, {left} left."
        f" Directive now: {DIRECTIVES[reservation.directive]}."
    )


def lines_about(entry: Entry, run_id: str, pools: Pools) -> Iterator[tuple[str, str]]:
    """Yield what an entry did to a run's reservation, each with its label."""
    facts = entry.reservation
    match entry.outcome:
        case "accepted" | "extended":
            if any(move.microcredits > 0 for move in facts.moves):
                yield "reserved", _reserved_text(entry, run_id, pools)
        case "debited" | "insufficient":
            if facts.moves or facts.overdrawn_microcredits:
                yield "drawn from", _sources_text(entry, run_id)
        case _:
            pass
    if entry.outcome == "insufficient":
        yield from _what_others_held(entry)
    yield from _ends(entry, run_id, pools)
    if facts.reason is not None:
        yield "reason", facts.reason
    if facts.directive is not None:
        yield "directive", DIRECTIVES[facts.directive]


def _ends(entry: Entry, run_id: str, pools: Pools) -> Iterator[tuple[str, str]]:
    facts, is_its_own_event = entry.reservation, entry.identity.subject == run_id
    parent = next((e.parent_run_id for e in facts.ended if e.run_id == run_id), None)
    for ended in facts.ended:
        if ended.run_id == run_id:
            yield "ended", _ended_text(ended, facts, pools)
        elif is_its_own_event:
            yield "closed", f"run {ended.run_id}: {_ended_text(ended, facts, pools)}"
        elif ended.run_id == parent:
            yield "parent", f"the reservation of run {parent} ended, which closes those below it"


def _reserved_text(entry: Entry, run_id: str, pools: Pools) -> str:
    facts = entry.reservation
    into = _parts_text(
        ((m.grant_id, m.microcredits) for m in facts.moves if m.run_id == run_id), pools
    )
    givers = [f"run {m.run_id}" for m in facts.moves if m.microcredits < 0]
    return f"{into}, of the budget of {givers[0]}" if givers else into


def _sources_text(entry: Entry, run_id: str) -> str:
    """Return whose credits usage drew."""
    facts = entry.reservation
    nets: dict[str, int] = {}
    for move in facts.moves:
        nets[move.run_id] = nets.get(move.run_id, 0) + move.microcredits
    overdrawn = facts.overdrawn_microcredits
    # What its policy's step put into the reservation from credits that nobody held.
    added = entry.drawn_microcredits + sum(nets.values()) - overdrawn
    if nets.keys() <= {run_id}:
        own = entry.drawn_microcredits - overdrawn
        sources = [f"{amount_text(own)} of its own reservation"] if own else []
    else:
        # An entry has only what each reservation of the line gained or lost.
        sources = [
            f"{amount_text(-net)} of "
            + ("its own reservation" if run == run_id else f"the reservation of run {run}")
            for run, net in nets.items()
            if net < 0
        ]
    if overdrawn:
        sources.append(f"{amount_text(overdrawn)} overdrawn: nobody held them")
    text = " + ".join(sources)
    return f"{text}; {amount_text(added)} that nobody held were added" if added else text


def _what_others_held(entry: Entry) -> Iterator[tuple[str, str]]:
    facts = entry.reservation
    is_request = entry.type != "agent_run.usage"
    if is_request and facts.parent_run_id is not None:
        held = entry.amount_microcredits - entry.shortfall_microcredits
        yield "parent", f"run {facts.parent_run_id} held {credits_text(held)} to give"
        return
    reserved = facts.reserved_before_microcredits
    if not reserved:
        return
    text = f"{credits_text(reserved)} of these pools were reserved for runs in flight"
    if is_request and entry.amount_microcredits and entry.lacks_only_what_is_reserved:
        text += "; without them, the request would have been covered"
    yield "held", text


def _ended_text(ended: EndedReservation, facts: ReservationFacts, pools: Pools) -> str:
    text = (
        f"{amount_text(ended.reserved_microcredits)} reserved,"
        f" {amount_text(ended.drawn_microcredits)} drawn"
    )
    if ended.overdrawn_microcredits:
        text += f", {amount_text(ended.overdrawn_microcredits)} overdrawn"
    back = [m for m in facts.moves if m.run_id == ended.run_id and m.microcredits < 0]
    if not back:
        return f"{text}, nothing left"
    went = _parts_text(((m.grant_id, -m.microcredits) for m in back), pools)
    # Nothing else that ends a reservation puts credits into one.
    heirs = {m.run_id for m in facts.moves if m.microcredits > 0}
    return f"{text}; {went} went back" + "".join(f" to run {heir}" for heir in heirs)


def _parts_text(parts: Iterator[tuple[str, int]], pools: Pools) -> str:
    return draws_text(
        tuple(
            Draw(pools.get(grant_id, "of grant"), grant_id, microcredits)
            for grant_id, microcredits in parts
        )
    )
