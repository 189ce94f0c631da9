"""An account: a principal's grants, plan and newest ledger page, on one row.

Balances are computed only here.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import date, datetime

from msgspec import Struct

from agent_credits.ledger.entries import Entry, Page, PoolBalance
from agent_credits.ledger.grants import Grant, drawing_order
from agent_credits.ledger.reloads import Reload
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
    page_number: int = 1
    entries: tuple[Entry, ...] = ()
    # A full page never grows again.
    page_is_full: bool = False

    @property
    def page(self) -> Page:
        return Page(self.principal, self.page_number, self.entries)


def fills_page(entries: Sequence[Entry]) -> bool:
    """Return whether a page of these entries is full."""
    identities = [entry.identity for entry in entries]
    identifier_bytes = sum(len(i.subject) + len(i.id) for i in identities)
    return len(identities) >= PAGE_ENTRIES_FULL or identifier_bytes >= PAGE_IDENTIFIER_BYTES_FULL


def pool_balances(account: Account, pools: Iterable[str], now: datetime) -> tuple[PoolBalance, ...]:
    """Return what can be drawn from each pool at `now`, in the order of `pools`."""
    return tuple(
        PoolBalance(
            pool,
            sum(
                grant.remaining_microcredits
                for grant in drawing_order(account.grants, (pool,))
                if grant.is_live(now)
            ),
        )
        for pool in pools
    )


def available_microcredits(account: Account, pools: Iterable[str], now: datetime) -> int:
    """Return what can be drawn from the pools together at `now`."""
    return total_microcredits(pool_balances(account, pools, now))


def total_microcredits(balances: Iterable[PoolBalance]) -> int:
    """Return the sum of these balances."""
    return sum(balance.available_microcredits for balance in balances)


def check_account(account: Account) -> None:
    """Raise `InvariantViolated` if no sequence of commits could have made this row."""
    ids = [grant.id for grant in account.grants]
    require(len(set(ids)) == len(ids), "a grant stands on the row once")
    for grant in account.grants:
        require(grant.remaining_microcredits >= 0, "no grant is below zero")
        require(
            grant.remaining_microcredits <= grant.amount_microcredits,
            "no grant holds more than was granted",
        )
    identities = [entry.identity for entry in account.entries]
    require(len(set(identities)) == len(identities), "an event stands on the page once")
    require(len(identities) > 0, "a commit records an entry")
