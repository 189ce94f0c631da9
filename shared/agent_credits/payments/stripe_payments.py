"""Payments by card through Stripe: a PaymentIntent is created, its id stored, and then confirmed.

What makes a retry safe is the stored PaymentIntent: confirming one that has succeeded cannot charge
again, and one that is not the stored one is never confirmed. An idempotency key made from the
purchase would add nothing and do harm: Stripe forgets it after a day; until then it answers with
the first result again, a server error too, so that one bad moment would hold a purchase up for a
day; and two stacks on one Stripe account could name two purchases alike. So each call has a key of
its own, which the library makes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import stripe

from agent_credits.payments.port import (
    Canceled,
    Charge,
    Declined,
    Paid,
    PaymentState,
    PaymentUnavailable,
    Unresolved,
)

# To connect, and then for each answer. A call that takes longer has an unknown outcome, and asking
# again tells it; together all calls of one attempt stay below the timeout of their function.
CONNECT_TIMEOUT_SECONDS = 1
READ_TIMEOUT_SECONDS = 5
CALL_TIMEOUT_SECONDS = CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS
# Create, retrieve, confirm, cancel.
CALLS_PER_ATTEMPT_MAX = 4


class StripePayments:
    """Implements `Payments`; `secret_key` is asked for each call, so that a rotation is noticed."""

    def __init__(self, secret_key: Callable[[], str], api_base: str | None = None) -> None:
        self._secret_key = secret_key
        self._api_base = api_base

    def create(self, charge: Charge) -> str | Declined:
        customer, payment_method = charge.method.customer, charge.method.payment_method
        if customer is None or payment_method is None:
            raise TypeError("a stripe charge names a customer and a payment method")
        with _faults_as_unavailable():
            try:
                intent = self._intents().create(
                    {
                        "amount": charge.price_cents,
                        "currency": charge.currency,
                        "customer": customer,
                        "payment_method": payment_method,
                        "description": charge.description,
                        "metadata": {"purchase_id": charge.purchase_id},
                    }
                )
            except (stripe.CardError, stripe.InvalidRequestError) as impossible:
                # The card or the customer is gone at Stripe: asking again would never end.
                return Declined("", impossible.code or "invalid_request")
        return intent.id

    def confirm(self, payment_id: str) -> PaymentState:
        with _faults_as_unavailable():
            intents = self._intents()
            intent = intents.retrieve(payment_id)
            if intent.status == "requires_confirmation":
                try:
                    intent = intents.confirm(payment_id, {"off_session": True})
                except stripe.CardError as declined:
                    return Declined(payment_id, declined.code or "card_declined")
                except stripe.InvalidRequestError as impossible:
                    # The card or the customer is gone at Stripe, for good. Cancelled, so that this
                    # no is definite; Stripe declines that where another worker has confirmed it.
                    intents.cancel(payment_id)
                    return Declined(payment_id, impossible.code or "invalid_request")
        return _state(intent)

    def cancel(self, payment_id: str) -> PaymentState:
        with _faults_as_unavailable():
            intents = self._intents()
            try:
                return _state(intents.cancel(payment_id))
            except stripe.InvalidRequestError:
                # Stripe cancels neither what has succeeded nor what is being processed; then the
                # payment's own state is the answer.
                return _state(intents.retrieve(payment_id))

    def _intents(self) -> stripe.PaymentIntentService:
        """Return a client with a connection of its own: a kept one may be dead when it is used."""
        client = stripe.StripeClient(
            self._secret_key(),
            base_addresses={"api": self._api_base} if self._api_base else {},
            http_client=stripe.RequestsClient(
                timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
            ),
            # A retry in here could not charge twice, but it would take time that nobody counts.
            max_network_retries=0,
        )
        return client.v1.payment_intents


def _state(intent: stripe.PaymentIntent) -> PaymentState:
    match intent.status:
        case "succeeded":
            return Paid(intent.id)
        case "canceled":
            return Canceled(intent.id)
        case "requires_payment_method" | "requires_action":
            # Nobody is there to act on an off-session payment: whatever the card's bank asks for,
            # it is a no, and this payment is never confirmed again.
            error = intent.last_payment_error
            return Declined(intent.id, (error.code if error else None) or intent.status)
        case _:
            return Unresolved(intent.id)


@contextmanager
def _faults_as_unavailable() -> Iterator[None]:
    try:
        yield
    except stripe.StripeError as fault:
        raise PaymentUnavailable(f"{type(fault).__name__}: {fault.code or ''}") from fault
