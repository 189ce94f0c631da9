"""When an account is notified that it is low, written down a second time, commit by commit.

Nothing of the decision is imported. What a worker knew of the team when it billed is told by its
own reads. Where there are none, or they do not agree on whether a reload can help, or one commit
bills under two policies, the row's word is taken.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from tests.simulation.reference import PACKS, POOLS, Reference

if TYPE_CHECKING:
    from agent_credits.billing.teams import Team
    from agent_credits.ledger.accounts import Account
    from agent_credits.ledger.entries import Entry
    from agent_credits.ledger.thresholds import Threshold

DECLINE_HOLDS = timedelta(minutes=10)
CREDIT = 1_000_000

# What per cent would be of now, by the pools that are looked at.
BaseOf = Callable[[tuple[str, ...]], int]


@dataclass(frozen=True)
class Knowledge:
    """What a worker went by: the team as it read it, more than once perhaps, and its clock.

    `asking`: the pools of each run that the commit may ask a reload for. `decliners`: the team of
    the account's reload, as it was read by whoever declines it.
    """

    teams: tuple["Team", ...] = ()
    billed_at: datetime | None = None
    asking: frozenset[tuple[str, ...]] = frozenset()
    decliners: tuple["Team", ...] = ()


@dataclass
class LowReference:
    """One account. `notified` and `deferred` are thresholds; `base` is what per cent are of.

    `pools` are those of the run that it was found low by.
    """

    notified: set["Threshold"] = field(default_factory=set)
    deferred: set["Threshold"] = field(default_factory=set)
    base: int | None = None
    pools: tuple[str, ...] = ()
    reloaded_at: list[datetime] = field(default_factory=list)

    def commit(
        self,
        new: "Account",
        entries: Collection["Entry"],
        base_of: BaseOf,
        known: Knowledge,
    ) -> bool:
        """Follow a commit; return whether it is to be announced."""
        now = max(entry.recorded_at for entry in entries)
        self.reloaded_at += [e.recorded_at for e in entries if e.type == "reload.granted"]
        self._recover(_left(new, self.pools, now), {e.outcome for e in entries}, base_of)
        policies = {entry.run.policy_version for entry in entries if entry.run}
        is_announced = False
        if policies and (len(policies) > 1 or not known.teams):
            return self._take_word_of(new)
        for policy in policies:
            pools = POOLS[policy][new.principal.kind]
            left = _left(new, pools, now)
            says_more = left == 0 and any(entry.fails_run for entry in entries)
            is_announced = self._fall(new, left, pools, base_of, known, now) and not says_more
        declined = {e.reload.reload_id for e in entries if e.decline and e.reload}
        if self.deferred and new.reload and new.reload.id in declined and new.reload.cause:
            self.notified |= self.deferred
            self.deferred.clear()
            is_announced = True
        if not self.notified and not self.deferred:
            self.base = None
        return is_announced

    def _take_word_of(self, new: "Account") -> bool:
        low = new.low
        self.notified, self.deferred = (
            (set(low.notified), set(low.deferred)) if low else (set(), set())
        )
        self.base = low.base_microcredits if low else None
        self.pools = low.pools if low else ()
        return low is not None and low.notified_at_version == new.version

    def _recover(self, left: int, outcomes: set[str], base_of: BaseOf) -> None:
        if self.base is None:
            return
        if "refilled" in outcomes:
            self.base = base_of(self.pools)
            self.deferred = self._above(left, self.notified | self.deferred)
            self.notified.clear()
        else:
            spare = 0 if "granted" in outcomes else self.base // 10
            self.notified = self._above(left - spare, self.notified)
            self.deferred = self._above(left, self.deferred)
        if not self.notified and not self.deferred:
            self.base = None

    def _fall(
        self,
        new: "Account",
        left: int,
        pools: tuple[str, ...],
        base_of: BaseOf,
        known: Knowledge,
        now: datetime,
    ) -> bool:
        thresholds = known.teams[-1].alerts.low
        if not thresholds:
            self.notified.clear()
            self.deferred.clear()
            return False
        if self.base is None:
            self.base = base_of(pools)
            self.pools = pools
        through = self._above(left, thresholds)
        if not through or (self.notified and self._lowest(through) >= self._lowest(self.notified)):
            self.notified |= through
            self.deferred.clear()
            return False
        self.pools = pools
        helps = {self._reload_helps(new, team, pools, known, now) for team in known.teams}
        if helps == {True, False}:
            helps = {bool(new.low and new.low.deferred)}
        if helps == {True}:
            deepest = self._lowest(self.notified) if self.notified else None
            self.deferred = {t for t in through if deepest is None or self._value(t) < deepest}
            return False
        self.notified |= through
        self.deferred.clear()
        return True

    def _reload_helps(
        self,
        new: "Account",
        team: "Team",
        pools: tuple[str, ...],
        known: Knowledge,
        now: datetime,
    ) -> bool:
        settings, reload, card = team.auto_reload, new.reload, team.payment
        if settings is None or not settings.enabled or settings.pool not in pools:
            return False
        if reload and reload.state == "requested" and reload.until:
            if now < reload.until:
                return True
            if now < reload.until + DECLINE_HOLDS:
                return False
        was_lifted = reload and team.settings_version > reload.settings_version
        if reload and reload.cause and not was_lifted and (not reload.until or now < reload.until):
            return False
        window = timedelta(minutes=settings.window_minutes)
        if sum(at > now - window for at in self.reloaded_at) >= settings.reloads_max:
            return False
        if card is None or card.name == team.spending.suspended_payment_method:
            return False
        # Sold by the newest policy, in force or to come, which the settings were declared with.
        price = PACKS[team.tenures[-1].policy_version].get(settings.pack_microcredits // CREDIT)
        if price is None:
            return False
        assert known.billed_at is not None
        month = max(_month(known.billed_at, team.time_zone), team.spending.month)
        spent = team.spending.spent_cents if team.spending.month == month else 0
        reserved = sum(r.price_cents for r in team.spending.reservations if r.month == month)
        return spent + reserved + price <= team.spend_cap_cents

    def _above(self, left: int, thresholds: Iterable["Threshold"]) -> set["Threshold"]:
        return {threshold for threshold in thresholds if left < self._value(threshold)}

    def _lowest(self, thresholds: Iterable["Threshold"]) -> int:
        return min(self._value(threshold) for threshold in thresholds)

    def _value(self, threshold: "Threshold") -> int:
        if threshold.unit == "microcredits":
            return threshold.amount
        assert self.base is not None
        # A balance is whole: it is below a fraction where it is below the next whole number.
        whole, part = divmod(self.base * threshold.amount, 100)
        return whole + (part > 0)


def base_of(
    old: "Account | None",
    new: "Account",
    in_commit: Collection[str],
    reference: Reference,
    pools: tuple[str, ...],
) -> int:
    """Return what per cent would be of now. `in_commit`: the grants while it was made, dry too."""
    made = reference.made
    there = {*in_commit, *(grant.id for grant in new.grants)}
    amount, _ = reference.plan or (0, None)
    if amount and "plan" in pools:
        refill = f"refill:{reference.refilled_from}"
        return made[refill].left if refill in there else amount
    there |= {grant.id for grant in old.grants} if old else set()
    return sum(made[name].left for name in there if made[name].pool in pools)


def _left(account: "Account", pools: tuple[str, ...], now: datetime) -> int:
    live = (
        g for g in account.grants if g.pool in pools and (not g.expires_at or g.expires_at > now)
    )
    # What is reserved may come back, so an account is not low by it.
    parts = (part for held in account.reservations for part in held.parts if part.pool in pools)
    return sum(grant.remaining_microcredits for grant in live) + sum(p.microcredits for p in parts)


def _month(at: datetime, time_zone: str) -> str:
    return at.astimezone(ZoneInfo(time_zone)).strftime("%Y-%m")
