"""`POST /v1/teams/{team_id}/purchases`: packs, paid as the team pays, under its spend cap.

The API reserves head-room under the cap and asks for the payment; it charges nothing itself. What
carries reloads out carries the purchase out as well: it pays, grants and settles, each step safe to
repeat, and finds the reservation if anything stops in between.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Literal

from msgspec import Struct
from pydantic import Field

from agent_credits.api.accounts import bills
from agent_credits.api.audit import AuditChange, AuditEntry, Auditor
from agent_credits.api.fields import Answer, Credits, CreditsIn, TimeOut
from agent_credits.api.problems import Refused, invalid
from agent_credits.api.rows import ApiRows
from agent_credits.api.settings import AuditedTeams
from agent_credits.billing.payers import pools_of
from agent_credits.billing.spend_cap import (
    RESERVATIONS_MAX,
    CapReservation,
    month_to_reserve_in,
)
from agent_credits.billing.teams import Team
from agent_credits.commit.write_protocol import Pause
from agent_credits.ledger.entries import Entry, reload_identity
from agent_credits.ledger.grants import RELOAD_PREFIX
from agent_credits.ledger.reloads import RELOAD_DEADLINE, DeclineCause, ReloadRequest
from agent_credits.payments.head_room import NotReserved, reserve_head_room
from agent_credits.values.credits import format_credits
from agent_credits.values.display import money_text
from agent_credits.values.identifiers import PoolName, PrincipalText
from agent_credits.values.principals import Principal
from agent_credits.values.strict import Strict

PACKS_MAX: Final = 1_000
POOL_DEFAULT: Final = "add_on"


class PurchaseBody(Strict):
    """Packs for an account. `price_cents`: what the buyer agreed to pay for all of them."""

    principal: PrincipalText
    pack_credits: CreditsIn
    packs: int = Field(default=1, ge=1, le=PACKS_MAX)
    pool: PoolName = POOL_DEFAULT
    price_cents: int | None = Field(default=None, ge=0)


class PurchaseAnswer(Answer):
    """`pending` until the payment has ended; then `granted` or `declined`, for ever."""

    purchase_id: str
    team_id: str
    principal: str
    state: Literal["pending", "granted", "declined"]
    cause: DeclineCause | None = None
    pool: str | None
    credits: Credits | None
    packs: int | None
    price_cents: int | None
    currency: str | None
    since: TimeOut


class Purchased(Struct, frozen=True):
    answer: PurchaseAnswer
    status: int


Refusal = Literal[
    "payment_method_missing",
    "suspended",
    "no_such_pack",
    "not_a_payer",
    "pool_not_drawn",
    "under_way",
    "too_many",
    "other_price",
]


class Purchases:
    """`ask` sends the request that has the purchase paid for."""

    def __init__(self, rows: ApiRows, ask: Callable[[ReloadRequest], None], pause: Pause) -> None:
        self._rows = rows
        self._ask = ask
        self._pause = pause

    def buy(
        self, team_id: str, body: PurchaseBody, key: str, auditor: Auditor, now: datetime
    ) -> Purchased:
        """Buy once per key, however often it is called. Raises `Refused`."""
        purchase_id = purchase_id_of(team_id, key)

        def price(team: Team) -> CapReservation | Refusal | None:
            if self._ended(body.principal, purchase_id) is not None:
                return None
            return self._priced(team, body, purchase_id, now)

        def entry_of(_: Team, after: Team) -> AuditEntry:
            held = after.spending.reservation(purchase_id)
            bought = AuditChange(field="purchase", after=_bought(held) if held else None)
            return auditor.entry(team_id, after.audits, "purchase.made", (bought,))

        reserved: CapReservation | NotReserved[Refusal] = reserve_head_room(
            AuditedTeams(self._rows, entry_of), team_id, purchase_id, price, self._pause
        )
        if isinstance(reserved, NotReserved):
            if reserved.cause is not None:
                raise _refused(reserved.cause, reserved.team, now)
            return Purchased(self.found(team_id, body.principal, key, body), 200)
        _require_same(reserved, body)
        self._ask(ReloadRequest(purchase_id, team_id, body.principal))
        return Purchased(_pending(team_id, reserved), 202)

    def found(
        self, team_id: str, principal: Principal, key: str, same_as: PurchaseBody | None = None
    ) -> PurchaseAnswer:
        """Return what became of a purchase. Raises `Refused` if there is none."""
        purchase_id = purchase_id_of(team_id, key)
        team = self._rows.read_team(team_id)
        held = team.spending.reservation(purchase_id) if team else None
        entry = self._ended(principal, purchase_id)
        if entry is not None:
            return _ended_answer(team_id, principal, purchase_id, entry, same_as)
        if held is None or held.principal != str(principal):
            raise Refused("purchase_not_found", "the account has no purchase of this ID")
        return _pending(team_id, held)

    def _priced(
        self, team: Team, body: PurchaseBody, purchase_id: str, now: datetime
    ) -> CapReservation | Refusal:
        method, spending = team.payment, team.spending
        if method is None:
            return "payment_method_missing"
        if spending.suspended_payment_method == method.name:
            return "suspended"
        policy = self._rows.read_policy(team.settings_policy_version)
        pack = policy.pack_of(body.pack_credits, team.currency) if policy else None
        if policy is None or pack is None:
            return "no_such_pack"
        if not bills(team, body.principal, now):
            return "not_a_payer"
        if body.pool not in pools_of(body.principal, policy):
            return "pool_not_drawn"
        price_cents = body.packs * pack.price_cents
        if body.price_cents is not None and body.price_cents != price_cents:
            return "other_price"
        # One payment at a time for an account, as for reloads.
        if any(r.is_reload and r.principal == str(body.principal) for r in spending.reservations):
            return "under_way"
        if len(spending.reservations) >= RESERVATIONS_MAX:
            return "too_many"
        return CapReservation(
            purchase_id=purchase_id,
            principal=str(body.principal),
            month=month_to_reserve_in(spending, now, team.time_zone),
            packs=body.packs,
            pool=body.pool,
            microcredits=body.packs * pack.microcredits,
            price_cents=price_cents,
            currency=pack.currency,
            method=method,
            reserved_at=now,
            deadline=now + RELOAD_DEADLINE,
        )

    def _ended(self, principal: Principal, purchase_id: str) -> Entry | None:
        """Return the entry that ended the purchase: its grant, or why there is none."""
        account = self._rows.read_account(principal)
        wanted = [
            reload_identity(principal, purchase_id),
            reload_identity(principal, f"{purchase_id}:declined"),
        ]
        on_page = [e for e in account.entries if e.identity in wanted] if account else []
        receipts = self._rows.read_receipts(wanted)
        found = {r.entry.identity: r.entry for r in receipts.values()}
        found |= {entry.identity: entry for entry in on_page}
        # What was paid for late is granted even after it counted as declined.
        return next((found[identity] for identity in wanted if identity in found), None)


def purchase_id_of(team_id: str, key: str) -> str:
    """Return the purchase's id. No reload has one of this form."""
    return f"{RELOAD_PREFIX}purchase:{team_id}:{key}"


def _bought(held: CapReservation) -> dict[str, Any]:
    return {
        "purchase_id": held.purchase_id,
        "principal": held.principal,
        "pool": held.pool,
        "packs": held.packs,
        "credits": format_credits(held.microcredits),
        "price_cents": held.price_cents,
        "currency": held.currency,
        "payment": held.method.name,
    }


def _pending(team_id: str, held: CapReservation) -> PurchaseAnswer:
    return PurchaseAnswer(
        purchase_id=held.purchase_id,
        team_id=team_id,
        principal=held.principal,
        state="pending",
        pool=held.pool,
        credits=held.microcredits,
        packs=held.packs,
        price_cents=held.price_cents,
        currency=held.currency,
        since=held.reserved_at,
    )


def _ended_answer(
    team_id: str,
    principal: Principal,
    purchase_id: str,
    entry: Entry,
    same_as: PurchaseBody | None,
) -> PurchaseAnswer:
    grant, reload = entry.grant, entry.reload
    is_granted = grant is not None and reload is not None
    if same_as is not None and grant is not None:
        _require_equal(
            (same_as.pool, same_as.packs * same_as.pack_credits),
            (grant.pool, grant.amount_microcredits),
        )
    return PurchaseAnswer(
        purchase_id=purchase_id,
        team_id=team_id,
        principal=str(principal),
        state="granted" if is_granted else "declined",
        cause=entry.decline,
        pool=grant.pool if grant else None,
        credits=grant.amount_microcredits if grant else None,
        packs=reload.packs if reload and is_granted else None,
        price_cents=reload.price_cents if reload and is_granted else None,
        currency=reload.currency if reload and is_granted else None,
        since=entry.recorded_at,
    )


def _require_same(held: CapReservation, body: PurchaseBody) -> None:
    _require_equal(
        (str(body.principal), body.pool, body.packs, body.packs * body.pack_credits),
        (held.principal, held.pool, held.packs, held.microcredits),
    )


def _require_equal(asked: object, recorded: object) -> None:
    if asked != recorded:
        raise Refused("conflicting", "another purchase was made under this Idempotency-Key")


def _refused(cause: Refusal | Literal["spend_cap_reached"], team: Team, now: datetime) -> Refused:
    match cause:
        case "spend_cap_reached":
            month = month_to_reserve_in(team.spending, now, team.time_zone)
            left = team.spending.head_room(team.spend_cap_cents, month)
            return Refused(
                "spend_cap_reached",
                f"the cap leaves {money_text(left, team.currency)} in {month}",
                extensions={"head_room_cents": left, "currency": team.currency},
            )
        case "payment_method_missing" | "suspended":
            said = {
                "payment_method_missing": "the team has no payment method",
                "suspended": "the payment method was declined too often; change it",
            }
            return Refused("purchase_declined", said[cause], extensions={"cause": cause})
        case "under_way" | "too_many":
            return Refused(
                "purchase_under_way",
                "another payment is under way; repeat the request when it has ended",
                headers={"Retry-After": "15"},
            )
        case "other_price":
            return Refused("settings_changed", "the price is another one now; read the team again")
        case "no_such_pack":
            return invalid("pack_credits", "is no pack that is for sale")
        case "not_a_payer":
            return invalid("principal", "pays for no run of the team")
        case "pool_not_drawn":
            return invalid("pool", "is drawn by no run that the account pays for")
