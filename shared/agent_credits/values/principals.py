"""A principal is who is billed for a run: `user:<id>` or `team:<id>`. Each has one account."""

from typing import Literal, get_args

from msgspec import Struct

PrincipalKind = Literal["user", "team"]
# Whose pools pay for a run: those of the user who started it, of the team's owner, or of the team.
Payer = Literal["user", "owner", "team"]


class Principal(Struct, frozen=True, order=True):
    kind: PrincipalKind
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


def parse_principal(text: str) -> Principal:
    """Read `user:<id>` or `team:<id>`; raises ValueError with a sentence for the operator."""
    kind, separator, principal_id = text.partition(":")
    if not separator or not principal_id or kind not in get_args(PrincipalKind):
        raise ValueError(f"{text!r} is not a principal; write user:<id> or team:<id>")
    return Principal("user" if kind == "user" else "team", principal_id)
