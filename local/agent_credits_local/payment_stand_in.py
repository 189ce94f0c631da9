"""The stand-in for Stripe on this machine: its process, and customers for the demo and the tests.

The functions of a local stack pay through the same adapter as on AWS, with the stand-in's address
and a dummy key. A local stack never learns the address of Stripe itself.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict

from agent_credits_local.emulator import Emulator

# Only its prefix matters, to the stand-in and to the adapter.
STAND_IN_KEY: Final = "sk_test_stand_in"

# The stand-in knows them by their numbers, as Stripe's test mode does.
CARD_THAT_PAYS: Final = "4242424242424242"
CARD_THAT_DECLINES: Final = "4000000000000341"

# A demo or a test always makes fewer.
PAYMENTS_LISTED_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class CardOnFile:
    """The customer and the card that a team's payment method names."""

    customer: str
    payment_method: str


class Payment(BaseModel):
    """A PaymentIntent of the stand-in. It was charged if, and only if, it has `succeeded`."""

    model_config = ConfigDict(frozen=True)

    id: str
    status: str
    amount: int
    currency: str
    customer: str | None
    metadata: Mapping[str, str] = {}


class PaymentStandIn(Emulator):
    """A started localstripe. Stopped gently, it saves what it holds for the next one."""

    title: ClassVar[str] = "the payment stand-in"
    # The only path that it answers without a key.
    health_path: ClassVar[str] = "/js.stripe.com/v3/"

    @classmethod
    def start_localstripe(
        cls, python: Path, program: Path, port: int, log: Path, saved: Path
    ) -> Self:
        """Start a detached stand-in that holds what one before it saved; it is not yet healthy."""
        environment = {"PATH": os.environ.get("PATH", os.defpath)}
        # Isolated (-I): nothing of the caller's Python gets in.
        command = [str(python), "-I", str(program), str(port), str(saved)]
        return cls.spawn(command, port, log, environment)

    def put_card_on_file(self, card_number: str) -> CardOnFile:
        """Make a customer who pays by this card."""
        customer = self._call("POST", "/v1/customers", {"name": "A customer of the stand-in"})
        card = {"number": card_number, "exp_month": "12", "exp_year": "2099", "cvc": "123"}
        method = self._call(
            "POST",
            "/v1/payment_methods",
            {"type": "card", **{f"card[{name}]": value for name, value in card.items()}},
        )
        attach = f"/v1/payment_methods/{method['id']}/attach"
        self._call("POST", attach, {"customer": customer["id"]})
        return CardOnFile(customer["id"], method["id"])

    def forget_card(self, card: CardOnFile) -> None:
        """Remove a card, as its holder might."""
        self._call("DELETE", f"/v1/payment_methods/{card.payment_method}")

    def payments(self, customer: str | None = None) -> Sequence[Payment]:
        """List the payments made so far, charged or not: of one customer, or of all."""
        listed = self._call("GET", f"/v1/payment_intents?limit={PAYMENTS_LISTED_MAX}")
        payments = [Payment.model_validate(payment) for payment in listed["data"]]
        return [p for p in payments if customer is None or p.customer == customer]

    def _call(self, method: str, path: str, form: Mapping[str, str] | None = None) -> Any:
        headers = {
            "Authorization": f"Bearer {STAND_IN_KEY}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        return json.loads(self.ask(method, path, urlencode(form or {}), headers))
