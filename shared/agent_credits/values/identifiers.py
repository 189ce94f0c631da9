"""The names of teams, users, runs, events, principals, grants, plans and pools.

They are visible ASCII of bounded length: a sort key holds a source and an event id, escaping may
turn a character into three bytes, and DynamoDB limits a sort key to 1,024 bytes.
"""

from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, StringConstraints

from agent_credits.values.principals import Principal, parse_principal

VISIBLE_ASCII = r"^[\x21-\x7e]+$"

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=VISIBLE_ASCII)]
SourceUri = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=VISIBLE_ASCII)]
# An ISO 4217 code, written as Stripe writes it: "usd".
Currency = Annotated[str, StringConstraints(pattern=r"^[a-z]{3}$")]
PoolName = Annotated[
    str, StringConstraints(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_]*$")
]

# In a policy's rule: a pool of the payer, or of the team's own account.
RulePool = Annotated[
    str, StringConstraints(min_length=1, max_length=37, pattern=r"^(team:)?[a-z][a-z0-9_]{0,31}$")
]


def _principal(value: object) -> Principal:
    return value if isinstance(value, Principal) else parse_principal(str(value))


# In text a principal is "user:ana".
PrincipalText = Annotated[
    Principal, PlainValidator(_principal), PlainSerializer(str, return_type=str)
]
