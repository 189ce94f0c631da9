"""An account: a principal's grants, plan and newest ledger page, on one row.

Balances are computed only here.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import date, datetime

from msgspec import Struct

from agent_credits.ledger.entries import NO_RESERVATION, Entry, Page, PoolBalance
from agent_credits.ledger.grants import Grant, drawing_order
from agent_credits.ledger.limits import COUNTS_MAX, LimitCount, LimitKey, count_of, held_until
from agent_credits.ledger.reloads import Reload
from agent_credits.ledger.reservations import (
    RESERVATIONS_MAX,
    TREE_DEPTH_MAX,
    Reservation,
    line_up,
    parents_of,
)
from agent_credits.ledger.shared_pools import is_shared_grant
from agent_credits.ledger.thresholds import LowCredits
from agent_credits.values.errors import require
from agent_credits.values.principals import Principal

# A page is full at this many entries, or at this much identifier text, the part of an entry that
# does not compress. A quiet account's row then stays below 1 KB, one write unit. A full page costs
# one write more than its receipts, so a page of five entries costs 2.2 units per event and a page
# of eight 2.125. The commit that fills a page records so on the row, because workers of different
# versions may have different bounds: one could flush a page that another still adds to.
PAGE_ENTRIES_FULL = 8
PAGE_IDENTIFIER_BYTES_FULL = 360

# What a reservation takes of the row, in the same measure. Room is made for a few: a page of four
# entries costs 2.25 units an event, one of three 2.33, and a row of 2 KB costs 3.
RESERVATION_BYTES = 80
FACTS_BYTES = 25
ROOM_FOR_RESERVATIONS_MAX = 2

# Runs that ended in a platform error are remembered, so that their late usage is waived. Each takes
# 16 bytes of the row, so an account with so many pays for 16 KB more a commit, and one without any
# pays nothing. Of more within a day the oldest are forgotten, and their late usage is charged.
ERRORED_RUNS_MAX = 1_000
# 96 bits: no two of a thousand runs are taken for one another.
RUN_HASH_BYTES = 12

# More than any team's limit of reloads counts. A reload before its window never matters.
RELOADS_REMEMBERED_MAX = 20


class PlanSubscription(Struct, frozen=True):
    """The plan that refills the account; `refilled_from` is the start of the last such period."""

    name: str
    pool: str
    microcredits: int
    anchor: date
    refilled_from: date | None = None

    def refills_one_of(self, pools: Iterable[str]) -> bool:
        return self.microcredits > 0 and self.pool in pools


class ErroredRun(Struct, frozen=True):
    """A run by a hash of its id, which is shorter than most ids and of one length."""

    run_hash: bytes
    ended_at: datetime


def run_hash(run_id: str) -> bytes:
    return hashlib.sha256(run_id.encode()).digest()[:RUN_HASH_BYTES]


class Account(Struct, frozen=True):
    """The account row. `version` counts its commits and is zero for a new account."""

    principal: Principal
    version: int = 0
    grants: tuple[Grant, ...] = ()
    plan: PlanSubscription | None = None
    errored_runs: tuple[ErroredRun, ...] = ()
    # The newest reload while it is under way or its decline holds; when the last ones succeeded.
    reload: Reload | None = None
    reloaded_at: tuple[datetime, ...] = ()
    # A run has failed, and no credits have come since.
    is_exhausted: bool = False
    # Set while it is below one of its team's thresholds; see `low_credits`.
    low: LowCredits | None = None
    # The live ones, oldest first. What they hold is not in what their grants hold.
    reservations: tuple[Reservation, ...] = ()
    # Of the limits that its runs drew or reserved under, in the period of each.
    limit_counts: tuple[LimitCount, ...] = ()
    page_number: int = 1
    entries: tuple[Entry, ...] = ()
    # A full page never grows again.
    page_is_full: bool = False

    @property
    def page(self) -> Page:
        return Page(self.principal, self.page_number, self.entries)


def fills_page(entries: Sequence[Entry], reservations: int = 0) -> bool:
    """Return whether a page of these entries is full, on a row with so many reservations.

    Few reservations leave less room below 1 KB; of many, the row is larger whatever its page is.
    """
    identities = [entry.identity for entry in entries]
    identifier_bytes = sum(len(i.subject) + len(i.id) for i in identities)
    # What a request or an end says of its reservation; usage has its draws anyway.
    identifier_bytes += FACTS_BYTES * sum(
        e.reservation is not NO_RESERVATION and not e.draws for e in entries
    )
    if reservations <= ROOM_FOR_RESERVATIONS_MAX:
        identifier_bytes += reservations * RESERVATION_BYTES
    return len(identities) >= PAGE_ENTRIES_FULL or identifier_bytes >= PAGE_IDENTIFIER_BYTES_FULL


def pool_balances(account: Account, pools: Iterable[str], now: datetime) -> tuple[PoolBalance, ...]:
    """Return what anyone can draw from each pool at `now`, in the order of `pools`.

    What a live reservation holds is not available; what an expired one still holds is.
    """
    came_back: dict[str, int] = {}
    for reservation in account.reservations:
        if not reservation.is_live(now):
            for part in reservation.parts:
                came_back[part.grant_id] = came_back.get(part.grant_id, 0) + part.microcredits
    return tuple(
        PoolBalance(
            pool,
            sum(
                grant.remaining_microcredits + came_back.get(grant.id, 0)
                for grant in drawing_order(account.grants, (pool,))
                if grant.is_live(now)
            ),
        )
        for pool in pools
    )


def available_microcredits(account: Account, pools: Iterable[str], now: datetime) -> int:
    """Return what can be drawn from the pools together at `now`."""
    return total_microcredits(pool_balances(account, pools, now))


def reserved_balances(
    account: Account, pools: Iterable[str], now: datetime
) -> tuple[PoolBalance, ...]:
    """Return what live reservations hold of each pool at `now`, in the order of `pools`."""
    held: dict[str, int] = dict.fromkeys(pools, 0)
    for reservation in account.reservations:
        if reservation.is_live(now):
            for part in reservation.parts:
                if part.pool in held:
                    held[part.pool] += part.microcredits
    return tuple(PoolBalance(pool, microcredits) for pool, microcredits in held.items())


def reserved_microcredits(account: Account, pools: Iterable[str], now: datetime) -> int:
    """Return what live reservations hold of the pools together at `now`."""
    return total_microcredits(reserved_balances(account, pools, now))


def reserved_by_grant(account: Account, now: datetime) -> dict[str, int]:
    """Return what live reservations hold at `now` of each grant that they hold a part of."""
    held: dict[str, int] = {}
    for reservation in account.reservations:
        if reservation.is_live(now):
            for part in reservation.parts:
                held[part.grant_id] = held.get(part.grant_id, 0) + part.microcredits
    return held


def unburned_microcredits(account: Account, pools: Iterable[str], now: datetime) -> int:
    """Return what is available and what is reserved together: what was not drawn yet."""
    order = tuple(pools)
    available = available_microcredits(account, order, now)
    return available + reserved_microcredits(account, order, now)


def total_microcredits(balances: Iterable[PoolBalance]) -> int:
    """Return the sum of these balances."""
    return sum(balance.available_microcredits for balance in balances)


def held_grant_ids(account: Account) -> frozenset[str]:
    """Return the grants that a reservation holds parts of. They stay on the row."""
    return frozenset(part.grant_id for held in account.reservations for part in held.parts)


def held_under(account: Account, key: LimitKey) -> dict[datetime, int]:
    """Return what reservations hold under a limit, by the time until which it counts.

    What a run was given by its parent goes back to it. So it counts under the limits of its whole
    line of parents, and as long as the topmost of them that counts under this one.
    """
    if not any(key in reservation.limits for reservation in account.reservations):
        return {}
    by_run = {reservation.run_id: reservation for reservation in account.reservations}
    parents = parents_of(account.reservations)
    held: dict[datetime, int] = {}
    for reservation in account.reservations:
        line = [by_run[run] for run in line_up(parents, reservation.run_id)]
        counting = [above for above in line if key in above.limits]
        if counting and reservation.parts:
            until = held_until(counting[-1].expires_at)
            held[until] = held.get(until, 0) + reservation.left_microcredits
    return held


def held_on_limit_row(account: Account, key: LimitKey) -> dict[datetime, int]:
    """Return what of it is on the limit's own row: nothing while the limit spans no accounts."""
    count = count_of(account.limit_counts, key)
    return held_under(account, key) if count is not None and count.spans_accounts else {}


def check_account(account: Account) -> None:
    """Raise `InvariantViolated` if no sequence of commits could have made this row."""
    ids = [grant.id for grant in account.grants]
    require(len(set(ids)) == len(ids), "a grant stands on the row once")
    reserved = _checked_reservations(account)
    for grant in account.grants:
        require(grant.remaining_microcredits >= 0, "no grant is below zero")
        require(
            grant.remaining_microcredits + reserved.pop(grant.id, 0) <= grant.amount_microcredits,
            "no grant holds more than was granted",
        )
    own = [grant_id for grant_id in reserved if not is_shared_grant(grant_id)]
    require(not own, "a reservation holds parts of grants on its row only")
    lent = [grant for grant in account.grants if is_shared_grant(grant.id)]
    require(not lent, "the grants of a team stand on the team's row")
    _check_limit_counts(account)
    identities = [entry.identity for entry in account.entries]
    require(len(set(identities)) == len(identities), "an event stands on the page once")
    require(len(identities) > 0, "a commit records an entry")


def _check_limit_counts(account: Account) -> None:
    counts = account.limit_counts
    keys = {count.key for count in counts}
    require(len(counts) <= COUNTS_MAX, "an account counts bounded limits")
    require(len(keys) == len(counts), "a limit is counted once")
    require(all(c.drawn_microcredits >= 0 for c in counts), "no more comes back than was drawn")
    for reservation in account.reservations:
        require(keys.issuperset(reservation.limits), "what a reservation holds is counted")


def _checked_reservations(account: Account) -> dict[str, int]:
    """Check the reservations; return what they hold of each grant."""
    if not account.reservations:
        return {}
    require(len(account.reservations) <= RESERVATIONS_MAX, "an account holds bounded reservations")
    by_run = {reservation.run_id: reservation for reservation in account.reservations}
    require(len(by_run) == len(account.reservations), "a run holds one reservation")
    parents = parents_of(account.reservations)
    reserved: dict[str, int] = {}
    left_of_tree: dict[str, int] = {}
    for reservation in account.reservations:
        root = by_run[line_up(parents, reservation.run_id)[-1]]
        held = left_of_tree.get(root.run_id, 0)
        left_of_tree[root.run_id] = held + reservation.left_microcredits
        for part in reservation.parts:
            require(part.microcredits > 0, "a reservation holds no empty part")
            reserved[part.grant_id] = reserved.get(part.grant_id, 0) + part.microcredits
        parent = reservation.parent_run_id
        if parent is not None:
            require(parent in by_run, "a parent that ends closes its children")
            ends_first = reservation.expires_at <= by_run[parent].expires_at
            require(ends_first, "a reservation does not outlive its parent's")
            require(root.parent_run_id is None, f"a tree is at most {TREE_DEPTH_MAX} deep")
    for run_id, left in left_of_tree.items():
        _check_tree(by_run[run_id], left)
    return reserved


def _check_tree(root: Reservation, left_microcredits: int) -> None:
    """Check that a tree drew what its root was given, and at most the grace beside it."""
    given = root.reserved_microcredits + root.overdrawn_microcredits
    require(
        left_microcredits + root.drawn_microcredits == given,
        "what a tree was given is held or drawn",
    )
    may_finish = root.terms.overrun == "finish"
    within_grace = root.overdrawn_microcredits <= root.terms.grace_microcredits
    require(may_finish or within_grace, "a tree draws at most its grace past what it was given")
