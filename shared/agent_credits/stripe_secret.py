"""Stripe's secret key: in Secrets Manager, read when it is needed, kept for a minute."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from agent_credits.payments import PaymentUnavailable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

# A rotated key is picked up within this time, without a deployment, and well before a reload whose
# worker still knows the revoked one has passed its deadline.
SECRET_TTL = timedelta(minutes=1)
# Secret keys, and restricted ones. What the stack puts there when it is created begins otherwise.
KEY_PREFIXES = ("sk_", "rk_")


class StripeSecret:
    def __init__(
        self, client: "SecretsManagerClient", secret_id: str, clock: Callable[[], datetime]
    ) -> None:
        self._client = client
        self._secret_id = secret_id
        self._clock = clock
        self._key = ""
        self._read_at: datetime | None = None

    def __call__(self) -> str:
        """Return the key. Raises `PaymentUnavailable`: nothing was charged, ask again later."""
        now = self._clock()
        if self._read_at is None or now >= self._read_at + SECRET_TTL:
            self._key, self._read_at = self._read(), now
        return self._key

    def _read(self) -> str:
        try:
            secret = self._client.get_secret_value(SecretId=self._secret_id)
        except (BotoCoreError, ClientError) as fault:
            raise PaymentUnavailable("the payment provider's key cannot be read") from fault
        # A key that was put there from a file has a line end.
        key = secret.get("SecretString", "").strip()
        if not key.startswith(KEY_PREFIXES):
            raise PaymentUnavailable("the secret holds no key of Stripe; put the plain key there")
        return key
