"""A secret in Secrets Manager: read on first use, cached for a minute, never logged."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from agent_credits.values.errors import SecretUnavailable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

# A rotated secret is picked up within this time, without a deployment.
SECRET_TTL = timedelta(minutes=1)

Value = TypeVar("Value")


class CachedSecret(Generic[Value]):
    """`parse` turns the text into the cached value; it may raise `SecretUnavailable`.

    Its errors never quote the text.
    """

    def __init__(
        self,
        client: "SecretsManagerClient",
        secret_id: str,
        clock: Callable[[], datetime],
        parse: Callable[[str], Value],
    ) -> None:
        self._client = client
        self._secret_id = secret_id
        self._clock = clock
        self._parse = parse
        self._kept: tuple[datetime, Value] | None = None

    def __call__(self, age_max: timedelta = SECRET_TTL) -> Value:
        """Return a value that is at most this old. Raises `SecretUnavailable`."""
        now = self._clock()
        if self._kept is None or now >= self._kept[0] + age_max:
            self._kept = now, self._read()
        return self._kept[1]

    def _read(self) -> Value:
        try:
            secret = self._client.get_secret_value(SecretId=self._secret_id)
        except (BotoCoreError, ClientError) as fault:
            raise SecretUnavailable("the secret cannot be read") from fault
        # A secret that was stored from a file may end with a line break.
        return self._parse(secret.get("SecretString", "").strip())
