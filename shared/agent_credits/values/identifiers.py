"""The text that may name a team, user, run, event, principal, grant, plan or pool.

Visible ASCII only, and bounded: a sort key holds a source and an event id, each character of which
may grow to three bytes when it is escaped, and DynamoDB ends a sort key at 1,024 bytes.
"""

from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, StringConstraints

from agent_credits.values.principals import Principal, parse_principal

_VISIBLE = r"^[\x21-\x7e]+$"

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_VISIBLE)]
SourceUri = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_VISIBLE)]
# An ISO 4217 code, written as Stripe writes it: "usd".
Currency = Annotated[str, StringConstraints(pattern=r"^[a-z]{3}$")]
PoolName = Annotated[
    str, StringConstraints(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_]*$")
]


def _principal(value: object) -> Principal:
    return value if isinstance(value, Principal) else parse_principal(str(value))


# Written as people write it: "user:ana".
PrincipalText = Annotated[
    Principal, PlainValidator(_principal), PlainSerializer(str, return_type=str)
]
