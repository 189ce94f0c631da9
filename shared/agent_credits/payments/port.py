"""The port to a payment provider: create a payment, then confirm it; each is safe to repeat.

There are two steps because a payment provider forgets idempotency keys after a while, or ignores
them: the payment's id is stored between the two, and confirming a payment that has succeeded does
not charge it again.
"""

from typing import Literal, Protocol

from msgspec import Struct

from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.values.errors import AgentCreditsError


class PaymentUnavailable(AgentCreditsError):
    """The payment provider gave no definite answer. The outcome is unknown; ask again later."""


class Paid(Struct, frozen=True):
    payment_id: str


class Declined(Struct, frozen=True):
    """A definite no: nothing was charged, and this payment never will be.

    `payment_id` is empty where the payment provider did not even create a payment.
    """

    payment_id: str
    code: str


class Unresolved(Struct, frozen=True):
    """The payment provider is still processing it; ask again later."""

    payment_id: str


class Canceled(Struct, frozen=True):
    """Canceled before it was charged; this payment never will be."""

    payment_id: str


PaymentState = Paid | Declined | Canceled | Unresolved


class Charge(Struct, frozen=True):
    """What to charge, to whom, and for which purchase."""

    purchase_id: str
    price_cents: int
    currency: str
    method: PaymentMethod
    description: str


class Payments(Protocol):
    """Each method is safe to repeat, and raises `PaymentUnavailable` if its outcome is unknown."""

    def create(self, charge: Charge) -> str | Declined:
        """Create a payment without charging it, and return its id.

        Returns `Declined`, without a payment's id, if such a payment can never be created.
        """
        ...

    def confirm(self, payment_id: str) -> PaymentState:
        """Charge a payment that was created; one that has ended keeps its state."""
        ...

    def cancel(self, payment_id: str) -> PaymentState:
        """Cancel a payment that nobody waits for; one that was already charged stays `Paid`."""
        ...


class InvoicePayments:
    """No card is charged: the purchase on the team's row is what will be invoiced."""

    def create(self, charge: Charge) -> str:
        return f"invoice:{charge.purchase_id}"

    def confirm(self, payment_id: str) -> PaymentState:
        return Paid(payment_id)

    def cancel(self, payment_id: str) -> PaymentState:
        # An invoice cannot fail, so another worker may already have found it paid.
        return Paid(payment_id)


PaymentProviderName = Literal["stripe", "invoice"]
