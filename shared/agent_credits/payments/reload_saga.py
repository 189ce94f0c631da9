"""The reload saga: reserve, charge, grant, settle. Each step is idempotent on the reload's id.

    1 reserve   head-room on the team's row, by compare-and-set, before a card is touched
    2 charge    create the payment, store its id on the reservation, then confirm it
    3 grant     the credits to the account, by the write protocol, under the reload's id
    4 settle    the reservation

After a crash, the rows say how far the reload came, and the message is delivered again. A declined
payment declines the reload and releases the reservation. While the outcome is unknown, the
reservation stays; it is resolved by asking the payment provider about the payment that it names.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import assert_never

from msgspec import Struct

from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.reload_offers import ReloadOffer, reload_offer
from agent_credits.billing.spend_cap import (
    RESERVATIONS_MAX,
    CapReservation,
    Spending,
    fence,
    give_up,
    month_end,
    release,
    settle,
    with_payment,
)
from agent_credits.billing.teams import Team
from agent_credits.commit.changes import ReloadDeclined, ReloadGranted
from agent_credits.commit.rows import Rows, TeamRows
from agent_credits.commit.team_changes import read_team
from agent_credits.commit.write_protocol import Pause, commit
from agent_credits.ledger.accounts import Account, available_microcredits
from agent_credits.ledger.reloads import DeclineCause, ReloadRequest, hold_after, packs_to_close
from agent_credits.payments.head_room import NotReserved, change_spending, reserve_head_room
from agent_credits.payments.port import (
    Canceled,
    Charge,
    Declined,
    Paid,
    PaymentProviderName,
    Payments,
    PaymentState,
    PaymentUnavailable,
    Unresolved,
)
from agent_credits.values.errors import Contended, PolicyMissing
from agent_credits.values.principals import Principal


class Granted(Struct, frozen=True):
    reservation: CapReservation


class NotGranted(Struct, frozen=True):
    cause: DeclineCause


class Open(Struct, frozen=True):
    """The payment's outcome is unknown; ask again until it is known.

    After the deadline the reload is declined, and the decline gives rise to a follow-up request.
    The request itself is then done, so that the team's other reloads need not wait for it.
    """

    reservation: CapReservation
    reason: str
    is_followed_up: bool


class NeverMade(Struct, frozen=True):
    """The deadline passed before a payment was created: nothing was or will be charged."""


class CapLowered(Struct, frozen=True):
    """The cap was lowered below what is reserved, so the payment was canceled, not confirmed."""

    payment_id: str


class Stale(Struct, frozen=True):
    """No action is needed: the reload has ended, or the account now asks for another one."""


Resolution = Granted | NotGranted | Open | Stale


class ReloadSaga:
    """Carries out reload requests. `payments` maps a payment provider's name to its adapter."""

    def __init__(
        self,
        rows: Rows,
        teams: TeamRows,
        payments: Mapping[PaymentProviderName, Payments],
        pause: Pause,
    ) -> None:
        self._rows = rows
        self._teams = teams
        self._payments = payments
        self._pause = pause

    def resolve(self, request: ReloadRequest, now: datetime) -> Resolution:
        """Take the reload as far as it can go now; safe to repeat, at once or much later."""
        team = read_team(self._teams, request.team_id)
        held = team.spending.reservation(request.reload_id)
        if held is None:
            self._resolve_earlier(request, team, now)
            found = self._reserve(request, now)
            if not isinstance(found, CapReservation):
                held = self._reserved_meanwhile(request)
                return self._charge(request, held, now) if held else found
            held = found
        return self._charge(request, held, now)

    def _resolve_earlier(self, request: ReloadRequest, team: Team, now: datetime) -> None:
        """End an earlier reload of this account that was left open, if that is possible now."""
        earlier = _open_reload(team.spending, request.principal)
        if earlier is not None:
            left_open = ReloadRequest(earlier.purchase_id, request.team_id, request.principal)
            self._charge(left_open, earlier, now)

    def _reserve(
        self, request: ReloadRequest, now: datetime
    ) -> CapReservation | NotGranted | Stale:
        """Reserve head-room for as many packs as are needed, or as the cap affords."""

        def price(team: Team) -> CapReservation | DeclineCause | None:
            account = self._rows.read_account(request.principal)
            if account is None or not _asks_for(account, request):
                return None
            return self._priced(request, team, account, now)

        reserved: CapReservation | NotReserved[DeclineCause] = reserve_head_room(
            self._teams, request.team_id, request.reload_id, price, self._pause
        )
        if isinstance(reserved, CapReservation):
            return reserved
        if reserved.cause is None:
            return Stale()
        return self._decline(request, reserved.cause, reserved.team, now)

    def _priced(
        self, request: ReloadRequest, team: Team, account: Account, now: datetime
    ) -> CapReservation | DeclineCause:
        reload = account.reload
        if reload is None or reload.until is None or now >= reload.until:
            # The events that waited have failed by now; nobody expects a charge any more.
            return "payment_unavailable"
        offer = reload_offer(team, self._policy(team.settings_policy_version), now)
        if not isinstance(offer, ReloadOffer):
            return offer
        settings, pack = offer.settings, offer.pack
        if settings.pool not in reload.pools:
            # Settings that changed since the run was billed; it could not draw what they buy.
            return "auto_reload_not_applicable"
        if len(team.spending.reservations) >= RESERVATIONS_MAX:
            return "payment_unavailable"
        if _open_reload(team.spending, request.principal) is not None:
            return "payment_unavailable"
        packs = packs_to_close(
            available=available_microcredits(account, reload.pools, now),
            wanted=reload.wanted_microcredits,
            threshold=settings.threshold_microcredits,
            pack=pack.microcredits,
            affordable_packs=offer.affordable_packs,
        )
        if packs == 0:
            return "spend_cap_reached"
        return CapReservation(
            purchase_id=request.reload_id,
            principal=str(request.principal),
            month=offer.month,
            packs=packs,
            pool=settings.pool,
            microcredits=packs * pack.microcredits,
            price_cents=packs * pack.price_cents,
            currency=pack.currency,
            method=offer.method,
            reserved_at=now,
            deadline=reload.until,
        )

    def _reserved_meanwhile(self, request: ReloadRequest) -> CapReservation | None:
        """Return the reservation of another worker, or make sure that none can reserve any more.

        Another worker may have read the account before the reload was declined, and may crash as
        soon as it has reserved. Once the message is done, nothing would resolve its reservation.
        """

        def fenced(team: Team) -> Spending:
            is_reserved = team.spending.reservation(request.reload_id) is not None
            return team.spending if is_reserved else fence(team.spending)

        return self._change_spending(request, fenced).spending.reservation(request.reload_id)

    def _charge(self, request: ReloadRequest, held: CapReservation, now: datetime) -> Resolution:
        state = self._payment_state(request, held, now)
        match state:
            case Paid():
                self._grant(request, held, now)
                self._change_spending(
                    request, lambda t: settle(t.spending, held.purchase_id, t.spend_cap_cents, now)
                )
                return Granted(held)
            case Declined(payment_id):
                # Without an id, the payment provider made no payment at all.
                unpaid = payment_id or None
                return self._end_unpaid(
                    request,
                    "payment_declined",
                    lambda t: release(t.spending, held.purchase_id, unpaid, now),
                    now,
                )
            case Canceled() | NeverMade():
                return self._end_unpaid(
                    request,
                    "payment_unavailable",
                    lambda t: give_up(t.spending, held.purchase_id, held.payment_id),
                    now,
                )
            case CapLowered(payment_id):
                return self._end_unpaid(
                    request,
                    "spend_cap_reached",
                    lambda t: give_up(t.spending, held.purchase_id, payment_id),
                    now,
                )
            case Unresolved() | PaymentUnavailable():
                is_late = now >= held.deadline
                if is_late:
                    team = read_team(self._teams, request.team_id)
                    self._decline(request, "payment_unavailable", team, now)
                return Open(held, _why_open(state), is_followed_up=is_late)
            case _:
                assert_never(state)

    def _end_unpaid(
        self,
        request: ReloadRequest,
        cause: DeclineCause,
        give_back: Callable[[Team], Spending],
        now: datetime,
    ) -> NotGranted | Open:
        """Decline the reload, release its head-room, and look for a payment made meanwhile.

        Declined before released: after a crash in between, the reservation is still there, and the
        next attempt does both.
        """
        team = read_team(self._teams, request.team_id)
        declined = self._decline(request, cause, team, now)
        team = self._change_spending(request, give_back)
        left = team.spending.reservation(request.reload_id)
        # Another worker stored a payment meanwhile, and may have crashed: ask about that one.
        return Open(left, "a payment was made meanwhile", is_followed_up=True) if left else declined

    def _payment_state(
        self, request: ReloadRequest, held: CapReservation, now: datetime
    ) -> PaymentState | NeverMade | CapLowered | PaymentUnavailable:
        """Return the state of the one payment of this reservation, or why it is unknown.

        After the deadline no payment is created or confirmed: nobody waits for it any more, so it
        is canceled unless it was already charged. The same goes for one that a lowered cap leaves
        no room for. A cap that is lowered between this look at it and the confirmation comes too
        late: that payment is charged.
        """
        charge = Charge(
            purchase_id=held.purchase_id,
            price_cents=held.price_cents,
            currency=held.currency,
            method=held.method,
            description=f"{held.packs} x add-on credits for {request.principal}",
        )
        payments = self._payments[held.method.provider]
        try:
            payment_id = held.payment_id
            if now >= held.deadline:
                return payments.cancel(payment_id) if payment_id else NeverMade()
            if payment_id is None:
                created = payments.create(charge)
                if isinstance(created, Declined):
                    return created
                payment_id = self._stored(request, created)
            if _passes_cap(read_team(self._teams, request.team_id), held):
                ended = payments.cancel(payment_id)
                return CapLowered(payment_id) if isinstance(ended, Canceled) else ended
            return payments.confirm(payment_id)
        except PaymentUnavailable as fault:
            return fault

    def _stored(self, request: ReloadRequest, payment_id: str) -> str:
        """Store the payment's id before it is confirmed; return the one that was stored first."""
        team = self._change_spending(
            request, lambda t: with_payment(t.spending, request.reload_id, payment_id)
        )
        held = team.spending.reservation(request.reload_id)
        if held is None or held.payment_id is None:
            raise Contended(f"{request.reload_id}: resolved by another worker meanwhile", 1)
        return held.payment_id

    def _grant(self, request: ReloadRequest, held: CapReservation, now: datetime) -> None:
        granted = ReloadGranted(
            principal=request.principal,
            reload_id=held.purchase_id,
            team_id=request.team_id,
            pool=held.pool,
            microcredits=held.microcredits,
            packs=held.packs,
            price_cents=held.price_cents,
            currency=held.currency,
        )
        commit(self._rows, request.principal, [granted], now=now, pause=self._pause)

    def _decline(
        self, request: ReloadRequest, cause: DeclineCause, team: Team, now: datetime
    ) -> NotGranted:
        """Decline under the settings that were read; a later change of them lifts the decline."""
        declined = ReloadDeclined(
            principal=request.principal,
            reload_id=request.reload_id,
            team_id=request.team_id,
            cause=cause,
            until=hold_after(cause, now, month_end(now, team.time_zone)),
            settings_version=team.settings_version,
        )
        commit(self._rows, request.principal, [declined], now=now, pause=self._pause)
        return NotGranted(cause)

    def _change_spending(self, request: ReloadRequest, change: Callable[[Team], Spending]) -> Team:
        return change_spending(self._teams, request.team_id, change, self._pause)

    def _policy(self, version: str) -> BillingPolicy:
        policy = self._teams.read_policy(version)
        if policy is None:
            raise PolicyMissing(f"policy {version!r} is not applied")
        return policy


def _why_open(state: Unresolved | PaymentUnavailable) -> str:
    return str(state) if isinstance(state, PaymentUnavailable) else "still being processed"


def _passes_cap(team: Team, held: CapReservation) -> bool:
    """Tell whether what is spent and reserved passes the cap, as it can after it was lowered."""
    return team.spending.counted_in(held.month) > team.spend_cap_cents


def _asks_for(account: Account, request: ReloadRequest) -> bool:
    reload = account.reload
    return reload is not None and reload.id == request.reload_id and reload.state == "requested"


def _open_reload(spending: Spending, principal: Principal) -> CapReservation | None:
    reservations = (r for r in spending.reservations if r.is_reload)
    return next((r for r in reservations if r.principal == str(principal)), None)
