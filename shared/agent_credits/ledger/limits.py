"""A limit: how many credits the runs of a team, project or member, or one run, may draw.

What is drawn under a limit is counted in the period of the commit, on the row of the account that
pays. A period that is over stays over: a worker whose clock is slow counts in the newer one. What
reservations hold counts as well, whatever the period, until it is drawn or goes back.

The runs of some limits are billed to several accounts. What these draw together, and what their
reservations hold, is on a row of the limit's own, which changes in one transaction with theirs.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct

LimitScope = Literal["team", "project", "member", "run"]
LimitPeriod = Literal["run", "day", "week", "month"]

WARN_AT_DEFAULT = (70, 90, 100)

# An account's row holds a count for each limit that its runs draw under in a period. Each takes up
# to about 40 bytes. Of more, a limit that cannot be counted stops its runs.
COUNTS_MAX = 500

# Reservations are counted on a limit's row by the time at which they expire, rounded up to this.
# None lives longer than a day, so the row tells fewer than 300 such times apart.
HELD_BUCKET = timedelta(minutes=5)

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class LimitKey(Struct, frozen=True, order=True):
    """Which runs of a team a limit counts, and for how long."""

    team_id: str
    scope: LimitScope
    id: str
    period: LimitPeriod

    def __str__(self) -> str:
        each = "" if self.period == "run" else f" per {self.period}"
        return f"{self.scope} {self.id}{each}"


class Limit(Struct, frozen=True):
    """A limit as it holds for one run.

    `warn_at`: percentages. `lifted_until`: it neither stops nor warns before this time.
    `spans_accounts`: its runs may be billed to several accounts, so it has a row of its own.
    """

    key: LimitKey
    microcredits: int
    stops: bool = True
    warn_at: tuple[int, ...] = WARN_AT_DEFAULT
    time_zone: str = "UTC"
    lifted_until: datetime | None = None
    spans_accounts: bool = False

    def is_lifted(self, now: datetime) -> bool:
        return self.lifted_until is not None and now < self.lifted_until

    def holds(self, now: datetime) -> bool:
        """Return whether runs are stopped at this limit."""
        return self.stops and not self.is_lifted(now)


class LimitCount(Struct, frozen=True):
    """What an account drew under a limit in the period that ends at `ends_at`.

    `limit_microcredits`, `stops` and `notified_percent`: the limit as it was when the account last
    counted, and the highest percentage of it that was announced; of a limit with a row, they are
    there.
    """

    key: LimitKey
    ends_at: datetime
    drawn_microcredits: int = 0
    spans_accounts: bool = False
    limit_microcredits: int = 0
    notified_percent: int = 0
    stops: bool = True

    def is_current(self, now: datetime) -> bool:
        return now < self.ends_at


class LimitRow(Struct, frozen=True):
    """What several accounts together drew under a limit in its period, and what is reserved.

    `held`: what reservations hold, by the time until which it counts. A reservation that expires on
    an idle account then frees its room by itself, without a commit of that account. `moved_at`: the
    time of the newest commit. Workers' clocks differ, and on one row time never runs backwards.
    """

    key: LimitKey
    ends_at: datetime
    version: int = 0
    drawn_microcredits: int = 0
    held: tuple[tuple[datetime, int], ...] = ()
    limit_microcredits: int = 0
    notified_percent: int = 0
    stops: bool = True
    moved_at: datetime = LONG_AGO

    def held_microcredits(self, now: datetime) -> int:
        return sum(microcredits for until, microcredits in self.held if now < until)


class Counted(Struct, frozen=True):
    """What one event added to a count, or took from it if negative."""

    key: LimitKey
    ends_at: datetime
    microcredits: int


class LimitStanding(Struct, frozen=True):
    """Where a limit stood before an event. `resets_at` is None for a limit of each run.

    `cannot_count`: the account counts so many limits that it cannot count this one.
    """

    key: LimitKey
    limit_microcredits: int
    stops: bool
    drawn_microcredits: int
    held_microcredits: int
    resets_at: datetime | None = None
    cannot_count: bool = False

    @property
    def room_microcredits(self) -> int:
        """Return what may still be drawn or reserved."""
        if self.cannot_count:
            return 0
        taken = self.drawn_microcredits + self.held_microcredits
        return max(self.limit_microcredits - taken, 0)

    @property
    def used_percent(self) -> int:
        """Return how much of the limit is drawn, rounded down, as `warn_at` compares it."""
        limit = self.limit_microcredits
        return self.drawn_microcredits * 100 // limit if limit else 100


class LimitFacts(Struct, frozen=True):
    """What an entry records of limits.

    `counted`: the counts that the event moved; a request that reserves names those that what it
    holds counts under. `standings`: of an event that a limit refused, all limits of its run before
    it, the one that refused first.
    """

    counted: tuple[Counted, ...] = ()
    standings: tuple[LimitStanding, ...] = ()

    @property
    def refused_by(self) -> LimitStanding | None:
        return self.standings[0] if self.standings else None


NO_LIMITS = LimitFacts()


def period_ends_at(period: LimitPeriod, time_zone: str, now: datetime) -> datetime:
    """Return when the day, week or month ends that `now` falls into, in this zone.

    A week begins on Monday. A limit of each run has no period.
    """
    today = now.astimezone(ZoneInfo(time_zone)).date()
    match period:
        case "day":
            next_begins = today + timedelta(days=1)
        case "week":
            next_begins = today + timedelta(days=7 - today.weekday())
        case "month":
            next_begins = date(today.year + today.month // 12, today.month % 12 + 1, 1)
        case _:
            raise ValueError(f"a limit of each {period} has no period that ends")
    midnight = datetime(
        next_begins.year, next_begins.month, next_begins.day, tzinfo=ZoneInfo(time_zone)
    )
    return midnight.astimezone(UTC)


def held_until(expires_at: datetime) -> datetime:
    """Return until when what expires at this time counts on a limit's row."""
    buckets = -((LONG_AGO - expires_at) // HELD_BUCKET)
    return LONG_AGO + buckets * HELD_BUCKET


def count_of(counts: Iterable[LimitCount], key: LimitKey) -> LimitCount | None:
    return next((count for count in counts if count.key == key), None)


def added(
    held: Sequence[tuple[datetime, int]], more: Mapping[datetime, int], now: datetime
) -> tuple[tuple[datetime, int], ...]:
    """Add amounts to what is held; what no longer counts at `now` is left out."""
    sums = {until: microcredits for until, microcredits in held if now < until}
    for until, microcredits in more.items():
        if now < until:
            sums[until] = sums.get(until, 0) + microcredits
    return tuple(sorted((until, amount) for until, amount in sums.items() if amount))


def highest_reached(warn_at: Iterable[int], drawn: int, limit: int) -> int:
    """Return the highest of these percentages that is drawn, or 0 for none."""
    if limit == 0:
        return 0
    return max((percent for percent in warn_at if drawn * 100 >= limit * percent), default=0)
