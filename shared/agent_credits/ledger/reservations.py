"""A reservation: credits held for a run in flight, pinned to the grants that they came from.

It takes parts from grants in the order of the waterfall, when it is made, and keeps them until
usage draws them or it ends. A run that names a parent takes its parts from the parent's
reservation, so a tree of runs never holds more than its root reserved.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from agent_credits.ledger.entries import Directive, Draw, EndedReservation, Move, total_of
from agent_credits.ledger.limits import LimitKey

# Each takes up to about 50 bytes of the account's row, which is billed by the kilobyte.
RESERVATIONS_MAX = 500
# Ids of random characters do not compress. With the longest ones, fewer reservations fit the row
# beside its grants.
RUN_ID_BYTES_MAX = 32_000
# The root is at depth 1. Every draw of a run looks at its line of parents.
TREE_DEPTH_MAX = 8
CHILDREN_MAX = 100

TTL_DEFAULT = timedelta(hours=1)
TTL_MIN = timedelta(minutes=1)
TTL_MAX = timedelta(hours=24)

Overrun = Literal["finish", "pause", "stop"]

Parts = tuple[Draw, ...]


class ReservationTerms(Struct, frozen=True):
    """What the policy's rule says about the reservations of its runs.

    `step_microcredits`: the estimate of a run that gives none, and what a run that draws past its
    reservation extends it by; 0 for neither.
    """

    reserves: bool = False
    step_microcredits: int = 0
    ttl: timedelta = TTL_DEFAULT
    overrun: Overrun = "finish"
    grace_microcredits: int = 0


class Reservation(Struct, frozen=True):
    """The live reservation of one run; the account's row holds one per run.

    `parts`: what it still holds, in the order in which it is drawn. `reserved_microcredits`: what
    it was given in all. `drawn_microcredits`: what usage of its run and of its children's runs
    drew. `overdrawn_microcredits`: what its tree drew of credits that nobody held; only of a root.
    `directive`: what the platform is told about the run, until it is extended. `limits`: those that
    what it holds counts under, in their order on the account's row.
    """

    run_id: str
    parent_run_id: str | None
    parts: Parts
    reserved_microcredits: int
    expires_at: datetime
    terms: ReservationTerms
    drawn_microcredits: int = 0
    overdrawn_microcredits: int = 0
    directive: Directive = "continue"
    limits: tuple[LimitKey, ...] = ()

    @property
    def left_microcredits(self) -> int:
        return total_of(self.parts)

    @property
    def grace_left_microcredits(self) -> int:
        return max(self.terms.grace_microcredits - self.overdrawn_microcredits, 0)

    @property
    def overrun_directive(self) -> Directive:
        """Return what the platform is told once this run may draw nothing more."""
        overrun = self.terms.overrun
        return "continue" if overrun == "finish" else overrun

    @property
    def at_its_end(self) -> EndedReservation:
        return EndedReservation(
            self.run_id,
            self.parent_run_id,
            self.reserved_microcredits,
            self.drawn_microcredits,
            self.overdrawn_microcredits,
        )

    def is_live(self, now: datetime) -> bool:
        return self.expires_at > now


def reservation_of(reservations: Iterable[Reservation], run_id: str) -> Reservation | None:
    return next((found for found in reservations if found.run_id == run_id), None)


def line_of(reservations: Sequence[Reservation], run_id: str) -> tuple[Reservation, ...]:
    """Return the run's reservation, its parent's and so on up to the root; none if it has none."""
    by_run = {reservation.run_id: reservation for reservation in reservations}
    return tuple(by_run[run] for run in line_up(parents_of(reservations), run_id))


def parents_of(reservations: Iterable[Reservation]) -> dict[str, str | None]:
    return {reservation.run_id: reservation.parent_run_id for reservation in reservations}


def line_up(parents: Mapping[str, str | None], run_id: str) -> tuple[str, ...]:
    """Return the run, its parent and so on up, as far as they are among the keys of `parents`."""
    line: list[str] = []
    above: str | None = run_id
    while above is not None and above in parents and len(line) < TREE_DEPTH_MAX:
        line.append(above)
        above = parents[above]
    return tuple(line)


def tree_below(reservations: Sequence[Reservation], run_id: str) -> tuple[Reservation, ...]:
    """Return the run's reservation and those of all its descendants, parents before children."""
    found = reservation_of(reservations, run_id)
    tree = [found] if found is not None else []
    for above in tree:
        tree += [r for r in reservations if r.parent_run_id == above.run_id]
    return tuple(tree)


def take(parts: Parts, microcredits: int) -> tuple[Parts, Parts]:
    """Take at most so much from the first parts; return what was taken and what is left."""
    taken: list[Draw] = []
    left: list[Draw] = []
    for part in parts:
        share = min(part.microcredits, microcredits)
        microcredits -= share
        if share > 0:
            taken.append(replace(part, microcredits=share))
        if share < part.microcredits:
            left.append(replace(part, microcredits=part.microcredits - share))
    return tuple(taken), tuple(left)


def together(*several: Iterable[Draw]) -> Parts:
    """Add up parts of the same grant, in the order in which the grants first appear."""
    by_grant: dict[tuple[str, str], int] = {}
    for parts in several:
        for part in parts:
            key = (part.pool, part.grant_id)
            by_grant[key] = by_grant.get(key, 0) + part.microcredits
    return tuple(Draw(pool, grant, amount) for (pool, grant), amount in by_grant.items())


def moved(run_id: str, parts: Iterable[Draw], sign: Literal[1, -1]) -> Iterator[Move]:
    """Yield the moves that put parts into the run's reservation (1) or take them out (-1)."""
    for part in parts:
        yield Move(run_id, part.grant_id, sign * part.microcredits)


def net(moves: Iterable[Move]) -> tuple[Move, ...]:
    """Add up moves of the same run and grant, and leave out those that cancel each other."""
    sums: dict[tuple[str, str], int] = {}
    for move in moves:
        key = (move.run_id, move.grant_id)
        sums[key] = sums.get(key, 0) + move.microcredits
    return tuple(Move(run, grant, amount) for (run, grant), amount in sums.items() if amount)
