"""Limits in a commit: what they leave to an event, and what an event counts under them.

1. A reservation needs room for all that it takes: the limit less what was drawn in the period and
   less what reservations hold.
2. Usage draws its own reservation, and those of its line of parents, as long as what is drawn stays
   within the limit. It draws everything else only out of the room. The rest is the shortfall.
3. A limit that only warns is counted and leaves everything.
4. What a run in a platform error gives back gives its room back, in the period it was drawn in.
5. A limit that spans accounts stands where its own row says, moved by what this commit did so far.

A limit of each run is not counted: what the run drew is in the run's own entries.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from agent_credits.billing.teams import Billing
from agent_credits.commit.beside import Beside
from agent_credits.commit.changes import RunChange
from agent_credits.commit.decision_context import DecisionContext
from agent_credits.ledger.accounts import Account, held_on_limit_row, held_under
from agent_credits.ledger.entries import Draw, Entry
from agent_credits.ledger.limits import (
    COUNTS_MAX,
    HELD_BUCKET,
    Counted,
    Limit,
    LimitCount,
    LimitFacts,
    LimitKey,
    LimitRow,
    LimitStanding,
    added,
    count_of,
    highest_reached,
    period_ends_at,
)
from agent_credits.ledger.reservations import line_of, reservation_of
from agent_credits.values.errors import require

# More than any account holds.
UNBOUNDED: Final = 1 << 62


class _Standing(Struct):
    """Where a limit stands while an event is decided. `before`: at its beginning."""

    limit: Limit
    before: LimitStanding
    drawn: int
    held: int


class Room:
    """What the limits of one run leave to one event; it shrinks with what the event takes."""

    def __init__(
        self, account: Account, run_id: str, limits: Sequence[Limit], context: DecisionContext
    ) -> None:
        self._account = account
        self._run_id = run_id
        self._now = context.now
        self._standings: list[_Standing] = []
        for limit in limits:
            count = _current_count(account, limit, context)
            self._standings.append(_standing(account, run_id, limit, count, context))
            if count is not None:
                # So that the limits of one event together begin no more counts than there may be.
                account = _with_count(account, count)
        self._covered: dict[str | None, frozenset[LimitKey]] = {None: frozenset()}

    @property
    def standings(self) -> tuple[LimitStanding, ...]:
        """Return where each limit stood before the event, in the order in which they refuse."""
        return tuple(standing.before for standing in self._standings)

    def of(self, source: str | None) -> int:
        """Return how much may be drawn or moved from the reservation of this run, or of nobody."""
        return min((self._left(s, source) for s in self._holding()), default=UNBOUNDED)

    def draw(self, source: str | None, microcredits: int) -> None:
        require(microcredits <= self.of(source), "a limit that stops is never passed")
        for standing in self._standings:
            standing.drawn += microcredits
            if standing.limit.key in self._counted_by(source):
                standing.held -= microcredits

    def hold(self, source: str | None, microcredits: int) -> None:
        """Move from the reservation of a run, or of nobody, into the reservation of this run."""
        require(microcredits <= self.of(source), "a limit that stops is never passed")
        for standing in self._standings:
            key = standing.limit.key
            if key not in self._counted_by(source) and key in self._counted_by(self._run_id):
                standing.held += microcredits

    def refusal(self, wanted: int, source: str | None = None) -> LimitFacts | None:
        """Return what refuses an event that wants so much more, with all limits of its run."""
        refusing = [s for s in self._holding() if self._left(s, source) < wanted]
        if not refusing:
            return None
        others = [s for s in self._standings if s is not refusing[0]]
        return LimitFacts(standings=tuple(s.before for s in (refusing[0], *others)))

    def _holding(self) -> Iterable[_Standing]:
        return (s for s in self._standings if s.limit.holds(self._now))

    def _left(self, standing: _Standing, source: str | None) -> int:
        if standing.before.cannot_count:
            return 0
        is_held = standing.limit.key in self._counted_by(source)
        taken = standing.drawn if is_held else standing.drawn + standing.held
        return max(standing.limit.microcredits - taken, 0)

    def _counted_by(self, source: str | None) -> frozenset[LimitKey]:
        """Return the limits under which what the run's reservation holds is counted."""
        if source not in self._covered:
            line = line_of(self._account.reservations, source or "")
            keys = {key for above in line for key in above.limits}
            if source == self._run_id:
                keys |= {s.limit.key for s in self._standings if s.limit.key.period == "run"}
            self._covered[source] = frozenset(keys)
        return self._covered[source]


def room_of(account: Account, change: RunChange, context: DecisionContext) -> Room:
    return Room(account, change.event.subject, change.billing.limits, context)


def count_draws(
    account: Account, billing: Billing, microcredits: int, context: DecisionContext
) -> tuple[Account, tuple[Counted, ...]]:
    """Count what an event of a run drew under the run's limits, or begin to count with zero."""
    counted: list[Counted] = []
    for limit in billing.limits:
        count = _current_count(account, limit, context)
        if count is None:
            continue
        count = replace(
            count,
            drawn_microcredits=count.drawn_microcredits + microcredits,
            limit_microcredits=limit.microcredits,
            stops=limit.stops,
        )
        account = _with_count(account, count)
        counted.append(Counted(limit.key, count.ends_at, microcredits))
    return account, tuple(counted)


def count_returned(
    account: Account, entries: Sequence[Entry], returned: Sequence[Draw], now: datetime
) -> tuple[Account, tuple[Counted, ...]]:
    """Give the room back of what goes back to its grants, of what these entries of the run drew.

    Only in the period in which it was drawn: one that is over stays as it was.
    """
    room: dict[tuple[LimitKey, datetime], int] = {}
    left = {part.grant_id: part.microcredits for part in returned}
    # What went back to a grant before was all that the run had drawn of it until then. So what goes
    # back now is what was drawn last.
    for entry in sorted(entries, key=lambda e: e.recorded_at, reverse=True):
        if entry.outcome == "returned":
            continue
        goes_back = 0
        for part in entry.draws:
            share = min(part.microcredits, left.get(part.grant_id, 0))
            left[part.grant_id] = left.get(part.grant_id, 0) - share
            goes_back += share
        for counted in entry.limits.counted:
            key = (counted.key, counted.ends_at)
            room[key] = room.get(key, 0) + goes_back
    freed: list[Counted] = []
    for (limit_key, ends_at), microcredits in room.items():
        count = count_of(account.limit_counts, limit_key)
        if count is None or count.ends_at != ends_at or not count.is_current(now):
            continue
        if microcredits == 0:
            continue
        drawn = count.drawn_microcredits - microcredits
        account = _with_count(account, replace(count, drawn_microcredits=drawn))
        freed.append(Counted(limit_key, ends_at, -microcredits))
    return account, tuple(freed)


def limits_counted(account: Account, counted: Iterable[Counted]) -> tuple[LimitKey, ...]:
    """Return the limits under which a reservation counts: those that its request counted."""
    keys = {begun.key for begun in counted}
    return tuple(count.key for count in account.limit_counts if count.key in keys)


def settled_counts(
    account: Account, runs: Iterable[RunChange], context: DecisionContext
) -> Account:
    """Return the account as it will be committed: with what was notified, without what is over."""
    if not account.limit_counts:
        return account
    limits = {limit.key: limit for run in runs for limit in run.billing.limits}
    counts: list[LimitCount] = []
    for count in _kept(account, context.now):
        limit = limits.get(count.key)
        if limit is not None and not count.spans_accounts:
            before = count_of(context.row.limit_counts, count.key)
            percent = _notified(limit, before, count, context.now)
            count = replace(count, notified_percent=percent)
        counts.append(count)
    return replace(account, limit_counts=tuple(counts))


def moved_limits(
    row: Account, committed: Account, runs: Iterable[RunChange], beside: Beside, now: datetime
) -> tuple[dict[LimitKey, LimitRow], frozenset[LimitKey]]:
    """Return the limits' rows that the commit moves, and the keys of those that were not read."""
    counts = {c.key: c for c in (*row.limit_counts, *committed.limit_counts) if c.spans_accounts}
    limits = {limit.key: limit for run in runs for limit in run.billing.limits}
    moved: dict[LimitKey, LimitRow] = {}
    missing: set[LimitKey] = set()
    for key in counts:
        drawn = _drawn_by(row, committed, key)
        held = _held_by(row, committed, key, now)
        # A reservation that expired frees its room by itself, within the time of a bucket.
        expired = all(more < 0 and until <= now + HELD_BUCKET for until, more in held.items())
        if drawn == 0 and expired:
            continue
        if key not in beside.limits:
            missing.add(key)
            continue
        moved[key] = _moved(beside.limits[key], counts[key], drawn, held, limits.get(key), now)
    return moved, frozenset(missing)


def _moved(
    there: LimitRow | None,
    count: LimitCount,
    drawn: int,
    held: Mapping[datetime, int],
    limit: Limit | None,
    now: datetime,
) -> LimitRow:
    row = there or LimitRow(count.key, count.ends_at)
    if row.ends_at < count.ends_at:
        row = replace(row, ends_at=count.ends_at, drawn_microcredits=0, notified_percent=0)
    total = row.drawn_microcredits + drawn
    require(total >= 0, "no more comes back to a limit than was drawn")
    after = replace(
        row,
        drawn_microcredits=total,
        held=added(row.held, held, now),
        limit_microcredits=count.limit_microcredits,
        stops=count.stops,
        moved_at=now,
    )
    require(all(amount > 0 for _, amount in after.held), "no more goes back than was held")
    if limit is None:
        return after
    return replace(after, notified_percent=_notified(limit, there, after, now))


def _notified(
    limit: Limit,
    before: LimitCount | LimitRow | None,
    after: LimitCount | LimitRow,
    now: datetime,
) -> int:
    """Return the highest percentage that was announced, or is now.

    Under another amount, what was drawn before counts as announced, and what is drawn now warns
    again.
    """
    announced = after.notified_percent
    if before is not None and before.limit_microcredits != limit.microcredits:
        drawn = before.drawn_microcredits if before.ends_at == after.ends_at else 0
        announced = highest_reached(limit.warn_at, drawn, limit.microcredits)
    if limit.is_lifted(now):
        return announced
    reached = highest_reached(limit.warn_at, after.drawn_microcredits, limit.microcredits)
    return max(announced, reached)


def _drawn_by(row: Account, committed: Account, key: LimitKey) -> int:
    """Return what the commit adds to what the accounts of the limit drew in its period."""
    after = count_of(committed.limit_counts, key)
    if after is None or not after.spans_accounts:
        return 0
    before = count_of(row.limit_counts, key)
    if before is None or not before.spans_accounts or before.ends_at != after.ends_at:
        return after.drawn_microcredits
    return after.drawn_microcredits - before.drawn_microcredits


def _held_by(row: Account, committed: Account, key: LimitKey, now: datetime) -> dict[datetime, int]:
    """Return what the commit adds to what reservations hold, by the time until which it counts."""
    before, after = held_on_limit_row(row, key), held_on_limit_row(committed, key)
    more = {until: after.get(until, 0) - before.get(until, 0) for until in {**before, **after}}
    return {until: amount for until, amount in more.items() if amount and now < until}


def _standing(
    account: Account,
    run_id: str,
    limit: Limit,
    count: LimitCount | None,
    context: DecisionContext,
) -> _Standing:
    if limit.key.period == "run":
        drawn = _drawn_by_run(context.entries_of_run(account, run_id))
        own = reservation_of(account.reservations, run_id)
        held = own.left_microcredits if own is not None else 0
    else:
        drawn = count.drawn_microcredits if count is not None else 0
        held = sum(held_under(account, limit.key).values())
        if count is not None and count.spans_accounts:
            others = _drawn_and_held_by_others(count, context)
            drawn, held = drawn + others[0], held + others[1]
    before = LimitStanding(
        key=limit.key,
        limit_microcredits=limit.microcredits,
        stops=limit.stops,
        drawn_microcredits=drawn,
        held_microcredits=held,
        resets_at=count.ends_at if count is not None else None,
        cannot_count=count is None and limit.key.period != "run",
    )
    return _Standing(limit, before, drawn, held)


def _drawn_and_held_by_others(count: LimitCount, context: DecisionContext) -> tuple[int, int]:
    """Return what the limit's row counts beside what this account had counted when it was read."""
    there = context.beside.limits.get(count.key)
    if there is None:
        return 0, 0
    drawn = there.drawn_microcredits if there.ends_at == count.ends_at else 0
    before = count_of(context.row.limit_counts, count.key)
    if before is not None and before.spans_accounts and before.ends_at == count.ends_at:
        drawn -= before.drawn_microcredits
    now = context.now
    held_before = held_on_limit_row(context.row, count.key)
    own = sum(held for until, held in held_before.items() if now < until)
    return max(drawn, 0), max(there.held_microcredits(now) - own, 0)


def _current_count(account: Account, limit: Limit, context: DecisionContext) -> LimitCount | None:
    """Return the account's count of this period, or None if it counts too many limits already.

    A limit of each run is not counted at all.
    """
    if limit.key.period == "run":
        return None
    now, there = context.now, count_of(account.limit_counts, limit.key)
    # A limit that began to span accounts does so until its period is over.
    spans = limit.spans_accounts or (
        there is not None and there.spans_accounts and there.is_current(now)
    )
    row = context.beside.limits.get(limit.key) if spans else None
    if row is not None and now < row.ends_at:
        ends_at = row.ends_at
    elif there is not None and there.is_current(now):
        ends_at = there.ends_at
    else:
        ends_at = period_ends_at(limit.key.period, limit.time_zone, now)
    kept = _kept(account, now)
    if there not in kept and len(kept) >= COUNTS_MAX:
        return None
    if there is not None:
        fresh = {} if there.ends_at == ends_at else {"drawn_microcredits": 0, "notified_percent": 0}
        return replace(there, ends_at=ends_at, spans_accounts=spans, **fresh)
    return LimitCount(limit.key, ends_at, spans_accounts=spans)


def _kept(account: Account, now: datetime) -> list[LimitCount]:
    """Return the counts whose period goes on, and those that a reservation counts under."""
    in_use = {key for reservation in account.reservations for key in reservation.limits}
    return [c for c in account.limit_counts if c.is_current(now) or c.key in in_use]


def _drawn_by_run(entries: Iterable[Entry]) -> int:
    return sum(
        -entry.drawn_microcredits if entry.outcome == "returned" else entry.drawn_microcredits
        for entry in entries
    )


def _with_count(account: Account, count: LimitCount) -> Account:
    others = tuple(c for c in account.limit_counts if c.key != count.key)
    if len(others) == len(account.limit_counts):
        return replace(account, limit_counts=(*others, count))
    counts = tuple(count if c.key == count.key else c for c in account.limit_counts)
    return replace(account, limit_counts=counts)
