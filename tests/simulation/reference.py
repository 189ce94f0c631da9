"""What an account must do, written down a second time: sequentially, without protocol or batches.

Nothing of the decision is imported. Where this page and the code disagree, one of them is wrong.
Amounts are microcredits. A commit is bracketed by `pass_time` and `end_commit`: what ran dry in a
batch is forgotten only at its end, and time can let credits expire before and after the changes.
"""

import calendar
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from tests.simulation.limit_reference import (
    NOTHING_SAID,
    InForce,
    Limits,
    LimitsSaid,
    Room,
    Standing,
)

CREDIT = 1_000_000

FIRST_POLICY = "v1"
_AT_FIRST = {"user": ("trial", "plan", "add_on"), "team": ("trial", "contract")}
# Which pools are drawn in which order, by the policy and by whether a user or a team pays.
POOLS: dict[str, dict[str, tuple[str, ...]]] = {
    "v1": _AT_FIRST,
    "v2": _AT_FIRST,
    "v3": {"user": ("add_on", "plan", "trial"), "team": ("contract", "trial")},
    "v4": {"user": ("trial", "plan", "extra"), "team": ("trial", "committed")},
    "r1": _AT_FIRST,
    "r2": _AT_FIRST,
    "r3": {"user": ("add_on", "plan", "trial"), "team": ("contract", "trial")},
    "r4": {"user": ("trial", "plan", "extra"), "team": ("trial", "committed")},
    "s1": {"user": (*_AT_FIRST["user"], "team:shared"), "team": _AT_FIRST["team"]},
    "s2": {"user": (*_AT_FIRST["user"], "team:shared"), "team": _AT_FIRST["team"]},
    "s3": {
        "user": ("add_on", "plan", "trial", "team:spare", "team:shared"),
        "team": ("contract", "trial"),
    },
    # The policy of the unit tests.
    "2025-11": _AT_FIRST,
}
# What a pack costs in cents, by the policy and by its credits.
PACKS = {
    "v1": {20: 1_000, 50: 2_000},
    "v2": {30: 1_500, 80: 3_000},
    "v3": {20: 1_200, 30: 1_500},
    "v4": {20: 1_000, 50: 2_000},
    "r1": {20: 1_000, 50: 2_000},
    "r2": {20: 1_000, 50: 2_000},
    "r3": {20: 1_200, 30: 1_500},
    "r4": {20: 1_000, 50: 2_000},
    "s1": {20: 1_000, 50: 2_000},
    "s2": {20: 1_000, 50: 2_000},
    "s3": {20: 1_200, 30: 1_500},
    "2025-11": {400: 2_000, 1_000: 4_500, 3_000: 12_000, 6_500: 24_000},
}
GRACE = {policy: timedelta(days=30) for policy in POOLS}
GRACE |= {"v3": timedelta(days=5), "v4": timedelta(days=60)}
GRACE |= {"r3": timedelta(days=5), "r4": timedelta(days=60), "s3": timedelta(days=5)}


class Terms(NamedTuple):
    """What a rule says of reservations; `step` is its default estimate."""

    reserves: bool = False
    step: int = 0
    ttl: timedelta = timedelta(hours=1)
    overrun: str = "finish"
    grace: int = 0


_MINUTE = timedelta(minutes=1)
# What each policy says of the reservations of runs, by who pays for them.
TERMS: dict[str, dict[str, Terms]] = {
    "r1": {
        "user": Terms(True, 3 * CREDIT),
        "owner": Terms(True, 2 * CREDIT, _MINUTE, "stop", CREDIT),
        "team": Terms(True, 7 * CREDIT, 10 * _MINUTE, "pause", 2 * CREDIT),
    },
    "r2": {
        "user": Terms(False, 0, 10 * _MINUTE, "pause", 2 * CREDIT),
        "owner": Terms(False, 0, 60 * _MINUTE, "stop", 0),
        "team": Terms(False, 0, _MINUTE, "stop", 4 * CREDIT),
    },
    "r3": {
        "user": Terms(True, 5 * CREDIT, 5 * _MINUTE, "pause", 3 * CREDIT),
        "owner": Terms(False, 0, 60 * _MINUTE, "finish"),
        "team": Terms(False, 4 * CREDIT, 1_440 * _MINUTE, "finish"),
    },
    "r4": {
        "user": Terms(False, 0, _MINUTE, "stop", 4 * CREDIT),
        "owner": Terms(True, CREDIT, 1_440 * _MINUTE, "finish"),
        "team": Terms(True, 2 * CREDIT, 60 * _MINUTE, "stop", 1),
    },
}
TERMS |= {"s1": TERMS["r1"], "s3": TERMS["r3"]}
RESERVATIONS_MAX, TREE_DEPTH_MAX, CHILDREN_MAX = 500, 8, 100
ERRORED_FOR, ERRORED_MAX = timedelta(hours=24), 1_000
FOR_EVER = datetime.max.replace(tzinfo=UTC)


class Facts(NamedTuple):
    """What an entry says of reservations.

    `moves`: how much more or less of which grant each run's reservation holds. `ended`: each one
    with its parent, and what it was given, drew and overdrew.
    """

    moves: frozenset[tuple[str, str, int]] = frozenset()
    ended: tuple[tuple[str, str | None, int, int, int], ...] = ()
    parent: str | None = None
    overdrawn: int = 0
    overruns: bool = False
    directive: str | None = None
    reserved_before: int = 0


class Expected(NamedTuple):
    outcome: str
    draws: tuple[tuple[str, int], ...] = ()
    shortfall: int = 0
    fails_run: bool = False
    facts: Facts = Facts()
    limits: LimitsSaid = NOTHING_SAID


class Passing(NamedTuple):
    """What time alone does: a grant `expired` with so much left, or the plan `refilled` it.

    Reservations that expired are one together, and name no grant.
    """

    outcome: str
    grant_id: str
    amount: int
    facts: Facts = Facts()


class Asked(NamedTuple):
    """What a run's event asks for, as its sender wrote it."""

    kind: str
    run: str
    credits: int | None = None
    reserve: str | None = None
    ttl: timedelta | None = None
    parent: str | None = None
    status: str = "ok"
    time: datetime = FOR_EVER
    project: str | None = None
    user: str | None = None


class Rejected(NamedTuple):
    """Under which of these codes an event is rejected.

    `is_certain`: it must be. Or else it may be, as what the run did may stand on a page that was
    flushed, and a request does not look there. `is_awaited`: nothing is known yet of the run that
    the event names, so its own event may still be in the queue.
    """

    codes: frozenset[str]
    is_certain: bool = True
    is_awaited: bool = False


@dataclass
class Credits:
    pool: str
    left: int
    expires_at: datetime
    granted_at: datetime


@dataclass
class Reserved:
    """The live reservation of one run; `parts` in the order in which they came."""

    parent: str | None
    terms: Terms
    expires_at: datetime
    parts: dict[str, int] = field(default_factory=dict)
    given: int = 0
    drawn: int = 0
    overdrawn: int = 0
    directive: str = "continue"
    # Those that what it holds counts under.
    limits: frozenset[tuple[str, str, str, str]] = frozenset()

    @property
    def left(self) -> int:
        return sum(self.parts.values())


@dataclass
class Reference:
    """One account. `made` keeps each grant's first expiry, for credits that are given back."""

    kind: str
    reserved: dict[str, Reserved] = field(default_factory=dict)
    # The runs of which anything was recorded here, that ended, and that ever had a reservation.
    seen: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    had_reservation: set[str] = field(default_factory=set)
    # What a grant still held for everyone when credits came back to it after its expiry.
    lapsed: list[Passing] = field(default_factory=list)
    held: dict[str, Credits] = field(default_factory=dict)
    made: dict[str, Credits] = field(default_factory=dict)
    drawn: dict[str, dict[str, int]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    errored: dict[str, datetime] = field(default_factory=dict)
    plan: tuple[int, date] | None = None
    refilled_from: date | None = None
    limits: Limits = field(init=False)

    def __post_init__(self) -> None:
        self.limits = Limits(self.reserved)

    def pass_time(self, now: datetime) -> list[Passing]:
        passed = []
        over = [run for run, held in self.reserved.items() if held.expires_at <= now]
        if over:
            before = self._where()
            ended = self._close(over)
            facts = Facts(self._moved_since(before), ended)
            passed.append(Passing("reservations_expired", "", _back(facts.moves), facts))
        kept = self.kept
        expired = {n: c for n, c in self.held.items() if c.expires_at <= now and n not in kept}
        self.held = {name: c for name, c in self.held.items() if name not in expired}
        passed += [Passing("expired", n, c.left) for n, c in expired.items() if c.left]
        return passed + self._refill(now)

    def end_commit(self, now: datetime) -> list[Passing]:
        expires = self.pass_time(now)
        kept = self.kept
        self.held = {name: c for name, c in self.held.items() if c.left or name in kept}
        recent = {run: at for run, at in self.errored.items() if at > now - ERRORED_FOR}
        self.errored = dict(list(recent.items())[-ERRORED_MAX:])
        self.limits.end_commit(now)
        return expires

    def grant(
        self, name: str, pool: str, amount: int, expires_at: datetime | None, granted_at: datetime
    ) -> Expected:
        assert name not in self.made, f"{name} is granted once"
        self.made[name] = Credits(pool, amount, expires_at or FOR_EVER, granted_at)
        self.held[name] = Credits(pool, amount, expires_at or FOR_EVER, granted_at)
        return Expected("granted")

    def change_plan(self, amount: int, anchor: date) -> Expected:
        self.plan = (amount, anchor)
        return Expected("changed")

    def rejection(
        self, asked: Asked, now: datetime, policy: str = FIRST_POLICY, payer: str = "user"
    ) -> Rejected | None:
        """Return why an event contradicts what the account holds at that time, or None."""
        run = asked.run
        live = {name: held for name, held in self.reserved.items() if held.expires_at > now}
        terms = terms_of(policy, payer)
        match asked.kind:
            case "requested" if _wants_reservation(asked, terms):
                return self._rejected_reservation(asked, live, terms)
            case "extended" | "released" if run not in live:
                return self._what_became_of(run, "no_reservation")
            case "finished" if run not in live and terms.reserves and run in self.ended:
                return Rejected(frozenset({"run_ended"}))
            case _:
                return None

    def as_of_now(self) -> "Reference":
        """Return what `rejection` goes by, as it is at this moment."""
        return Reference(
            self.kind,
            reserved={
                run: Reserved(held.parent, held.terms, held.expires_at)
                for run, held in self.reserved.items()
            },
            seen=set(self.seen),
            ended=set(self.ended),
            had_reservation=set(self.had_reservation),
        )

    def is_live(self, run: str, now: datetime) -> bool:
        return run in self.reserved and self.reserved[run].expires_at > now

    def apply(
        self,
        asked: Asked,
        now: datetime,
        policy: str,
        payer: str,
        limits: tuple[InForce, ...] = (),
    ) -> Expected:
        """Do what an event asks for that is not rejected."""
        match asked.kind:
            case "requested":
                return self.request(asked, now, policy, payer, limits)
            case "extended":
                return self.extend(asked, now, policy, limits)
            case "usage":
                return self.use(asked.run, asked.credits or 0, now, policy, limits)
            case "finished":
                return self.finish(asked.run, asked.status, now, policy)
            case _:
                return self.release(asked.run)

    def request(
        self,
        asked: Asked,
        now: datetime,
        policy: str = FIRST_POLICY,
        payer: str = "user",
        limits: tuple[InForce, ...] = (),
    ) -> Expected:
        run, terms = asked.run, terms_of(policy, payer)
        if not _wants_reservation(asked, terms):
            estimate = asked.credits or 0
            refused = self._left_by_limits(run, limits, now).refusing(max(estimate, 1))
            if refused:
                return self._refuse(run, estimate, self._lacking(policy, run), refused)
            available = self._available(now, policy)
            if available >= max(estimate, 1):
                return self._recorded(run, Expected("accepted"))
            return self._fail(run, (), max(estimate - available, 0), self._lacking(policy, run))
        estimate = terms.step if asked.credits is None else asked.credits
        facts = self._lacking(policy, run)._replace(parent=asked.parent)
        refused = self._left_by_limits(run, limits, now).refusing(estimate, asked.parent)
        if refused:
            return self._refuse(run, estimate, facts, refused)
        room = self._room(asked.parent, now, policy)
        if estimate > room:
            return self._fail(run, (), estimate - room, facts)
        before, ttl = self._where(), asked.ttl or terms.ttl
        counted = self.limits.count_draws(run, limits, {}, now)
        under = frozenset(key for key, _, _ in counted)
        terms = terms._replace(ttl=ttl)
        self.reserved[run] = Reserved(asked.parent, terms, now + ttl, limits=under)
        self.had_reservation.add(run)
        self._fill(run, estimate, now, policy)
        self._renew(run, now + ttl, now)
        facts = Facts(self._moved_since(before), parent=asked.parent)
        expected = Expected("accepted", facts=facts, limits=LimitsSaid(counted))
        return self._recorded(run, expected)

    def extend(
        self,
        asked: Asked,
        now: datetime,
        policy: str = FIRST_POLICY,
        limits: tuple[InForce, ...] = (),
    ) -> Expected:
        run, held, amount = asked.run, self.reserved[asked.run], asked.credits or 0
        facts = self._lacking(policy, run)._replace(parent=held.parent)
        refused = self._left_by_limits(run, limits, now).refusing(amount, held.parent)
        if refused:
            return self._refuse(run, amount, facts, refused)
        room = self._room(held.parent, now, policy)
        if amount > room:
            return self._fail(run, (), amount - room, facts)
        before = self._where()
        if amount:
            held.directive = "continue"
        self._fill(run, amount, now, policy)
        self._renew(run, now + (asked.ttl or held.terms.ttl), now)
        return self._recorded(run, Expected("extended", facts=Facts(self._moved_since(before))))

    def use(
        self,
        run: str,
        amount: int,
        now: datetime,
        policy: str = FIRST_POLICY,
        limits: tuple[InForce, ...] = (),
    ) -> Expected:
        if run in self.errored:
            return self._recorded(run, Expected("waived"))
        line, before, reserved_before = self._line(run), self._where(), self._reserved_in(policy)
        asked, drawn, facts = amount, dict[str, int](), Facts()
        room = self._left_by_limits(run, limits, now)
        # Whether a limit kept the run from what its line of parents holds, or from another step.
        was_cut = False

        def burn(parts: Iterable[tuple[str, int]]) -> None:
            nonlocal amount
            for name, part in parts:
                drawn[name] = drawn.get(name, 0) + part
                amount -= part

        def burn_of(holder: str) -> None:
            nonlocal was_cut
            left, wanted = room.left(holder), min(amount, self.reserved[holder].left)
            was_cut |= left < wanted
            taken = self._take(holder, min(wanted, left))
            burn(taken)
            room.drawn += sum(part for _, part in taken)

        def burn_step_by_step(of: str) -> None:
            nonlocal was_cut
            held = self.reserved[of]
            while amount and held.terms.step and (there := self._room(held.parent, now, policy)):
                left = room.left(held.parent)
                was_cut |= left < min(amount, there, held.terms.step)
                if not left:
                    return
                self._fill(of, min(held.terms.step, there, left), now, policy)
                burn_of(of)

        refused: tuple[Standing, ...] = ()
        if not line:
            may = room.left(None)
            burn(self._draw(min(amount, may), now, policy))
            if asked - amount == may:
                refused = room.refusing(asked)
        else:
            root = self.reserved[line[-1]]
            burn_of(run)
            if len(line) > 1:
                burn_step_by_step(run)
            for ancestor in line[1:]:
                burn_of(ancestor)
            burn_step_by_step(line[-1])
            moves = self._moved_since(before)
            may = amount
            if root.terms.overrun != "finish":
                may = min(amount, max(root.terms.grace - root.overdrawn, 0))
            reserved = asked - amount
            left = room.left(None)
            burn(self._draw(min(may, left), now, policy))
            overdrawn = asked - amount - reserved
            if overdrawn == min(may, left):
                refused = room.refusing(max(may, 1) if was_cut else may)
            overruns = overdrawn > 0 and root.overdrawn == 0
            root.overdrawn += overdrawn
            for member in line:
                self.reserved[member].drawn += asked - amount
            told = _told(root.terms) if amount or overdrawn else None
            if told:
                self.reserved[run].directive = told
            self._renew(run, now, now)
            facts = Facts(moves, overdrawn=overdrawn, overruns=overruns, directive=told)
        taken = self.drawn.setdefault(run, {})
        for name, part in drawn.items():
            taken[name] = taken.get(name, 0) + part
        draws = tuple((name, part) for name, part in drawn.items() if part)
        said = LimitsSaid(self.limits.count_draws(run, limits, drawn, now))
        if not amount:
            return self._recorded(run, Expected("debited", draws, facts=facts, limits=said))
        facts = facts._replace(reserved_before=reserved_before)
        return self._fail(run, draws, amount, facts, said._replace(standings=refused))

    def finish(self, run: str, status: str, now: datetime, policy: str = FIRST_POLICY) -> Expected:
        facts = self._end(run)
        if status != "error":
            return self._recorded(run, Expected("finished", facts=facts))
        self.errored.pop(run, None)
        self.errored[run] = now
        drawn = self.drawn.pop(run, {})
        returned = [
            (n, amount)
            for n, amount in drawn.items()
            if self._give_back(n, amount, now, policy, facts)
        ]
        lapsed = {passing.grant_id for passing in self.lapsed}
        facts = facts._replace(moves=frozenset(m for m in facts.moves if m[1] not in lapsed))
        # A policy with a longer grace may still give back what this one does not.
        taken_by_time = {n: amount for n, amount in drawn.items() if (n, amount) not in returned}
        if taken_by_time:
            self.drawn[run] = taken_by_time
        said = LimitsSaid(self.limits.give_back(run, (name for name, _ in returned), now))
        return self._recorded(run, Expected("returned", tuple(returned), facts=facts, limits=said))

    def release(self, run: str) -> Expected:
        return self._recorded(run, Expected("released", facts=self._end(run)))

    @property
    def kept(self) -> set[str]:
        """Return the grants that a reservation holds a part of."""
        return {name for held in self.reserved.values() for name in held.parts}

    def balances(self) -> dict[str, int]:
        """Return what is available of each grant that has to stand on the row."""
        kept = self.kept
        return {n: held.left for n, held in self.held.items() if held.left or n in kept}

    def _in_order(self, now: datetime, policy: str) -> list[tuple[str, Credits]]:
        pools = POOLS[policy][self.kind]
        live = [(n, c) for n, c in self.held.items() if c.pool in pools and c.expires_at > now]
        return sorted(
            live, key=lambda g: (pools.index(g[1].pool), g[1].expires_at, g[1].granted_at, g[0])
        )

    def reservations(self) -> dict[str, object]:
        """Return every live reservation: its parent, parts, sums, directive, end and limits."""
        return {
            run: (
                held.parent,
                tuple(held.parts.items()),
                (held.given, held.drawn, held.overdrawn),
                held.directive,
                held.expires_at,
                held.limits,
            )
            for run, held in self.reserved.items()
        }

    def _available(self, now: datetime, policy: str) -> int:
        return sum(held.left for _, held in self._in_order(now, policy))

    def _room(self, parent: str | None, now: datetime, policy: str) -> int:
        """Return what there is to reserve from: the parent's reservation, or what nobody holds."""
        return self.reserved[parent].left if parent else self._available(now, policy)

    def _draw(self, amount: int, now: datetime, policy: str) -> list[tuple[str, int]]:
        """Take at most so much of what nobody holds."""
        taken = []
        for name, held in self._in_order(now, policy):
            part = min(held.left, amount)
            if part:
                held.left -= part
                amount -= part
                taken.append((name, part))
        return taken

    def _take(self, run: str, amount: int) -> list[tuple[str, int]]:
        """Take at most so much of what the run's reservation holds."""
        parts, taken = self.reserved[run].parts, []
        for name, left in list(parts.items()):
            part = min(left, amount)
            if part:
                amount -= part
                taken.append((name, part))
                parts[name] -= part
                if not parts[name]:
                    del parts[name]
        return taken

    def _fill(self, run: str, amount: int, now: datetime, policy: str) -> None:
        """Put as much into the run's reservation, from its parent's or from what nobody holds."""
        held = self.reserved[run]
        held.given += amount
        parts = self._take(held.parent, amount) if held.parent else self._draw(amount, now, policy)
        for name, part in parts:
            held.parts[name] = held.parts.get(name, 0) + part

    def _renew(self, run: str, at_least: datetime, now: datetime) -> None:
        for member in self._line(run):
            held = self.reserved[member]
            held.expires_at = max(held.expires_at, now + held.terms.ttl, at_least)
            # A parent lives as long as its children.
            at_least = held.expires_at

    def _end(self, run: str) -> Facts:
        if run not in self.reserved:
            return Facts()
        before = self._where()
        ended = self._close([run])
        return Facts(self._moved_since(before), ended)

    def _close(self, runs: list[str]) -> tuple[tuple[str, str | None, int, int, int], ...]:
        """End reservations with all below them; what they hold goes up the line, or back."""
        closing: list[str] = []
        for first in runs:
            tree = [first]
            for run in tree:
                tree += [r for r, held in self.reserved.items() if held.parent == run]
            closing += [run for run in tree if run not in closing]
        ended = []
        for run in closing:
            held = self.reserved[run]
            heirs = [member for member in self._line(run) if member not in closing]
            for name, part in held.parts.items():
                if heirs:
                    parts = self.reserved[heirs[0]].parts
                    parts[name] = parts.get(name, 0) + part
                else:
                    self.held[name].left += part
            ended.append((run, held.parent, held.given, held.drawn, held.overdrawn))
        for run in closing:
            del self.reserved[run]
        return tuple(sorted(ended))

    def _line(self, run: str) -> list[str]:
        """Return the run, its parent and so on, as far as they have a reservation."""
        line: list[str] = []
        above: str | None = run
        while above is not None and above in self.reserved:
            line.append(above)
            above = self.reserved[above].parent
        return line

    def _where(self) -> dict[tuple[str, str], int]:
        """Return how much of which grant each run's reservation holds."""
        return {
            (run, name): part
            for run, held in self.reserved.items()
            for name, part in held.parts.items()
        }

    def _moved_since(self, before: dict[tuple[str, str], int]) -> frozenset[tuple[str, str, int]]:
        after = self._where()
        changed = {key: after.get(key, 0) - before.get(key, 0) for key in {*before, *after}}
        return frozenset((run, name, part) for (run, name), part in changed.items() if part)

    def _lacking(self, policy: str, run: str) -> Facts:
        """Return what a request that is not covered says: a run that holds anything goes on."""
        line = [self.reserved[member] for member in self._line(run)]
        told = None
        if line:
            told = "continue" if any(held.left for held in line) else _told(line[-1].terms)
        return Facts(directive=told, reserved_before=self._reserved_in(policy))

    def _reserved_in(self, policy: str) -> int:
        pools = POOLS[policy][self.kind]
        return sum(
            part
            for held in self.reserved.values()
            for name, part in held.parts.items()
            if self.made[name].pool in pools
        )

    def _rejected_reservation(
        self, asked: Asked, live: dict[str, Reserved], terms: Terms
    ) -> Rejected | None:
        run, parent = asked.run, asked.parent
        estimate = terms.step if asked.credits is None else asked.credits
        code = None
        if not estimate:
            code = "no_estimate"
        elif run in live:
            is_below = parent is not None and parent in live and run in self._line(parent)
            code = "circular_parents" if is_below else "already_reserved"
        elif parent == run:
            code = "circular_parents"
        elif len(live) >= RESERVATIONS_MAX:
            code = "too_many_reservations"
        elif parent in live and len(self._line(parent or "")) >= TREE_DEPTH_MAX:
            code = "tree_too_deep"
        elif parent and sum(held.parent == parent for held in live.values()) >= CHILDREN_MAX:
            code = "too_many_children"
        if code:
            return Rejected(frozenset({code}))
        ended = frozenset({"run_ended"} if run in self.ended else ())
        if parent and parent not in live:
            became = self._what_became_of(parent, "unknown_parent")
            return became._replace(codes=ended | became.codes)
        return Rejected(ended, is_certain=False) if ended else None

    def _what_became_of(self, run: str, nothing_known: str) -> Rejected:
        if run in self.ended:
            return Rejected(frozenset({"run_ended"}))
        if run in self.had_reservation:
            return Rejected(frozenset({"reservation_ended"}))
        elsewhere = {"parent_billed_elsewhere"} if nothing_known == "unknown_parent" else set()
        return Rejected(frozenset({nothing_known, *elsewhere}), is_awaited=run not in self.seen)

    def _recorded(self, run: str, expected: Expected) -> Expected:
        self.seen.add(run)
        if expected.outcome in ("finished", "returned", "released"):
            self.ended.add(run)
        return expected

    def _fail(
        self,
        run: str,
        draws: tuple[tuple[str, int], ...],
        shortfall: int,
        facts: Facts,
        limits: LimitsSaid = NOTHING_SAID,
    ) -> Expected:
        first = run not in self.failed
        self.failed.add(run)
        return self._recorded(run, Expected("insufficient", draws, shortfall, first, facts, limits))

    def _refuse(
        self, run: str, estimate: int, facts: Facts, standings: tuple[Standing, ...]
    ) -> Expected:
        """Let a request fail at the first of these limits."""
        shortfall = max(estimate - standings[0].room, 0)
        return self._fail(run, (), shortfall, facts, LimitsSaid(standings=standings))

    def _left_by_limits(self, run: str, limits: tuple[InForce, ...], now: datetime) -> Room:
        drawn_by_run = sum(self.drawn.get(run, {}).values())
        return Room(self.limits, run, limits, now, drawn_by_run)

    def _give_back(self, name: str, amount: int, now: datetime, policy: str, facts: Facts) -> bool:
        """Give credits back, and tell whether the grant or its one grace still takes them.

        `facts`: what the run's end did to reservations; what it gave back to this grant may lapse.
        """
        held = self.held.get(name)
        if held is None or held.expires_at <= now:
            made = self.made[name]
            is_over = made.expires_at <= now
            expires_at = made.expires_at + GRACE[policy] if is_over else made.expires_at
            if expires_at <= now:
                return False
            if held is not None and held.left:
                # A reservation keeps the grant. What it holds for everyone has no grace.
                moves = frozenset(move for move in facts.moves if move[1] == name)
                self.lapsed.append(Passing("expired", name, held.left, Facts(moves)))
            self.held[name] = Credits(made.pool, 0, expires_at, made.granted_at)
        self.held[name].left += amount
        return True

    def _refill(self, now: datetime) -> list[Passing]:
        amount, anchor = self.plan or (0, now.date())
        if amount == 0:
            return []
        starts = [start for start in _starts_around(anchor, now.date()) if start <= now.date()]
        if not starts or (self.refilled_from and max(starts) <= self.refilled_from):
            return []
        start = self.refilled_from = max(starts)
        end = min(s for s in _starts_around(anchor, now.date()) if s > start)
        name = f"refill:{start.isoformat()}"
        self.grant(name, "plan", amount, _midnight(end), _midnight(start))
        return [Passing("refilled", name, amount)]


def terms_of(policy: str, payer: str) -> Terms:
    return TERMS.get(policy, {}).get(payer, Terms())


def _wants_reservation(asked: Asked, terms: Terms) -> bool:
    if asked.reserve is not None:
        return asked.reserve == "estimate"
    return terms.reserves or asked.parent is not None


def _told(terms: Terms) -> str:
    return "continue" if terms.overrun == "finish" else terms.overrun


def _back(moves: Iterable[tuple[str, str, int]]) -> int:
    return -sum(part for _, _, part in moves)


def _starts_around(anchor: date, today: date) -> list[date]:
    """Return the anchor's day in the months around today, clamped, from the anchor on."""
    months = [divmod(today.year * 12 + today.month - 1 + step, 12) for step in range(-2, 3)]
    last_days = [
        (year, month0 + 1, calendar.monthrange(year, month0 + 1)[1]) for year, month0 in months
    ]
    starts = [date(year, month, min(anchor.day, last)) for year, month, last in last_days]
    return [start for start in starts if start >= anchor]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
