"""Invariants 13 to 16, by an account's entries alone: where reserved credits come from and go to.

Nothing here decides anything. The entries are followed in the order of the commits, and whatever
they say must add up, to each other and to the row.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry
from tests.ledger_of_reservations import Held
from tests.simulation.reference import Terms, terms_of
from tests.simulation.violation import check

ENDS = {
    "finished": "settled",
    "returned": "settled after an error",
    "released": "released",
    "reservations_expired": "expired",
}


def came_to(entry: Entry) -> Iterator[str]:
    """Yield what reservations came to by this entry, for a report to count."""
    facts = entry.reservation
    run = entry.identity.subject
    if entry.outcome == "accepted" and facts.moves:
        yield "made under a parent's" if facts.parent_run_id else "made"
    if entry.type == "agent_run.usage" and facts.moves:
        of_line = any(move.run_id != run for move in facts.moves)
        yield "drawn by a run below" if of_line else "drawn"
    if entry.outcome == "extended":
        yield "extended"
    if facts.overdrawn_microcredits:
        yield "drawn past its end"
    if facts.directive and facts.directive != "continue":
        yield f"a run told to {facts.directive}"
    for ended in facts.ended:
        if ended.run_id != run and entry.outcome != "reservations_expired":
            yield "closed with its parent's"
        elif facts.reason:
            yield "released by hand"
        else:
            yield ENDS[entry.outcome]


@dataclass
class Tree:
    """A root that may not draw without a bound: what its runs may draw, and what they drew."""

    terms: Terms
    may_draw: int = 0
    drawn: int = 0


@dataclass
class ReservationInvariants:
    """One account. `parents`: the live reservations, each by its run, with its parent's run."""

    held: Held = field(default_factory=Held)
    parents: dict[str, str | None] = field(default_factory=dict)
    trees: dict[str, Tree] = field(default_factory=dict)
    ends_next: set[str] = field(default_factory=set)

    def commit(self, row: Account, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._follow(entry)
        self._check_row(row)

    def _check_row(self, row: Account) -> None:
        on_row = {g.id: g.remaining_microcredits for g in row.grants if g.remaining_microcredits}
        by_ledger = {name: left for name in self.held.granted if (left := self.held.left(name))}
        check(on_row == by_ledger, "a grant is available, reserved, burned or expired")
        reserved = Counter[tuple[str, str]]()
        for reservation in row.reservations:
            for part in reservation.parts:
                reserved[reservation.run_id, part.grant_id] += part.microcredits
        by_ledger = {key: left for key, left in self.held.reserved.items() if left}
        check(reserved == by_ledger, "the row reserves what the ledger says")
        check(
            {held.run_id: held.parent_run_id for held in row.reservations} == self.parents,
            "the row holds the reservations that began and did not end",
        )

    def _follow(self, entry: Entry) -> None:
        facts, run = entry.reservation, entry.identity.subject
        if entry.outcome == "accepted" and facts.moves:
            self._begin(entry)
        if entry.type == "agent_run.extended" and entry.outcome == "extended":
            check(run in self.parents, "only a live reservation is extended")
            if run in self.trees:
                self.trees[run].may_draw += entry.amount_microcredits
        self._check_moves(entry)
        self.held.add(entry)
        if entry.type == "agent_run.usage":
            self._draw(entry)
        self._end(entry)

    def _begin(self, entry: Entry) -> None:
        run, parent = entry.identity.subject, entry.reservation.parent_run_id
        check(run not in self.parents, "a run holds one reservation")
        check(parent is None or parent in self.parents, "a child begins under a live reservation")
        self.parents[run] = parent
        assert entry.run is not None
        terms = terms_of(entry.run.policy_version, entry.run.payer)
        if parent is None and terms.overrun != "finish":
            self.trees[run] = Tree(terms, entry.amount_microcredits)

    def _check_moves(self, entry: Entry) -> None:
        """Check whose reservations an entry moves, and that what moves goes somewhere."""
        facts, run = entry.reservation, entry.identity.subject
        moves = facts.moves
        moved = {move.run_id for move in moves}
        check(moved <= self.parents.keys(), "only a live reservation holds anything")
        by_grant = Counter[str]()
        for move in moves:
            by_grant[move.grant_id] += move.microcredits
        match entry.type:
            case "agent_run.usage":
                check(
                    moved <= {*self._line(run)},
                    "a run draws no reservation but its own and those of its line of parents",
                )
                for draw in entry.draws:
                    by_grant[draw.grant_id] += draw.microcredits
                check(min(by_grant.values(), default=0) >= 0, "what leaves a reservation is drawn")
            case "agent_run.requested" | "agent_run.extended":
                parent = self.parents.get(run)
                check(moved <= {run, parent}, "a run reserves from its parent or from nobody")
                is_from_parent = not any(by_grant.values())
                check(parent is None or is_from_parent, "a child reserves from its parent alone")
                check(min(by_grant.values(), default=0) >= 0, "a reservation is put in")
            case "credits.expired":
                # What a run's end gives back to an expired grant lapses before the entry of the
                # end, which has to name the reservations.
                emptied = {move.run_id for move in moves if move.microcredits < 0}
                self.ends_next |= emptied
                self._check_what_ends(entry, emptied)
            case _:
                ended = {end.run_id for end in facts.ended}
                check(self.ends_next <= ended, "what lapses with a reservation ends with it")
                self.ends_next.clear()
                self._check_what_ends(entry, ended)

    def _check_what_ends(self, entry: Entry, ended: set[str]) -> None:
        heirs = {self._heir(run, ended) for run in ended}
        for move in entry.reservation.moves:
            allowed = ended if move.microcredits < 0 else heirs
            check(move.run_id in allowed, "what ends gives to the nearest parent that goes on")

    def _heir(self, run: str, ended: set[str]) -> str | None:
        return next((above for above in self._line(run) if above not in ended), None)

    def _draw(self, entry: Entry) -> None:
        line = self._line(entry.identity.subject)
        tree = self.trees.get(line[-1]) if line else None
        if tree is None:
            return
        drawn, overdrawn = entry.drawn_microcredits, entry.reservation.overdrawn_microcredits
        moved = sum(move.microcredits for move in entry.reservation.moves)
        # What came from nobody, but for what was drawn of it past the reservation.
        extended = drawn + moved - overdrawn
        check(extended == 0 or tree.terms.step, "without a step, usage extends nothing")
        tree.may_draw += extended
        tree.drawn += drawn
        check(
            tree.drawn <= tree.may_draw + tree.terms.grace,
            "a tree draws what its root was given, and its grace",
        )

    def _end(self, entry: Entry) -> None:
        ended = [end.run_id for end in entry.reservation.ended]
        check(len(set(ended)) == len(ended), "a reservation ends once")
        check(self.parents.keys() >= {*ended}, "a reservation ends once, after it began")
        for run in ended:
            del self.parents[run]
            self.trees.pop(run, None)
        left = [run for (run, _), part in self.held.reserved.items() if part and run in ended]
        check(not left, "a reservation that ended holds nothing")
        orphans = [run for run, parent in self.parents.items() if parent in ended]
        check(not orphans, "a parent that ends closes its children")
        if entry.outcome in ("finished", "returned", "released"):
            check(entry.identity.subject not in self.parents, "a run's end ends its reservation")

    def _line(self, run: str) -> list[str]:
        line: list[str] = []
        above: str | None = run
        while above is not None and above in self.parents:
            line.append(above)
            above = self.parents[above]
        return line
