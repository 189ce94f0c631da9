"""The port to a payment provider: make a payment, then confirm it; both may be asked again safely.

Two steps, because a provider forgets idempotency keys after a while, or ignores them: the payment's
id is stored between them, and confirming a payment that has succeeded cannot charge it again.
"""

from typing import Literal, Protocol

from msgspec import Struct

from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.values.errors import AgentCreditsError


class PaymentUnavailable(AgentCreditsError):
    """The provider did not give a definite answer. The outcome is unknown; ask again later."""


class Paid(Struct, frozen=True):
    payment_id: str


class Declined(Struct, frozen=True):
    """A definite no: nothing was charged, and nothing of this payment will be."""

    payment_id: str
    code: str


class Unresolved(Struct, frozen=True):
    """The provider is still working on it; ask again later."""

    payment_id: str


class Canceled(Struct, frozen=True):
    """Given up before anything was charged; nothing of this payment ever will be."""

    payment_id: str


PaymentState = Paid | Declined | Canceled | Unresolved


class Charge(Struct, frozen=True):
    """What is to be paid, by whom, for which purchase."""

    purchase_id: str
    price_cents: int
    currency: str
    method: PaymentMethod
    description: str


class Payments(Protocol):
    """Each method raises `PaymentUnavailable` where the outcome stays unknown."""

    def create(self, charge: Charge) -> str | Declined:
        """Make a payment without charging it, and return its id. May be repeated harmlessly.

        Returns `Declined`, without a payment's id, where no such payment can ever be made.
        """
        ...

    def confirm(self, payment_id: str) -> PaymentState:
        """Charge a payment that was created, or tell how it ended. May be repeated harmlessly."""
        ...

    def cancel(self, payment_id: str) -> PaymentState:
        """Give up a payment nobody waits for; one that was charged already stays `Paid`."""
        ...


class InvoicePayments:
    """No card: the purchase itself, recorded on the team's row, is what will be invoiced."""

    def create(self, charge: Charge) -> str:
        return f"invoice:{charge.purchase_id}"

    def confirm(self, payment_id: str) -> PaymentState:
        return Paid(payment_id)

    def cancel(self, payment_id: str) -> PaymentState:
        # An invoice does not fail, so another worker may have found it paid already.
        return Paid(payment_id)


PaymentProviderName = Literal["stripe", "invoice"]
