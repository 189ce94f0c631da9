"""The issuer's public keys, fetched from its JWKS URL."""

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import urllib3

from agent_credits.api.tokens import IssuerKeys, KeysUnavailable, Tokens

FETCH_SECONDS_MAX: Final = 3
JWKS_BYTES_MAX: Final = 256 * 1024
# boto3 brings it; one connection is enough for a function that serves one request at a time.
_POOL: Final = urllib3.PoolManager(num_pools=1)


def tokens_of(issuer: str, audience: str, keys_url: str, clock: Callable[[], datetime]) -> Tokens:
    """Return what verifies the tokens of an issuer."""
    return Tokens(IssuerKeys(partial(fetch_jwks, keys_url), clock), issuer, audience)


def fetch_jwks(url: str) -> Any:
    """Return the JWKS. Raises `KeysUnavailable`."""
    try:
        answer = _POOL.request(
            "GET",
            url,
            timeout=FETCH_SECONDS_MAX,
            # Keys are where the operator says, and not where an answer points to.
            redirect=False,
            retries=False,
            preload_content=False,
        )
        if answer.status != HTTPStatus.OK:
            raise KeysUnavailable(f"the issuer's keys: status {answer.status}")
        return json.loads(answer.read(JWKS_BYTES_MAX))
    except (urllib3.exceptions.HTTPError, ValueError, RecursionError) as fault:
        raise KeysUnavailable(f"the issuer's keys: {type(fault).__name__}") from fault
