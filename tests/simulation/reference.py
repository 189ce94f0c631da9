"""What an account must do, written down a second time: sequentially, without protocol or batches.

Nothing of the decision is imported. Where this page and the code disagree, one of them is wrong.
Amounts are microcredits. A commit is bracketed by `pass_time` and `end_commit`: what ran dry in a
batch is forgotten only at its end, and time can let credits expire before and after the changes.
"""

import calendar
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

FIRST_POLICY = "v1"
_AT_FIRST = {"user": ("trial", "plan", "add_on"), "team": ("trial", "contract")}
# Which pools are drawn in which order, by the policy and by whether a user or a team pays.
POOLS: dict[str, dict[str, tuple[str, ...]]] = {
    "v1": _AT_FIRST,
    "v2": _AT_FIRST,
    "v3": {"user": ("add_on", "plan", "trial"), "team": ("contract", "trial")},
    "v4": {"user": ("trial", "plan", "extra"), "team": ("trial", "committed")},
    # The policy of the unit tests.
    "2025-11": _AT_FIRST,
}
# What a pack costs in cents, by the policy and by its credits.
PACKS = {
    "v1": {20: 1_000, 50: 2_000},
    "v2": {30: 1_500, 80: 3_000},
    "v3": {20: 1_200, 30: 1_500},
    "v4": {20: 1_000, 50: 2_000},
    "2025-11": {400: 2_000, 1_000: 4_500, 3_000: 12_000, 6_500: 24_000},
}
GRACE = {policy: timedelta(days=30) for policy in POOLS}
GRACE |= {"v3": timedelta(days=5), "v4": timedelta(days=60)}
ERRORED_FOR, ERRORED_MAX = timedelta(hours=24), 1_000
FOR_EVER = datetime.max.replace(tzinfo=UTC)


class Expected(NamedTuple):
    outcome: str
    draws: tuple[tuple[str, int], ...] = ()
    shortfall: int = 0
    fails_run: bool = False


class Passing(NamedTuple):
    """What time alone does: a grant `expired` with so much left, or the plan `refilled` it."""

    outcome: str
    grant_id: str
    amount: int


@dataclass
class Credits:
    pool: str
    left: int
    expires_at: datetime
    granted_at: datetime


@dataclass
class Reference:
    """One account. `made` keeps each grant's first expiry, for credits that are given back."""

    kind: str
    held: dict[str, Credits] = field(default_factory=dict)
    made: dict[str, Credits] = field(default_factory=dict)
    drawn: dict[str, dict[str, int]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    errored: dict[str, datetime] = field(default_factory=dict)
    plan: tuple[int, date] | None = None
    refilled_from: date | None = None

    def pass_time(self, now: datetime) -> list[Passing]:
        expired = {name: c for name, c in self.held.items() if c.expires_at <= now}
        self.held = {name: c for name, c in self.held.items() if name not in expired}
        return [Passing("expired", n, c.left) for n, c in expired.items() if c.left] + self._refill(
            now
        )

    def end_commit(self, now: datetime) -> list[Passing]:
        expires = self.pass_time(now)
        self.held = {name: c for name, c in self.held.items() if c.left}
        recent = {run: at for run, at in self.errored.items() if at > now - ERRORED_FOR}
        self.errored = dict(list(recent.items())[-ERRORED_MAX:])
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

    def request(
        self, run: str, estimate: int, now: datetime, policy: str = FIRST_POLICY
    ) -> Expected:
        available = sum(held.left for _, held in self._in_order(now, policy))
        if available >= max(estimate, 1):
            return Expected("accepted")
        return self._fail(run, (), max(estimate - available, 0))

    def use(self, run: str, amount: int, now: datetime, policy: str = FIRST_POLICY) -> Expected:
        if run in self.errored:
            return Expected("waived")
        draws = []
        for name, held in self._in_order(now, policy):
            part = min(held.left, amount)
            if part:
                held.left -= part
                amount -= part
                draws.append((name, part))
                taken = self.drawn.setdefault(run, {})
                taken[name] = taken.get(name, 0) + part
        return (
            self._fail(run, tuple(draws), amount) if amount else Expected("debited", tuple(draws))
        )

    def finish(self, run: str, status: str, now: datetime, policy: str = FIRST_POLICY) -> Expected:
        if status != "error":
            return Expected("finished")
        self.errored.pop(run, None)
        self.errored[run] = now
        drawn = self.drawn.pop(run, {})
        returned = [
            (n, amount) for n, amount in drawn.items() if self._give_back(n, amount, now, policy)
        ]
        # A policy with a longer grace may still give back what this one does not.
        taken_by_time = {n: amount for n, amount in drawn.items() if (n, amount) not in returned}
        if taken_by_time:
            self.drawn[run] = taken_by_time
        return Expected("returned", tuple(returned))

    def balances(self) -> dict[str, int]:
        return {name: held.left for name, held in self.held.items() if held.left}

    def _in_order(self, now: datetime, policy: str) -> list[tuple[str, Credits]]:
        pools = POOLS[policy][self.kind]
        live = [(n, c) for n, c in self.held.items() if c.pool in pools and c.expires_at > now]
        return sorted(
            live, key=lambda g: (pools.index(g[1].pool), g[1].expires_at, g[1].granted_at, g[0])
        )

    def _fail(self, run: str, draws: tuple[tuple[str, int], ...], shortfall: int) -> Expected:
        first = run not in self.failed
        self.failed.add(run)
        return Expected("insufficient", draws, shortfall, first)

    def _give_back(self, name: str, amount: int, now: datetime, policy: str) -> bool:
        """Give credits back, and tell whether the grant or its one grace still takes them."""
        if name not in self.held:
            made = self.made[name]
            is_over = made.expires_at <= now
            expires_at = made.expires_at + GRACE[policy] if is_over else made.expires_at
            if expires_at <= now:
                return False
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
