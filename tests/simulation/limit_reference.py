"""What limits leave to runs and what they count, written down a second time.

Nothing of the decision is imported. An account counts what its runs draw, in the period of the
commit. Of a limit that several accounts share, a row adds their counts up, and what they reserve by
the five minutes in which it expires.
"""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from tests.simulation.violation import check

if TYPE_CHECKING:
    from agent_credits.billing.limits import TeamLimit
    from agent_credits.billing.teams import Team
    from tests.simulation.reference import Asked, Reserved

# Team, scope, id, period.
Key = tuple[str, str, str, str]

COUNTS_MAX = 500
BUCKET = timedelta(minutes=5)
NOTHING_STOPS = 1 << 62
NEVER = datetime.min.replace(tzinfo=UTC)


class InForce(NamedTuple):
    """A limit as it holds for one run, by the settings that a worker goes by."""

    key: Key
    credits: int
    is_hard: bool
    lifted_until: datetime | None
    zone: str
    spans: bool

    def stops(self, now: datetime) -> bool:
        return self.is_hard and (self.lifted_until is None or self.lifted_until <= now)


class Standing(NamedTuple):
    """Where a limit stood before an event, as its entry says it."""

    key: Key
    credits: int
    is_hard: bool
    drawn: int
    held: int
    resets_at: datetime | None
    cannot_count: bool = False

    @property
    def room(self) -> int:
        return 0 if self.cannot_count else max(self.credits - self.drawn - self.held, 0)


class LimitsSaid(NamedTuple):
    """What an entry says of limits: which counts it moved, and which limits refused it."""

    counted: frozenset[tuple[Key, datetime, int]] = frozenset()
    standings: tuple[Standing, ...] = ()


NOTHING_SAID = LimitsSaid()


@dataclass
class Count:
    ends_at: datetime
    drawn: int = 0
    spans: bool = False


@dataclass
class SharedLimit:
    """The row of a limit that several accounts share."""

    ends_at: datetime
    drawn: int = 0
    held: dict[datetime, int] = field(default_factory=dict)
    moved_at: datetime = NEVER


@dataclass
class Before:
    """What an account had counted and reserved under a limit when its commit began."""

    count: Count | None
    held: dict[datetime, int]


def limits_in_force(team: "Team", asked: "Asked", payer: str) -> tuple[InForce, ...]:
    """Return the limits of a run in the order in which they refuse: the widest first."""
    found = []
    of_run = (
        ("team", team.team_id),
        ("project", asked.project),
        ("member", asked.user),
        ("run", asked.run),
    )
    for scope, name in of_run:
        if name is None:
            continue
        for period in ("month", "week", "day", "run"):
            declared = _declared(team.limits, scope, name, period)
            if declared is not None:
                # Self-serve users pay for themselves, and owners for what nobody started.
                spans = payer != "team" and scope in ("team", "project") and period != "run"
                found.append(
                    InForce(
                        key=(team.team_id, scope, name, period),
                        credits=declared.microcredits,
                        is_hard=declared.action == "stop",
                        lifted_until=declared.raise_until,
                        zone=team.time_zone,
                        spans=spans,
                    )
                )
    return tuple(found)


def _declared(
    limits: "Iterable[TeamLimit]", scope: str, name: str, period: str
) -> "TeamLimit | None":
    """Return the limit of this very project or member, or else the one of each."""
    alike = [limit for limit in limits if (limit.scope, limit.period) == (scope, period)]
    of_all = [limit for limit in alike if limit.id is None]
    own = [limit for limit in alike if limit.id == name]
    return (own or of_all or [None])[0]


def period_end(period: str, zone: str, now: datetime) -> datetime:
    """Return the first local midnight after `now` that begins a day, a week or a month."""
    day = now.astimezone(ZoneInfo(zone)).date()
    while True:
        day += timedelta(days=1)
        begins_month, begins_week = day.day == 1, day.isoweekday() == 1
        if {"day": True, "week": begins_week, "month": begins_month}[period]:
            return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def bucket_of(expires_at: datetime) -> datetime:
    """Return the end of the five minutes that this moment ends or falls into."""
    into = timedelta(minutes=expires_at.minute % 5, seconds=expires_at.second)
    return expires_at if not into else expires_at - into + BUCKET


class Limits:
    """What one account counts under limits; `reserved` are its live reservations."""

    def __init__(self, reserved: "dict[str, Reserved]") -> None:
        self.reserved = reserved
        self.counts: dict[Key, Count] = {}
        # Of each run, what it drew of which grant, and under which counts.
        self.drawn: dict[str, list[tuple[str, int, tuple[tuple[Key, datetime], ...]]]] = {}
        self.shared: dict[Key, SharedLimit] = {}
        self.before: dict[Key, Before] = {}

    def see(self, shared: Mapping[Key, SharedLimit]) -> None:
        """Begin a commit beside these rows."""
        self.shared = {key: deepcopy(row) for key, row in shared.items()}
        keys = {*self.counts, *(key for held in self.reserved.values() for key in held.limits)}
        self.before = {
            key: Before(deepcopy(self.counts.get(key)), self.held_under(key)) for key in keys
        }

    def held_under(self, key: Key) -> dict[datetime, int]:
        """Return what reservations hold under a limit, by the end of the bucket they expire in.

        What a child holds is its parents' in the end, and lasts as long as the topmost of those
        that are under the limit.
        """
        held: dict[datetime, int] = {}
        for run, reserved in self.reserved.items():
            above = [name for name in self.line(run) if key in self.reserved[name].limits]
            if above and reserved.left:
                until = bucket_of(self.reserved[above[-1]].expires_at)
                held[until] = held.get(until, 0) + reserved.left
        return held

    def line(self, run: str) -> list[str]:
        line: list[str] = []
        above: str | None = run
        while above is not None and above in self.reserved:
            line.append(above)
            above = self.reserved[above].parent
        return line

    def count(self, limit: InForce, now: datetime, begun: int = 0) -> Count | None:
        """Return the account's count of the period that goes on; None if there are too many.

        `begun`: how many others the same event begins.
        """
        there = self.counts.get(limit.key)
        is_current = there is not None and now < there.ends_at
        spans = limit.spans or (there is not None and there.spans and is_current)
        row = self.shared.get(limit.key) if spans else None
        if row is not None and now < row.ends_at:
            ends_at = row.ends_at
        elif there is not None and is_current:
            ends_at = there.ends_at
        else:
            ends_at = period_end(limit.key[3], limit.zone, now)
        kept = self.kept(now)
        if limit.key not in kept and len(kept) + begun >= COUNTS_MAX:
            return None
        goes_on = there is not None and there.ends_at == ends_at
        return Count(ends_at, there.drawn if there is not None and goes_on else 0, spans)

    def count_draws(
        self,
        run: str,
        limits: Iterable[InForce],
        draws: Mapping[str, int],
        now: datetime,
    ) -> frozenset[tuple[Key, datetime, int]]:
        counted, total = [], sum(draws.values())
        for limit in limits:
            if limit.key[3] == "run":
                continue
            count = self.count(limit, now)
            if count is None:
                continue
            self.counts[limit.key] = count
            count.drawn += total
            counted.append((limit.key, count.ends_at, total))
        under = tuple((key, ends_at) for key, ends_at, _ in counted)
        drawn = self.drawn.setdefault(run, [])
        drawn += [(grant, part, under) for grant, part in draws.items() if part]
        return frozenset(counted)

    def give_back(
        self, run: str, grants: Iterable[str], now: datetime
    ) -> frozenset[tuple[Key, datetime, int]]:
        """Give the room back that these grants' draws took, where their period goes on."""
        gone, room = {*grants}, dict[tuple[Key, datetime], int]()
        drawn = self.drawn.pop(run, [])
        for grant, part, under in drawn:
            for place in under if grant in gone else ():
                room[place] = room.get(place, 0) + part
        self.drawn[run] = [found for found in drawn if found[0] not in gone]
        freed = []
        for (key, ends_at), part in room.items():
            count = self.counts.get(key)
            if count is not None and count.ends_at == ends_at and now < ends_at:
                count.drawn -= part
                check(count.drawn >= 0, "no more room comes back than was taken")
                freed.append((key, ends_at, -part))
        return frozenset(freed)

    def end_commit(self, now: datetime) -> None:
        self.counts = self.kept(now)

    def kept(self, now: datetime) -> dict[Key, Count]:
        used = {key for held in self.reserved.values() for key in held.limits}
        return {k: count for k, count in self.counts.items() if now < count.ends_at or k in used}

    def others(self, key: Key, count: Count, now: datetime) -> tuple[int, int]:
        """Return what the other accounts of a limit drew and reserve."""
        row = self.shared.get(key)
        if not count.spans or row is None:
            return 0, 0
        drawn = row.drawn if row.ends_at == count.ends_at else 0
        held = sum(part for until, part in row.held.items() if now < until)
        own = self.before.get(key)
        if own is not None:
            if own.count and own.count.spans and own.count.ends_at == count.ends_at:
                drawn -= own.count.drawn
            held -= sum(part for until, part in own.held.items() if now < until)
        return max(drawn, 0), max(held, 0)

    def moved(self, now: datetime) -> dict[Key, SharedLimit]:
        """Return the shared rows that the commit has to move, as they are after it."""
        moved = {}
        for key in {*self.before, *self.counts}:
            before = self.before.get(key, Before(None, {}))
            after = self.counts.get(key)
            count = after or before.count
            if count is None or not any(c is not None and c.spans for c in (before.count, after)):
                continue
            drawn = 0
            if after is not None and after.spans:
                goes_on = before.count and before.count.spans
                if goes_on and before.count and before.count.ends_at == after.ends_at:
                    drawn = after.drawn - before.count.drawn
                else:
                    drawn = after.drawn
            held = _differences(before.held, self.held_under(key), now)
            frees_itself = all(part < 0 and until <= now + BUCKET for until, part in held.items())
            if drawn or not frees_itself:
                moved[key] = self._moved_row(key, count, drawn, held, now)
        return moved

    def _moved_row(
        self, key: Key, count: Count, drawn: int, held: Mapping[datetime, int], now: datetime
    ) -> SharedLimit:
        row = deepcopy(self.shared.get(key)) or SharedLimit(count.ends_at)
        check(row.moved_at <= now, "time never runs backwards on a limit's row")
        row.moved_at = now
        if row.ends_at < count.ends_at:
            row.ends_at, row.drawn = count.ends_at, 0
        row.drawn += drawn
        check(row.drawn >= 0, "no more comes back to a limit than was drawn under it")
        row.held = {until: part for until, part in row.held.items() if now < until}
        for until, part in held.items():
            row.held[until] = row.held.get(until, 0) + part
        row.held = {until: part for until, part in row.held.items() if part}
        check(min(row.held.values(), default=1) > 0, "no more goes back to a limit than was held")
        return row


def _differences(
    before: Mapping[datetime, int], after: Mapping[datetime, int], now: datetime
) -> dict[datetime, int]:
    untils = (until for until in {*before, *after} if now < until)
    parts = {until: after.get(until, 0) - before.get(until, 0) for until in untils}
    return {until: part for until, part in parts.items() if part}


class Room:
    """What the limits of one run leave to one event. `drawn`: what it drew so far."""

    def __init__(
        self, account: Limits, run: str, limits: Iterable[InForce], now: datetime, drawn_by_run: int
    ) -> None:
        self._account, self._run, self._now = account, run, now
        self._limits: list[tuple[InForce, Standing]] = []
        self.drawn = 0
        begun = 0
        for limit in limits:
            said = self._standing(limit, drawn_by_run, begun)
            self._limits.append((limit, said))
            is_counted = limit.key[3] == "run" or limit.key in account.kept(now)
            begun += not (is_counted or said.cannot_count)

    def left(self, source: str | None) -> int:
        """Return how much may come from a run's reservation, or from what nobody holds."""
        return min(
            (self._left(*found, source) for found in self._stopping()), default=NOTHING_STOPS
        )

    def refusing(self, wanted: int, source: str | None = None) -> tuple[Standing, ...]:
        """Return all standings, the first that refuses so much first; none if nothing does."""
        refuses = [found for found in self._stopping() if self._left(*found, source) < wanted]
        if not refuses:
            return ()
        first = refuses[0][1]
        return (first, *(said for _, said in self._limits if said is not first))

    def _stopping(self) -> Iterator[tuple[InForce, Standing]]:
        return (found for found in self._limits if found[0].stops(self._now))

    def _left(self, limit: InForce, before: Standing, source: str | None) -> int:
        if before.cannot_count:
            return 0
        drawn = before.drawn + self.drawn
        if source is not None and self._is_held(limit.key, source):
            return max(limit.credits - drawn, 0)
        return max(limit.credits - drawn - self._held(limit), 0)

    def _is_held(self, key: Key, source: str) -> bool:
        if key[3] == "run":
            return source == self._run
        account = self._account
        return any(key in account.reserved[name].limits for name in account.line(source))

    def _held(self, limit: InForce) -> int:
        account = self._account
        if limit.key[3] == "run":
            return account.reserved[self._run].left if self._run in account.reserved else 0
        count = account.count(limit, self._now)
        own = sum(account.held_under(limit.key).values())
        return own + (account.others(limit.key, count, self._now)[1] if count else 0)

    def _standing(self, limit: InForce, drawn_by_run: int, begun: int) -> Standing:
        said = (limit.key, limit.credits, limit.is_hard)
        if limit.key[3] == "run":
            return Standing(*said, drawn_by_run, self._held(limit), None)
        count = self._account.count(limit, self._now, begun)
        if count is None:
            own = sum(self._account.held_under(limit.key).values())
            return Standing(*said, 0, own, None, cannot_count=True)
        others, _ = self._account.others(limit.key, count, self._now)
        return Standing(*said, count.drawn + others, self._held(limit), count.ends_at)
