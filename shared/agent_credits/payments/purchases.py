"""A manual purchase counts towards the same cap as a reload: reserve, grant, settle.

Each step is idempotent on the grant's id: after a crash, making the same purchase again continues
with the step that was interrupted. Until then its head-room stays reserved, so the cap holds.
"""

from datetime import datetime
from typing import Literal, Protocol

from msgspec import Struct

from agent_credits.billing.payers import may_pay
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


NotBoughtCause = Literal[
    "spend_cap_reached",  # the cap leaves less than the price
    "other_terms",  # the grant's id was granted already, with another pool, amount or cause
    "other_currency",  # the price is not in the team's currency, which its cap counts
    "not_a_payer",  # no run of the team is billed to the account
]


class NotBought(Struct, frozen=True):
    """Nothing was bought. `head_room_cents` is what the cap leaves."""

    cause: NotBoughtCause
    team: Team
    head_room_cents: int


def buy(
    rows: PurchaseRows, purchase: ManualPurchase, now: datetime, pause: Pause
) -> Bought | NotBought:
    """Buy once, however often it is called. Raises what `commit` and `change_team` raise."""

    def price(team: Team) -> CapReservation | NotBoughtCause | None:
        if _is_granted(rows, purchase):
            return None
        if purchase.currency != team.currency:
            return "other_currency"
        if not may_pay(purchase.grant.principal, team, now):
            return "not_a_payer"
        return _reservation(purchase, team, now)

    team_id = purchase.team_id
    reserved: CapReservation | NotReserved[NotBoughtCause] = reserve_head_room(
        rows, team_id, purchase.id, price, pause
    )
    if isinstance(reserved, NotReserved):
        if reserved.cause is None:
            return Bought(is_new=False)
        return _not_bought(reserved.cause, reserved.team, now)
    principal = purchase.grant.principal
    committed = commit(
        rows,
        principal,
        [purchase.grant],
        now=now,
        pause=pause,
        # The account of a team whose pools its members draw has no plan that would open it.
        opens_account=principal.kind == "team",
    )
    (result,) = committed.results
    if isinstance(result, Conflicting):
        team = change_spending(
            rows, team_id, lambda t: give_up(t.spending, purchase.id, None), pause
        )
        return _not_bought("other_terms", team, now)
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


def _not_bought(cause: NotBoughtCause, team: Team, now: datetime) -> NotBought:
    month = month_to_reserve_in(team.spending, now, team.time_zone)
    return NotBought(cause, team, team.spending.head_room(team.spend_cap_cents, month))
