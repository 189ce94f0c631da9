"""What the reservations of an account hold by its ledger alone, replayed entry by entry.

A reservation begins with a request that puts credits into it and ends once, with an entry that
names it and takes all that it still held. Only its own run and those of its line of parents may
draw it, and a parent that ends closes its children.
"""

from collections.abc import Collection, Iterable, Iterator

from msgspec import Struct, field

from agent_credits.ledger.entries import NO_RESERVATION, Entry, Move, payers_commit
from agent_credits.ledger.limits import LimitKey
from agent_credits.ledger.reservations import line_up
from agent_credits.ledger.shared_pools import holding_id
from agent_credits.sweeps.checkpoint import ReservedByLedger
from agent_credits.values.display import amount_text


class Reserved(Struct):
    """What a live reservation holds of each grant, and whose budget it is part of.

    `limits`: those that what it holds counts under.
    """

    parent_run_id: str | None
    by_grant: dict[str, int] = field(default_factory=dict)
    limits: frozenset[LimitKey] = frozenset()

    @property
    def left_microcredits(self) -> int:
        return sum(self.by_grant.values())


class ReservedReplay:
    def __init__(self, since: Iterable[ReservedByLedger] = ()) -> None:
        self.by_run = {
            found.run_id: Reserved(
                found.parent_run_id, dict(found.by_grant), frozenset(found.limits)
            )
            for found in since
        }

    def state(self) -> tuple[ReservedByLedger, ...]:
        return tuple(
            ReservedByLedger(
                run_id,
                found.parent_run_id,
                tuple(found.by_grant.items()),
                tuple(sorted(found.limits)),
            )
            for run_id, found in self.by_run.items()
        )

    def holds(self, grant_id: str) -> bool:
        return any(grant_id in found.by_grant for found in self.by_run.values())

    def reserved_microcredits(self, grant_ids: Collection[str]) -> int:
        """Return what all reservations hold of these grants."""
        return sum(
            held
            for found in self.by_run.values()
            for grant_id, held in found.by_grant.items()
            if grant_id in grant_ids
        )

    def left_of_line(self, run_id: str) -> int:
        """Return what the run may draw first: its own reservation and those of its parents."""
        return sum(self.by_run[run].left_microcredits for run in self._line(run_id))

    def held_under(self, key: LimitKey) -> int:
        """Return what counts under a limit: what a run or one of its line of parents counts."""
        return sum(
            found.left_microcredits
            for run_id, found in self.by_run.items()
            if any(key in self.by_run[above].limits for above in self._line(run_id))
        )

    def apply(self, entry: Entry) -> list[str]:
        """Apply an entry; return what in it contradicts the reservations, as ends of sentences."""
        facts = entry.reservation
        if facts == NO_RESERVATION:
            return []
        found = list(self._contradictions(entry))
        if entry.outcome == "accepted" and facts.moves:
            limits = frozenset(counted.key for counted in entry.limits.counted)
            self.by_run[entry.identity.subject] = Reserved(facts.parent_run_id, limits=limits)
        for move in facts.moves:
            found += self._move(move)
        for ended in facts.ended:
            left = self.by_run.pop(ended.run_id, Reserved(None)).left_microcredits
            if left:
                found.append(
                    f"ends the reservation of run {ended.run_id}"
                    f" and leaves {amount_text(left)} in it"
                )
        return found

    def _contradictions(self, entry: Entry) -> Iterator[str]:
        facts, run_id = entry.reservation, entry.identity.subject
        may_move: set[str] = set()
        match entry.outcome:
            case "debited" if entry.type == "pool.drawn":
                # What the trees of one payer hold of this account; see `shared_pools`.
                payer, _ = payers_commit(entry)
                ended = [end.run_id for end in facts.ended]
                yield from self._contradictions_of_ends(ended)
                named = {*ended, *(move.run_id for move in facts.moves)}
                may_move = {run for run in named if run.startswith(holding_id(payer, ""))}
            case "accepted":
                if run_id in self.by_run:
                    yield f"reserves for run {run_id}, which holds a reservation"
                may_move = {run_id, *self._parent_of(facts.parent_run_id)}
            case "extended":
                if run_id not in self.by_run:
                    yield f"extends run {run_id}, which holds no reservation"
                reserved = self.by_run.get(run_id, Reserved(None))
                may_move = {run_id, *self._parent_of(reserved.parent_run_id)}
            case "debited" | "insufficient":
                may_move = set(self._line(run_id))
            case "finished" | "returned" | "released" | "reservations_expired":
                ended = [end.run_id for end in facts.ended]
                yield from self._contradictions_of_ends(ended)
                heirs = {r.parent_run_id for run, r in self.by_run.items() if run in ended}
                may_move = {*ended, *(heir for heir in heirs if heir in self.by_run)}
            case "expired":
                # The entry after it ends the reservation.
                may_move = set(self.by_run)
            case _:
                pass
        for other in sorted({move.run_id for move in facts.moves} - may_move):
            yield f"changes the reservation of run {other}, which is not in its line"

    def _contradictions_of_ends(self, ended: list[str]) -> Iterator[str]:
        for run_id in ended:
            if run_id not in self.by_run:
                yield f"ends a reservation of run {run_id}, which holds none"
        if len(set(ended)) < len(ended):
            yield "ends a reservation twice"
        orphans = sorted(
            run_id
            for run_id, reserved in self.by_run.items()
            if reserved.parent_run_id in ended and run_id not in ended
        )
        for run_id in orphans:
            yield f"ends the parent of run {run_id}, but not its reservation"

    def _move(self, move: Move) -> Iterator[str]:
        reserved = self.by_run.setdefault(move.run_id, Reserved(None))
        before = reserved.by_grant.pop(move.grant_id, 0)
        left = before + move.microcredits
        if left > 0:
            reserved.by_grant[move.grant_id] = left
        if left < 0:
            yield (
                f"takes {amount_text(-move.microcredits)} of grant {move.grant_id} from the"
                f" reservation of run {move.run_id}, which held {amount_text(before)}"
            )

    def _parent_of(self, run_id: str | None) -> tuple[str, ...]:
        return (run_id,) if run_id is not None and run_id in self.by_run else ()

    def _line(self, run_id: str) -> tuple[str, ...]:
        parents = {run: found.parent_run_id for run, found in self.by_run.items()}
        return line_up(parents, run_id)
