"""The issuer's public keys, fetched from its JWKS URL."""

import json
import urllib.request
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final

from agent_credits.api.tokens import IssuerKeys, KeysUnavailable, Tokens

FETCH_SECONDS_MAX: Final = 3
JWKS_BYTES_MAX: Final = 256 * 1024


def tokens_of(issuer: str, audience: str, keys_url: str, clock: Callable[[], datetime]) -> Tokens:
    """Return what verifies the tokens of an issuer."""
    return Tokens(IssuerKeys(partial(fetch_jwks, keys_url), clock), issuer, audience)


def fetch_jwks(url: str) -> Any:
    """Return the JWKS. Raises `KeysUnavailable`."""
    try:
        # The operator sets the URL, and the template admits HTTPS only, apart from this machine.
        with urllib.request.urlopen(url, timeout=FETCH_SECONDS_MAX) as answer:  # noqa: S310
            return json.loads(answer.read(JWKS_BYTES_MAX))
    except (OSError, ValueError, RecursionError) as fault:
        raise KeysUnavailable(f"the issuer's keys: {type(fault).__name__}") from fault
