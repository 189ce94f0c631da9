"""Payments by card through Stripe: create a PaymentIntent, store its id, then confirm it.

The stored PaymentIntent makes a retry safe: confirming one that has succeeded does not charge
again, and only the stored one is ever confirmed. An idempotency key made from the purchase would
not help, and would do harm. Stripe forgets a key after a day. Until then it repeats the first
result, even a server error, so one bad moment would block a purchase for a day. And two stacks on
one Stripe account could give two purchases the same key. So the library makes a new key for each
call.
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

# To connect, and then to answer. The outcome of a call that takes longer is unknown, and asking
# again reveals it. All calls of one attempt together stay below the timeout of their function.
CONNECT_TIMEOUT_SECONDS = 1
READ_TIMEOUT_SECONDS = 5
CALL_TIMEOUT_SECONDS = CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS
# Create, retrieve, confirm, cancel.
CALLS_PER_ATTEMPT_MAX = 4

# No customer is there to act on an off-session payment, so these are a no.
NEEDS_ITS_CUSTOMER = ("requires_payment_method", "requires_action")


class StripePayments:
    """Implements `Payments`; reads `secret_key` before each call, so that it sees a rotation."""

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
                # Stripe no longer has the card or the customer: asking again would never succeed.
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
                    return _canceled(intents, payment_id, declined.code or "card_declined")
                except stripe.InvalidRequestError as impossible:
                    # Stripe no longer has the card or the customer.
                    return _canceled(intents, payment_id, impossible.code or "invalid_request")
            if intent.status in NEEDS_ITS_CUSTOMER:
                error = intent.last_payment_error
                code = (error.code if error else None) or intent.status
                return _canceled(intents, payment_id, code)
        return _state(intent)

    def cancel(self, payment_id: str) -> PaymentState:
        with _faults_as_unavailable():
            intents = self._intents()
            try:
                return _state(intents.cancel(payment_id))
            except stripe.InvalidRequestError:
                # Stripe cancels nothing that has succeeded or is being processed; then the
                # payment's own state is the answer.
                return _state(intents.retrieve(payment_id))

    def _intents(self) -> stripe.PaymentIntentService:
        """Return a client with a new connection: one that was kept may be dead by now."""
        client = stripe.StripeClient(
            self._secret_key(),
            base_addresses={"api": self._api_base} if self._api_base else {},
            http_client=stripe.RequestsClient(
                timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
            ),
            # A retry in here could not charge twice, but would exceed the timeouts above.
            max_network_retries=0,
        )
        return client.v1.payment_intents


def _canceled(
    intents: stripe.PaymentIntentService, payment_id: str, code: str
) -> Declined | Unresolved:
    """Make a no definite: a payment that waits for its customer could still succeed later."""
    try:
        intents.cancel(payment_id)
    except stripe.InvalidRequestError:
        # It succeeded meanwhile, or is being processed, or another worker canceled it.
        return Unresolved(payment_id)
    return Declined(payment_id, code)


def _state(intent: stripe.PaymentIntent) -> PaymentState:
    match intent.status:
        case "succeeded":
            return Paid(intent.id)
        case "canceled":
            # Canceled because it was declined, or because nobody waited for it any more.
            error = intent.last_payment_error
            return Declined(intent.id, error.code or "declined") if error else Canceled(intent.id)
        case _:
            return Unresolved(intent.id)


@contextmanager
def _faults_as_unavailable() -> Iterator[None]:
    try:
        yield
    except stripe.StripeError as fault:
        raise PaymentUnavailable(f"{type(fault).__name__}: {fault.code or ''}") from fault
