"""A token counts only if the issuer signed it, for us, and it has not expired."""

import base64
import hashlib
import hmac
import json
import time
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from agent_credits.api.problems import Refused
from agent_credits.api.tokens import (
    FETCHES_APART,
    KEYS_STALE_MAX,
    KEYS_TTL,
    IssuerKeys,
    KeysUnavailable,
    Tokens,
)
from tests.api_world import (
    AUDIENCE,
    ISSUER,
    ApiWorld,
    issuer_key,
    jwks,
    public_jwk,
    token,
    world_with,
)
from tests.unit.builders import NOW

HOUR = 3_600
PATH = "/v1/accounts/user:ana"


@pytest.fixture
def world() -> ApiWorld:
    return world_with("100")


def status_of(world: ApiWorld, bearer: str | None) -> int:
    return world.call("GET", PATH, door="people", bearer=bearer).status


def test_a_good_token_is_let_in_again_and_again_until_it_expires(world: ApiWorld) -> None:
    good = token()

    assert [status_of(world, good) for _ in range(3)] == [200, 200, 200]


def unsigned(header: dict[str, Any]) -> str:
    payload = jwt.decode(token(), options={"verify_signature": False})
    parts = [header, payload]
    return ".".join(_encoded(json.dumps(part).encode()) for part in parts) + "."


def confused_with_the_public_key() -> str:
    """Return a token whose HMAC key is the issuer's public key, which anybody has."""
    public = (
        issuer_key()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    signed = unsigned({"alg": "HS256", "kid": "k1", "typ": "JWT"}).removesuffix(".")
    digest = hmac.new(public, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_encoded(digest)}"


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def with_another_payload() -> str:
    head, _, signature = token().split(".")
    payload = jwt.decode(token(), options={"verify_signature": False})
    forged = {**payload, "sub": "ben", "role": "operator"}
    return ".".join((head, _encoded(json.dumps(forged).encode()), signature))


NOW_SECONDS = int(time.time())
BAD_TOKENS = {
    "none at all": None,
    "empty": "",
    "no token": "abc",
    "three dots": "...",
    "expired": token(exp=NOW_SECONDS - 60),
    "without an expiry": token(exp=None),
    "an expiry that is no number": token(exp=None, nbf=NOW_SECONDS) + "x",
    "not yet valid": token(nbf=NOW_SECONDS + HOUR),
    "of another issuer": token(iss="https://evil.example.com"),
    "without an issuer": token(iss=None),
    "for another audience": token(aud="billing"),
    "without an audience": token(aud=None),
    "without a subject": token(sub=""),
    "signed by another key": token(key=ec.generate_private_key(ec.SECP256R1())),
    "of an unknown key": token(headers={"kid": "k9"}),
    "alg none": unsigned({"alg": "none", "kid": "k1"}),
    "alg None": unsigned({"alg": "None", "kid": "k1"}),
    "no alg": unsigned({"kid": "k1"}),
    "no kid": unsigned({"alg": "ES256"}),
    "a kid that is no string": unsigned({"alg": "ES256", "kid": 7}),
    "key confusion": confused_with_the_public_key(),
    "another payload": with_another_payload(),
    "a key in its own header": token(
        key=(own := ec.generate_private_key(ec.SECP256R1())),
        headers={"kid": "own", "jwk": public_jwk(own, "own")},
    ),
    "a URL of keys in its header": token(headers={"jku": "https://evil.example.com/keys"}, key=own),
    "an unknown role": token(role="root"),
    "teams that are no list": token(teams=(), **{"teams ": "acme"}, role="x"),
    "too many teams": token(teams=tuple(f"t{n}" for n in range(101))),
    "too long": token(padding="x" * 10_000),
    "a user with a space": token("a na"),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_bad_token_is_401_and_says_nothing_of_why(world: ApiWorld, name: str) -> None:
    got = world.call("GET", PATH, door="people", bearer=BAD_TOKENS[name])

    assert (got.status, got.json["error"]) == (401, "unauthenticated")
    assert got.headers["WWW-Authenticate"] == "Bearer"
    assert got.json["detail"] in (
        "the token is not valid: expired, not yet valid, or of another issuer",
        "send a token as `Authorization: Bearer <token>`",
    )


@pytest.mark.parametrize("header", ["Basic YTpi", "bearer", "Token abc"])
def test_another_scheme_is_no_token(world: ApiWorld, header: str) -> None:
    got = world.call("GET", PATH, door="people", headers={"authorization": header})

    assert got.status == 401


def test_no_header_opens_the_producers_door(world: ApiWorld) -> None:
    # What a caller sends never says which door it came through.
    spoofed = {"x-door": "producers", "x-amzn-api-id": "producersapi", "host": "producersapi"}

    assert world.call("GET", PATH, door="people", headers=spoofed).status == 401


def test_a_token_does_not_open_the_producers_door() -> None:
    from tests.api_world import gateway_event

    event = gateway_event("GET", PATH, bearer=token())
    del event["requestContext"]["authorizer"]
    got = world_with("100").send(event)

    assert (got.status, got.json["detail"]) == (401, "sign the request with AWS Signature V4")


def test_an_api_of_another_stack_is_no_door() -> None:
    from tests.api_world import gateway_event

    event = gateway_event("GET", PATH)
    event["requestContext"]["apiId"] = "another"

    assert world_with("100").send(event).status == 401


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
    ],
)
def test_the_three_algorithms_are_taken(key: Any, algorithm: str) -> None:
    jwk = _jwk(key, algorithm)
    tokens = Tokens(IssuerKeys(lambda: {"keys": [jwk]}, lambda: NOW), ISSUER, AUDIENCE)

    caller = tokens.caller_of(f"Bearer {token(key=key, algorithm=algorithm)}")

    assert (caller.role, caller.user_id) == ("member", "ana")


@pytest.mark.parametrize("algorithm", ["RS512", "PS256"])
def test_another_algorithm_of_a_good_key_is_refused(algorithm: str) -> None:
    key = rsa.generate_private_key(65537, 2048)
    tokens = Tokens(
        IssuerKeys(lambda: {"keys": [_jwk(key, "RS256")]}, lambda: NOW), ISSUER, AUDIENCE
    )

    with pytest.raises(Refused):
        tokens.caller_of(f"Bearer {token(key=key, algorithm=algorithm)}")


def test_a_symmetric_key_among_the_issuers_keys_signs_nothing() -> None:
    secret = b"0" * 32
    shared = {"kty": "oct", "k": _encoded(secret), "kid": "k1", "alg": "HS256"}
    tokens = Tokens(IssuerKeys(lambda: {"keys": [shared]}, lambda: NOW), ISSUER, AUDIENCE)

    with pytest.raises(Refused):
        tokens.caller_of(f"Bearer {token(key=secret, algorithm='HS256')}")


def _jwk(key: Any, algorithm: str) -> dict[str, Any]:
    kinds = {
        "RS256": jwt.algorithms.RSAAlgorithm,
        "ES256": jwt.algorithms.ECAlgorithm,
        "EdDSA": jwt.algorithms.OKPAlgorithm,
    }
    public = kinds[algorithm].to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": "k1", "alg": algorithm, "use": "sig"}


class Issuer:
    """An issuer that counts how often its keys are fetched, and that may not answer."""

    def __init__(self) -> None:
        self.now = NOW
        self.fetches = 0
        self.is_down = False
        self.published: Any = jwks()
        self.keys = IssuerKeys(self.fetch, lambda: self.now)

    def fetch(self) -> Any:
        self.fetches += 1
        if self.is_down:
            raise KeysUnavailable("down")
        return self.published


def test_keys_are_fetched_once_and_again_after_their_time() -> None:
    issuer = Issuer()
    for _ in range(3):
        assert issuer.keys("k1") is not None
    issuer.now += KEYS_TTL

    assert issuer.keys("k1") is not None
    assert issuer.fetches == 2


def test_a_new_key_is_found_at_once_but_an_unknown_one_is_asked_for_once_a_minute() -> None:
    issuer = Issuer()
    issuer.keys("k1")
    issuer.now += FETCHES_APART
    issuer.published = {"keys": [*jwks()["keys"], public_jwk(issuer_key(), "k2")]}

    assert issuer.keys("k2") is not None
    for _ in range(5):
        assert issuer.keys("k3") is None
    assert issuer.fetches == 2


def test_a_key_that_was_withdrawn_is_forgotten() -> None:
    issuer = Issuer()
    issuer.keys("k1")
    issuer.published = {"keys": [public_jwk(issuer_key(), "k2")]}
    issuer.now += KEYS_TTL

    assert issuer.keys("k1") is None


def test_known_keys_outlast_an_issuer_that_is_down_for_a_while() -> None:
    issuer = Issuer()
    issuer.keys("k1")
    issuer.is_down = True
    issuer.now += KEYS_TTL

    assert issuer.keys("k1") is not None
    issuer.now = NOW + KEYS_STALE_MAX - timedelta(seconds=1)
    assert issuer.keys("k1") is not None
    issuer.now = NOW + KEYS_STALE_MAX
    with pytest.raises(KeysUnavailable):
        issuer.keys("k1")


@pytest.mark.parametrize("published", [None, [], {}, {"keys": 7}, {"keys": [{}] * 101}], ids=str)
def test_keys_that_are_no_jwks_are_none(published: Any) -> None:
    issuer = Issuer()
    issuer.published = published

    with pytest.raises(KeysUnavailable):
        issuer.keys("k1")


def test_a_key_that_is_not_understood_does_not_hide_the_others() -> None:
    issuer = Issuer()
    odd = [{"kty": "EC"}, {"kty": "XX", "kid": "x"}, 7, {"kty": "RSA", "kid": "r", "n": "!"}]
    issuer.published = {"keys": [*odd, *jwks()["keys"]]}

    assert issuer.keys("k1") is not None


def test_without_keys_no_token_can_be_checked_and_the_answer_is_503() -> None:
    issuer = Issuer()
    issuer.is_down = True
    tokens = Tokens(issuer.keys, ISSUER, AUDIENCE)

    with pytest.raises(Refused) as refused:
        tokens.caller_of(f"Bearer {token()}")

    assert refused.value.problem.error == "undecided"
