"""Bearer tokens: JWTs of the platform's issuer, verified here and by no gateway.

Signature, issuer, audience and expiry are checked by PyJWT, with the algorithms fixed here: what a
token says about its own algorithm selects nothing. A token that fails any check is answered alike.

Claims: `sub` (the user), `teams` (IDs), `role` (member, billing_admin or operator). A token with
`run_id` is that run's alone, whatever its role; its runs are triggered by `sub`, or by what the
claim `trigger` says.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import jwt
from pydantic import Field, TypeAdapter, ValidationError

from agent_credits.api.callers import Caller, TokenRole
from agent_credits.api.problems import Refused, undecided
from agent_credits.events.agent_runs import Trigger
from agent_credits.values.identifiers import Identifier
from agent_credits.values.strict import Strict

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
LEEWAY: Final = timedelta(seconds=30)
TEAMS_MAX: Final = 100
TOKEN_BYTES_MAX: Final = 8_192

# Keys are fetched again after this, and at once for an unknown one, but no more often than that.
KEYS_TTL: Final = timedelta(minutes=10)
FETCHES_APART: Final = timedelta(minutes=1)
# An issuer that does not answer for so long may have withdrawn a key.
KEYS_STALE_MAX: Final = timedelta(hours=1)
KEYS_MAX: Final = 100


class KeysUnavailable(Exception):
    """The issuer's keys could not be fetched or read. No token can be checked."""


class _Claims(Strict):
    sub: Identifier
    teams: list[Identifier] = Field(default_factory=list)
    role: TokenRole = "member"
    run_id: Identifier | None = None
    trigger: Trigger | None = None


_CLAIMS: Final = TypeAdapter(_Claims)


class IssuerKeys:
    """The issuer's public keys by id. `fetch` returns its JWKS or raises `KeysUnavailable`."""

    def __init__(self, fetch: Callable[[], Any], clock: Callable[[], datetime]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at: datetime | None = None
        self._tried_at: datetime | None = None

    def __call__(self, key_id: str) -> jwt.PyJWK | None:
        """Return the key, or None if the issuer has none of this id.

        Raises `KeysUnavailable` as long as no keys are known that are recent enough.
        """
        now = self._clock()
        is_fresh = self._fetched_at is not None and now < self._fetched_at + KEYS_TTL
        if key_id in self._keys and is_fresh:
            return self._keys[key_id]
        if self._tried_at is None or now >= self._tried_at + FETCHES_APART:
            self._tried_at = now
            try:
                self._keys = _by_id(self._fetch())
            except KeysUnavailable:
                pass  # The keys that are known stay valid for a while.
            else:
                self._fetched_at = now
        if self._fetched_at is None or now >= self._fetched_at + KEYS_STALE_MAX:
            raise KeysUnavailable("the issuer's keys cannot be fetched")
        return self._keys.get(key_id)


class Tokens:
    """Returns who a token is of. `keys` as in `IssuerKeys`."""

    def __init__(self, keys: Callable[[str], jwt.PyJWK | None], issuer: str, audience: str) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience

    def caller_of(self, authorization: str | None) -> Caller:
        """Return the caller of an Authorization header. Raises `Refused`."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthenticated("send a token as `Authorization: Bearer <token>`")
        if len(token) > TOKEN_BYTES_MAX:
            raise _invalid()
        try:
            claims = _CLAIMS.validate_python(_known(self._verified(token)))
        except (jwt.PyJWTError, ValidationError, ValueError):
            # One answer for every reason, so that nothing is learnt by trying.
            raise _invalid() from None
        if len(claims.teams) > TEAMS_MAX:
            raise _invalid()
        return Caller(
            role="run" if claims.run_id is not None else claims.role,
            name=f"user:{claims.sub}",
            user_id=claims.sub,
            teams=frozenset(claims.teams),
            run_id=claims.run_id,
            trigger=claims.trigger if claims.run_id is not None else None,
        )

    def _verified(self, token: str) -> dict[str, Any]:
        key_id = jwt.get_unverified_header(token).get("kid")
        if not isinstance(key_id, str):
            raise jwt.InvalidTokenError("the token names no key")
        try:
            key = self._keys(key_id)
        except KeysUnavailable as error:
            raise undecided(str(error)) from error
        if key is None:
            raise jwt.InvalidKeyError("the issuer has no such key")
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        return claims


def _known(claims: dict[str, Any]) -> dict[str, Any]:
    """Return the claims that mean something here; an issuer may add others."""
    return {name: claims[name] for name in _Claims.model_fields if name in claims}


def _by_id(jwks: Any) -> dict[str, jwt.PyJWK]:
    """Return the keys that may sign tokens; symmetric ones, and those for other uses, may not."""
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list) or len(keys) > KEYS_MAX:
        raise KeysUnavailable("the issuer's keys are not a JWKS")
    by_id: dict[str, jwt.PyJWK] = {}
    for key in keys:
        try:
            if key["kty"] != "oct" and key.get("use", "sig") == "sig":
                found = jwt.PyJWK.from_dict(key)
                if found.algorithm_name in ALGORITHMS:
                    by_id[key["kid"]] = found
        except (jwt.PyJWTError, KeyError, TypeError, AttributeError, ValueError):
            continue  # A key of a kind that this version does not know is no key of ours.
    return by_id


def _unauthenticated(detail: str) -> Refused:
    return Refused("unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})


def _invalid() -> Refused:
    return _unauthenticated("the token is not valid: expired, not yet valid, or of another issuer")
