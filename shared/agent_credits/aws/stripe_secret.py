"""Stripe's secret key. A rotated key is used long before a reload that needs it is overdue."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from agent_credits.aws.cached_secret import CachedSecret
from agent_credits.payments.port import PaymentUnavailable
from agent_credits.values.errors import SecretUnavailable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

# Secret keys and restricted keys. The placeholder that the stack creates starts differently.
KEY_PREFIXES = ("sk_", "rk_")


class StripeSecret:
    def __init__(
        self, client: "SecretsManagerClient", secret_id: str, clock: Callable[[], datetime]
    ) -> None:
        self._secret = CachedSecret(client, secret_id, clock, _key_in)

    def __call__(self) -> str:
        """Return the key. Raises `PaymentUnavailable`: nothing was charged, try again later."""
        try:
            return self._secret()
        except SecretUnavailable as fault:
            raise PaymentUnavailable(f"the payment provider's key: {fault}") from fault


def _key_in(secret: str) -> str:
    if not secret.startswith(KEY_PREFIXES):
        raise SecretUnavailable("the secret is not a Stripe key; store the plain key in it")
    return secret
