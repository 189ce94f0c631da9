"""The issuer of tokens for the local stack: a key of this stack, and the JWKS that it publishes.

The function of the HTTP API fetches the keys and verifies tokens by the same code as on AWS. The
private key stays in the folder of the stack's state, and no other stack trusts it.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from mypy_boto3_s3 import S3Client

ISSUER: Final = "https://issuer.agent-credits.example"
AUDIENCE: Final = "agent-credits"
ALGORITHM: Final = "ES256"
KEY_ID: Final = "local"
BUCKET: Final = "agent-credits-issuer"
OBJECT: Final = "jwks.json"
TOKEN_SECONDS_DEFAULT: Final = 3_600


def keys_url(endpoint_url: str) -> str:
    """Return where the local stack's function fetches the keys."""
    return f"{endpoint_url}/{BUCKET}/{OBJECT}"


def publish_keys(s3: "S3Client", key_file: Path) -> None:
    """Put the public key where `keys_url` points to, as often as the emulator starts."""
    # Imported where it is used: most commands sign nothing, and it takes as long as they do.
    import jwt

    public = _private_key(key_file).public_key()
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(public, as_dict=True)
    jwks = {"keys": [{**jwk, "kid": KEY_ID, "alg": ALGORITHM, "use": "sig"}]}
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=OBJECT, Body=json.dumps(jwks), ContentType="application/json")


def sign_token(
    key_file: Path, claims: Mapping[str, Any], seconds: int = TOKEN_SECONDS_DEFAULT
) -> str:
    """Return a token with these claims that the local stack accepts for so long."""
    import jwt

    now = int(time.time())
    payload = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + seconds, **claims}
    return jwt.encode(payload, _private_key(key_file), algorithm=ALGORITHM, headers={"kid": KEY_ID})


def _private_key(key_file: Path) -> "ec.EllipticCurvePrivateKey":
    """Return the stack's key, made on first use and readable by its owner alone."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if key_file.exists():
        found = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        if isinstance(found, ec.EllipticCurvePrivateKey):
            return found
    made = ec.generate_private_key(ec.SECP256R1())
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made
