"""Everything outside of the workers: rows, queues, topic and payment provider, kept in memory.

One method is one atomic step. What is written is shown to the invariants at that moment.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Generic, Literal, Protocol, TypeVar

from agent_credits.aws.items import (
    account_from_item,
    account_item,
    limit_row_from_item,
    limit_row_item,
    page_from_item,
    page_item,
    receipt_from_item,
    receipt_items,
)
from agent_credits.billing.spend_cap import CapReservation
from agent_credits.billing.teams import Team
from agent_credits.commit.rows import LostTogether
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity, Page, Receipt
from agent_credits.ledger.limits import LimitRow
from agent_credits.notices.announcements import (
    AccountRecord,
    LimitRecord,
    Observed,
    StreamRecord,
    TeamRecord,
)
from agent_credits.notices.observations import Observation
from agent_credits.payments.port import Canceled, Charge, Declined, Paid, PaymentState, Unresolved
from tests.memory_rows import MemoryRows
from tests.simulation.invariants import Invariants

Body = TypeVar("Body")

# For so long a provider remembers an idempotency key; this one may also ignore it altogether.
KEY_REMEMBERED_FOR = timedelta(days=1)
# When rows are written where no clock matters.
LONG_PAST = datetime(2025, 11, 21, tzinfo=UTC)


class Watch(Protocol):
    """Whoever wants to see each write at the moment at which it is done."""

    def account_committed(self, old: Account | None, new: Account) -> None: ...

    def together_committed(
        self,
        accounts: Sequence[tuple[Account | None, Account]],
        limits: Sequence[tuple[LimitRow | None, LimitRow]],
    ) -> None: ...

    def team_committed(self, old: Team | None, new: Team) -> None: ...

    def page_put(self, page: Page, there: Page | None) -> None: ...

    def receipt_put(self, receipt: Receipt, there: Receipt | None) -> None: ...

    def observation_put(self, observation: Observation) -> None: ...


class StoredRows(MemoryRows):
    """The rows as they are stored, and the change stream they give rise to."""

    def __init__(
        self,
        watch: Watch,
        *,
        checks_version: bool = True,
        checks_limits: bool = True,
        uses_codec: bool = True,
        clock: Callable[[], datetime] = lambda: LONG_PAST,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._checks_limits = checks_limits
        self.changes: list[StreamRecord] = []
        self.receipts_of_run: dict[str, dict[Identity, Receipt]] = {}
        self._watch = watch
        self._checks_version = checks_version
        self._uses_codec = uses_codec

    def compare_and_set(self, account: Account) -> Account | None:
        # A row past its ceiling is refused before anything else, as it is by the real rows.
        item = account_item(account) if self._uses_codec else None
        there = self.accounts.get(account.principal)
        if self._checks_version and (there.version if there else 0) != account.version - 1:
            return there
        # What is read later is what the item says, not what was meant.
        stored = account_from_item(item) if item else account
        self._watch.account_committed(there, stored)
        self.accounts[account.principal] = stored
        self.changes.append(AccountRecord(there, stored))
        return None

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        if self._uses_codec:
            accounts = [account_from_item(account_item(account)) for account in accounts]
            limits = [limit_row_from_item(limit_row_item(row)) for row in limits]
        lost = self.moved_since(
            accounts if self._checks_version else (), limits if self._checks_limits else ()
        )
        if lost is not None:
            return lost
        changed = [(self.accounts.get(account.principal), account) for account in accounts]
        moved = [(self.limits.get(row.key), row) for row in limits]
        self._watch.together_committed(changed, moved)
        self.accounts |= {account.principal: account for account in accounts}
        self.limits |= {row.key: row for row in limits}
        self.changes += [AccountRecord(old, new) for old, new in changed]
        self.changes += [LimitRecord(old, row, self._clock()) for old, row in moved]
        return None

    def compare_and_set_team(self, team: Team) -> Team | None:
        there = self.teams.get(team.team_id)
        if (there.version if there else 0) != team.version - 1:
            return there
        self._watch.team_committed(there, team)
        self.teams[team.team_id] = team
        self.changes.append(TeamRecord(there, team, self._clock()))
        return None

    def put_observation(self, observation: Observation, now: datetime) -> bool:
        is_new = super().put_observation(observation, now)
        if is_new:
            self._watch.observation_put(self.observation_stream[-1])
            self.changes.append(Observed(self.observation_stream[-1]))
        return is_new

    def read_run(self, run_id: str) -> Iterator[Receipt]:
        yield from list(self.receipts_of_run.get(run_id, {}).values())

    def put_page(self, page: Page) -> None:
        self.put_item(page)
        for entry in page.entries:
            self.put_item(Receipt(page.principal, page.number, entry))

    def put_item(self, item: Page | Receipt) -> None:
        """Put one item of a page, unless it is there; the batched call does so in any order."""
        if self._uses_codec:
            item = _as_stored(item)
        if isinstance(item, Page):
            self._watch.page_put(item, self.pages.get((item.principal, item.number)))
            self.pages.setdefault((item.principal, item.number), item)
            return
        identity = item.entry.identity
        self._watch.receipt_put(item, self.receipts.get(identity))
        self.receipts.setdefault(identity, item)
        if identity.realm == "RUN":
            self.receipts_of_run.setdefault(identity.subject, {}).setdefault(identity, item)


def _as_stored(item: Page | Receipt) -> Page | Receipt:
    if isinstance(item, Page):
        return page_from_item(page_item(item))
    (stored,) = receipt_items(Page(item.principal, item.page_number, (item.entry,)))
    return receipt_from_item(stored)


@dataclass(slots=True)
class Message(Generic[Body]):
    sent: Body
    group: str
    visible_at: datetime
    receives: int = 0


@dataclass
class Queue(Generic[Body]):
    """At least once, in no order; or first in, first out of each group, one at a time."""

    receives_max: int
    visibility: timedelta
    is_fifo: bool = False
    messages: dict[int, Message[Body]] = field(default_factory=dict)
    dead: dict[int, Message[Body]] = field(default_factory=dict)
    next_number: int = 0

    def send(self, sent: Body, group: str, now: datetime) -> None:
        self.messages[self.next_number] = Message(sent, group, now)
        self.next_number += 1

    def receivable(self, now: datetime) -> list[int]:
        """Return which messages could be delivered now; those received too often die here."""
        ready, groups = [], set()
        for number, message in list(self.messages.items()):
            if self.is_fifo and message.group in groups:
                continue
            groups.add(message.group)
            if message.visible_at > now:
                continue
            if message.receives >= self.receives_max:
                self.dead[number] = self.messages.pop(number)
            else:
                ready.append(number)
        return ready

    def receive(self, number: int, now: datetime, *, hides: bool = True) -> Message[Body]:
        message = self.messages[number]
        message.receives += 1
        if hides:
            message.visible_at = now + self.visibility
        return message

    def delete(self, number: int) -> None:
        # Also by a consumer whose delivery timed out long ago: the queue may well accept that.
        self.messages.pop(number, None)
        self.dead.pop(number, None)

    def return_at(self, number: int, visible_at: datetime) -> None:
        if number in self.messages:
            self.messages[number].visible_at = visible_at

    def redrive(self, now: datetime) -> int:
        """Move the dead letters back; return how many there were."""
        moved = len(self.dead)
        for number, message in self.dead.items():
            message.receives, message.visible_at = 0, now
            self.messages[number] = message
        self.dead.clear()
        return moved

    def visible_times(self) -> list[datetime]:
        return [message.visible_at for message in self.messages.values()]


@dataclass(slots=True)
class Payment:
    charge: Charge
    made_at: datetime
    state: Literal["made", "processing", "paid", "declined", "canceled"] = "made"
    settles_at: datetime | None = None


class Provider:
    """Takes cards. How a payment ends is drawn when it is confirmed first, and then stays so."""

    def __init__(self, randomness: random.Random, rows: StoredRows, invariants: Invariants) -> None:
        self._random = randomness
        self._rows = rows
        self._invariants = invariants
        self._honours_keys = randomness.random() < 0.5
        self._declines = randomness.choice((0.0, 0.1, 0.6))
        self._is_slow = randomness.choice((0.0, 0.1, 0.5))
        self._knows_no_card = randomness.choice((0.0, 0.0, 0.05, 0.3))
        self.payments: dict[str, Payment] = {}
        self._by_key: dict[str, str] = {}

    def create(self, charge: Charge, now: datetime) -> str | Declined:
        if self._random.random() < self._knows_no_card:
            # The card was removed at the provider, and may be back for another worker.
            self._invariants.declined_to_make(charge.purchase_id)
            return Declined("", "resource_missing")
        known = self._by_key.get(charge.purchase_id)
        if known and self._honours_keys and now < self.payments[known].made_at + KEY_REMEMBERED_FOR:
            return known
        payment_id = f"pi-{len(self.payments)}"
        self.payments[payment_id] = Payment(charge, now)
        self._by_key[charge.purchase_id] = payment_id
        return payment_id

    def confirm(self, payment_id: str, now: datetime) -> PaymentState:
        payment = self.payments[payment_id]
        if payment.state == "made":
            payment.state = "processing"
            payment.settles_at = now
            if self._random.random() < self._is_slow:
                payment.settles_at += timedelta(seconds=self._random.choice((10, 400, 100_000)))
        return self._state_of(payment_id, payment, now)

    def cancel(self, payment_id: str, now: datetime) -> PaymentState:
        payment = self.payments[payment_id]
        if payment.state == "made":
            payment.state = "canceled"
        return self._state_of(payment_id, payment, now)

    def _state_of(self, payment_id: str, payment: Payment, now: datetime) -> PaymentState:
        if payment.state == "processing" and payment.settles_at and now >= payment.settles_at:
            self._settle(payment_id, payment)
        match payment.state:
            case "canceled":
                return Canceled(payment_id)
            case "paid":
                return Paid(payment_id)
            case "declined":
                return Declined(payment_id, "card_declined")
            case _:
                return Unresolved(payment_id)

    def _settle(self, payment_id: str, payment: Payment) -> None:
        if self._random.random() < self._declines:
            payment.state = "declined"
            self._invariants.declined_card(payment_id)
            return
        payment.state = "paid"
        charge = payment.charge
        held = self._reservation(charge.purchase_id)
        self._invariants.charged_card(charge.purchase_id, payment_id, charge.price_cents, held)

    def invoice(self, payment_id: str) -> None:
        """Count a purchase as charged that is only written down, once."""
        purchase_id = payment_id.removeprefix("invoice:")
        held = self._reservation(purchase_id)
        if purchase_id not in self._invariants.charged:
            cents = held.price_cents if held else 0
            self._invariants.charged_card(purchase_id, payment_id, cents, held)

    def _reservation(self, purchase_id: str) -> CapReservation | None:
        held = (team.spending.reservation(purchase_id) for team in self._rows.teams.values())
        return next((reservation for reservation in held if reservation), None)
