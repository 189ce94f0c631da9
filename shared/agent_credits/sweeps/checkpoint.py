"""A checkpoint: how far an account's ledger has been replayed, and what was left of it there."""

from datetime import date, datetime

from msgspec import Struct

from agent_credits.ledger.grants import Grant
from agent_credits.values.principals import Principal


class Checkpoint(Struct, frozen=True):
    """What a replay knows behind a page: enough to go on from there, and true for ever.

    `began_on` is the day on which the replay began, at the first page. `unsettled_grant_ids` are
    grants held of which the ledger does not tell when they expire.
    """

    principal: Principal
    began_on: date
    page_number: int = 0
    recorded_at: datetime | None = None
    grants: tuple[Grant, ...] = ()
    unsettled_grant_ids: frozenset[str] = frozenset()
