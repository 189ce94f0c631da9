"""Signatures of messages, made with a key that only the producer and this stack hold.

IAM decides who may send to the queue. A signature also protects where that right is shared or
stolen. It is HMAC-SHA256 over the exact bytes of the body. A message attribute carries it, and SQS
keeps the attribute through a dead-letter queue and back:

    signature = <key id>:<64 hexadecimal digits>

A stack that starts to require signatures first checks those that are there (`check-signed`): its
producers move over one by one, and no message is lost.

No time is signed. A message that arrives late, or from the dead-letter queue after weeks, stays
valid, and one that is sent again changes nothing: its events are already recorded.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from typing import Literal

from agent_credits.events.agent_runs import Rejection

ATTRIBUTE = "signature"
KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# As many hexadecimal digits hold 128 bits. Shorter keys could be guessed.
KEY_CHARACTERS_MIN = 32
# Two keys are live during a rotation. Many more are a mistake.
KEYS_MAX = 20

_SIGNATURE = re.compile(rf"({KEY_ID.pattern}):([0-9a-f]{{64}})")

# Nothing is checked, what is signed is checked, or an unsigned message is rejected too.
SignatureMode = Literal["off", "check-signed", "require"]
# Returns the key of this id, or None if there is none.
Keys = Callable[[str], bytes | None]


class KeysNotUnderstood(ValueError):
    """The text holds no valid signing keys. The message says why and quotes none of the text."""


def sign(body: str, key_id: str, key: bytes) -> str:
    """Return the value of the attribute for this body."""
    return f"{key_id}:{_digest(body, key)}"


def why_not_authentic(
    body: str, signature: str | None, keys: Keys, *, unsigned_counts: bool = False
) -> Rejection | None:
    """Return why the message is not authentic, or None if one of the keys signed it.

    With `unsigned_counts`, a message without a signature is accepted; a wrong one never is.
    """
    if signature is None:
        if unsigned_counts:
            return None
        return Rejection("unsigned", f"the message has no attribute {ATTRIBUTE!r} of type String")
    parts = _SIGNATURE.fullmatch(signature)
    if parts is None:
        return Rejection(
            "bad_signature", f"{ATTRIBUTE} must be <key id>:<64 lower-case hexadecimal digits>"
        )
    key = keys(parts[1])
    if key is None:
        return Rejection("bad_signature", "the key that signed the message is unknown or removed")
    if not hmac.compare_digest(_digest(body, key), parts[2]):
        return Rejection("bad_signature", "the signature does not match the body")
    return None


def parse_keys(text: str) -> Mapping[str, bytes]:
    """Read keys by id from a JSON object. Raises `KeysNotUnderstood`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        # Not `from` it: the error holds the text.
        raise KeysNotUnderstood("not JSON") from None
    if not isinstance(document, dict) or not 0 < len(document) <= KEYS_MAX:
        raise KeysNotUnderstood(f'must be {{"<key id>": "<key>"}} with 1 to {KEYS_MAX} keys')
    return {key_id: parse_key(key_id, key) for key_id, key in document.items()}


def parse_key(key_id: str, key: object) -> bytes:
    """Check one key and its id. Raises `KeysNotUnderstood`."""
    if not KEY_ID.fullmatch(key_id):
        raise KeysNotUnderstood("a key id must have 1 to 64 letters, digits, - or _")
    if not isinstance(key, str) or len(key) < KEY_CHARACTERS_MIN or not key.isprintable():
        raise KeysNotUnderstood(
            f"key {key_id} must be a string of {KEY_CHARACTERS_MIN} or more printable characters"
        )
    return key.encode()


def _digest(body: str, key: bytes) -> str:
    return hmac.new(key, body.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()
