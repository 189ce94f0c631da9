"""The keys that producers sign with: a JSON object of keys by id in Secrets Manager."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from agent_credits.aws.cached_secret import CachedSecret
from agent_credits.events.signatures import KeysNotUnderstood, parse_keys
from agent_credits.values.errors import SecretUnavailable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

# An unknown key may have just been added, so the secret is read again for it, but not for each
# message of a producer whose key does not exist.
READ_AGAIN_AFTER = timedelta(seconds=5)


class SigningKeys:
    """Returns the key of an id, or None. Raises `SecretUnavailable`."""

    def __init__(
        self, client: "SecretsManagerClient", secret_id: str, clock: Callable[[], datetime]
    ) -> None:
        self._keys = CachedSecret(client, secret_id, clock, _keys_in)

    def __call__(self, key_id: str) -> bytes | None:
        return self._keys().get(key_id) or self._keys(READ_AGAIN_AFTER).get(key_id)


def _keys_in(secret: str) -> Mapping[str, bytes]:
    try:
        return parse_keys(secret)
    except KeysNotUnderstood as wrong:
        raise SecretUnavailable(f"the secret with the signing keys is invalid: {wrong}") from None
