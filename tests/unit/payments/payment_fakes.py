"""A payment provider with state: it remembers payments, and fails in the ways real ones do.

It keeps no idempotency keys, as a provider does once it has forgotten them: the same `create` twice
makes two payments, so whoever relies on the key alone charges twice.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from agent_credits.payments.port import (
    Canceled,
    Charge,
    Declined,
    Paid,
    PaymentState,
    PaymentUnavailable,
    Unresolved,
)

Answer = TypeVar("Answer")

# The outcome of a call: applied and answered, not applied, or applied and not answered.
OfCreate = Literal["made", "500", "response lost"]
OfConfirm = Literal[
    "success",
    "decline",
    "500",
    "timeout after success",
    "timeout after decline",
    "processing",
]


@dataclass(slots=True)
class Payment:
    id: str
    charge: Charge
    status: Literal["unconfirmed", "processing", "paid", "declined", "canceled"] = "unconfirmed"


class FakePayments:
    """Implements `Payments`. Each call takes the next scripted answer; the last one stays."""

    def __init__(
        self, confirms: Iterable[OfConfirm] = ("success",), creates: Iterable[OfCreate] = ("made",)
    ) -> None:
        self.payments: dict[str, Payment] = {}
        self.creates: deque[OfCreate] = deque(creates)
        self.confirms: deque[OfConfirm] = deque(confirms)
        # Cards that decline, whatever was scripted.
        self.declining: set[str] = set()

    @property
    def charges(self) -> list[Charge]:
        """The charges that were paid."""
        return [p.charge for p in self.payments.values() if p.status == "paid"]

    @property
    def attempts(self) -> list[Charge]:
        """The charges that a card was asked for, whether it paid or not."""
        return [
            p.charge for p in self.payments.values() if p.status not in ("unconfirmed", "canceled")
        ]

    def create(self, charge: Charge) -> str:
        answer = _next(self.creates)
        if answer == "500":
            raise PaymentUnavailable("500 before anything was made")
        payment = Payment(f"pay_{len(self.payments) + 1}", charge)
        self.payments[payment.id] = payment
        if answer == "response lost":
            raise PaymentUnavailable("the connection broke after the payment was made")
        return payment.id

    def confirm(self, payment_id: str) -> PaymentState:
        answer = _next(self.confirms)
        payment = self.payments[payment_id]
        if answer == "500":
            raise PaymentUnavailable("500 before anything was charged")
        if payment.status == "unconfirmed":
            self._charge(payment, answer)
            if answer in ("timeout after success", "timeout after decline"):
                raise PaymentUnavailable("timed out")
        return _state(payment)

    def cancel(self, payment_id: str) -> PaymentState:
        payment = self.payments[payment_id]
        if payment.status == "unconfirmed":
            payment.status = "canceled"
        return _state(payment)

    def finish(self, *, succeeds: bool) -> None:
        """Let the payment provider end what it is processing, without being asked."""
        for payment in self.payments.values():
            if payment.status == "processing":
                payment.status = "paid" if succeeds else "declined"

    def _charge(self, payment: Payment, answer: OfConfirm) -> None:
        if payment.charge.method.name in self.declining:
            payment.status = "declined"
        elif answer == "processing":
            payment.status = "processing"
        else:
            payment.status = "declined" if "decline" in answer else "paid"


def _state(payment: Payment) -> PaymentState:
    match payment.status:
        case "paid":
            return Paid(payment.id)
        case "declined":
            return Declined(payment.id, "card_declined")
        case "canceled":
            return Canceled(payment.id)
        case _:
            return Unresolved(payment.id)


def _next(answers: deque[Answer]) -> Answer:
    return answers.popleft() if len(answers) > 1 else answers[0]
