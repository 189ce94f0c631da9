"""A purchase by hand counts towards the same cap as reloads: reserve, grant, settle.

Each step is idempotent on the grant's id: after a crash the same purchase is made again and goes on
from where it was broken off. Until then its head-room stays reserved, so the cap holds.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from agent_credits.billing.spend_cap import (
    CapReservation,
    PaymentMethod,
    Spending,
    give_up,
    month_to_reserve_in,
    reserve,
    settle,
)
from agent_credits.billing.teams import Team
from agent_credits.commit.changes import Conflicting, GrantChange, Recorded
from agent_credits.commit.rows import Rows, TeamRows
from agent_credits.commit.team_changes import change_team, read_team
from agent_credits.commit.write_protocol import ATTEMPTS_MAX, Pause, commit
from agent_credits.values.errors import Contended


class PurchaseRows(Rows, TeamRows, Protocol):
    """The rows that a purchase changes: the account's and the team's."""


class Purchase(Struct, frozen=True):
    """A grant to the account, and what it costs the team; money in minor units."""

    team_id: str
    grant: GrantChange
    price_cents: int
    currency: str

    @property
    def id(self) -> str:
        return f"purchase:{self.grant.principal}:{self.grant.grant_id}"


class Bought(Struct, frozen=True):
    """The credits are granted, now or by an earlier try, and the money is counted once."""

    is_new: bool


class NotBought(Struct, frozen=True):
    """Nothing was bought: the cap leaves only this much, or the grant's id has other terms."""

    head_room_cents: int
    has_other_terms: bool = False


def buy(rows: PurchaseRows, purchase: Purchase, now: datetime, pause: Pause) -> Bought | NotBought:
    """Buy once, however often it is asked for. Raises what `commit` and `change_team` raise."""
    reserved = _reserve(rows, purchase, now, pause)
    if not isinstance(reserved, CapReservation):
        return reserved
    committed = commit(rows, purchase.grant.principal, [purchase.grant], now=now, pause=pause)
    (result,) = committed.results
    if isinstance(result, Conflicting):
        team = _change(rows, purchase, pause, lambda t: give_up(t.spending, purchase.id, None))
        return NotBought(_head_room(team, now), has_other_terms=True)
    _change(
        rows, purchase, pause, lambda t: settle(t.spending, purchase.id, t.spend_cap_cents, now)
    )
    return Bought(isinstance(result, Recorded))


def _reserve(
    rows: PurchaseRows, purchase: Purchase, now: datetime, pause: Pause
) -> CapReservation | Bought | NotBought:
    """Hold the head-room, unless the purchase was made before.

    The team's row is read before the account, and written only as it was read, as a reload does: a
    purchase that another operator settled meanwhile is then not counted a second time.
    """
    for attempt in range(ATTEMPTS_MAX):
        team = read_team(rows, purchase.team_id)
        held = team.spending.reservation(purchase.id)
        if held is not None:
            return held
        if _is_granted(rows, purchase):
            return Bought(is_new=False)
        wanted = _reservation(purchase, team, now)
        spending = reserve(team.spending, wanted, team.spend_cap_cents)
        if spending is None:
            return NotBought(_head_room(team, now))
        changed = {"spending": spending, "version": team.version + 1}
        if rows.compare_and_set_team(team.model_copy(update=changed)) is None:
            return wanted
        pause(attempt + 1)
    raise Contended(f"team {purchase.team_id}: lost {ATTEMPTS_MAX} races", ATTEMPTS_MAX)


def _reservation(purchase: Purchase, team: Team, now: datetime) -> CapReservation:
    return CapReservation(
        purchase_id=purchase.id,
        principal=str(purchase.grant.principal),
        month=month_to_reserve_in(team.spending, now, team.time_zone),
        packs=1,
        pool=purchase.grant.pool,
        microcredits=purchase.grant.microcredits,
        price_cents=purchase.price_cents,
        currency=purchase.currency,
        method=PaymentMethod(provider="invoice"),
        reserved_at=now,
        deadline=now,
    )


def _is_granted(rows: PurchaseRows, purchase: Purchase) -> bool:
    account = rows.read_account(purchase.grant.principal)
    identity = purchase.grant.identity
    on_page = account is not None and any(e.identity == identity for e in account.entries)
    return on_page or identity in rows.read_receipts([identity])


def _change(
    rows: PurchaseRows, purchase: Purchase, pause: Pause, change: Callable[[Team], Spending]
) -> Team:
    def changed(team: Team) -> Team:
        return team.model_copy(update={"spending": change(team)})

    return change_team(rows, purchase.team_id, changed, pause)


def _head_room(team: Team, now: datetime) -> int:
    month = month_to_reserve_in(team.spending, now, team.time_zone)
    return team.spending.head_room(team.spend_cap_cents, month)
