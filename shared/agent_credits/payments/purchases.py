"""A manual purchase counts towards the same cap as a reload: reserve, grant, settle.

Each step is idempotent on the grant's id: after a crash, making the same purchase again continues
with the step that was interrupted. Until then its head-room stays reserved, so the cap holds.
"""

from datetime import datetime
from typing import Protocol

from msgspec import Struct

from agent_credits.billing.spend_cap import (
    CapReservation,
    PaymentMethod,
    give_up,
    month_to_reserve_in,
    settle,
)
from agent_credits.billing.teams import Team
from agent_credits.commit.changes import Conflicting, GrantChange, Recorded
from agent_credits.commit.rows import Rows, TeamRows
from agent_credits.commit.write_protocol import Pause, commit
from agent_credits.payments.head_room import NotReserved, change_spending, reserve_head_room


class PurchaseRows(Rows, TeamRows, Protocol):
    """The rows that a purchase changes: the account's and the team's."""


class ManualPurchase(Struct, frozen=True):
    """A grant to the account, and what it costs the team; money in minor units."""

    team_id: str
    grant: GrantChange
    price_cents: int
    currency: str

    @property
    def id(self) -> str:
        return f"purchase:{self.grant.principal}:{self.grant.grant_id}"


class Bought(Struct, frozen=True):
    """The credits are granted, now or by an earlier attempt, and the money is counted once."""

    is_new: bool


class NotBought(Struct, frozen=True):
    """Nothing was bought: the cap leaves only this much, or the id was granted on other terms."""

    head_room_cents: int
    has_other_terms: bool = False


def buy(
    rows: PurchaseRows, purchase: ManualPurchase, now: datetime, pause: Pause
) -> Bought | NotBought:
    """Buy once, however often it is called. Raises what `commit` and `change_team` raise."""

    def price(team: Team) -> CapReservation | None:
        return None if _is_granted(rows, purchase) else _reservation(purchase, team, now)

    team_id = purchase.team_id
    reserved = reserve_head_room(rows, team_id, purchase.id, price, pause)
    if isinstance(reserved, NotReserved):
        if reserved.cause is None:
            return Bought(is_new=False)
        return NotBought(_head_room(reserved.team, now))
    committed = commit(rows, purchase.grant.principal, [purchase.grant], now=now, pause=pause)
    (result,) = committed.results
    if isinstance(result, Conflicting):
        team = change_spending(
            rows, team_id, lambda t: give_up(t.spending, purchase.id, None), pause
        )
        return NotBought(_head_room(team, now), has_other_terms=True)
    change_spending(
        rows, team_id, lambda t: settle(t.spending, purchase.id, t.spend_cap_cents, now), pause
    )
    return Bought(isinstance(result, Recorded))


def _reservation(purchase: ManualPurchase, team: Team, now: datetime) -> CapReservation:
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


def _is_granted(rows: PurchaseRows, purchase: ManualPurchase) -> bool:
    account = rows.read_account(purchase.grant.principal)
    identity = purchase.grant.identity
    on_page = account is not None and any(e.identity == identity for e in account.entries)
    return on_page or identity in rows.read_receipts([identity])


def _head_room(team: Team, now: datetime) -> int:
    month = month_to_reserve_in(team.spending, now, team.time_zone)
    return team.spending.head_room(team.spend_cap_cents, month)
