"""A checkpoint: how far an account's ledger has been replayed, and what the account held there."""

from datetime import date, datetime

from msgspec import Struct

from agent_credits.ledger.grants import Grant
from agent_credits.ledger.limits import LimitCount, LimitKey
from agent_credits.values.principals import Principal


class ReservedByLedger(Struct, frozen=True):
    """What a run's reservation holds of each grant by the ledger, in microcredits.

    `limits`: those that what it holds counts under.
    """

    run_id: str
    parent_run_id: str | None
    by_grant: tuple[tuple[str, int], ...]
    limits: tuple[LimitKey, ...] = ()


class Checkpoint(Struct, frozen=True):
    """The state of a replay after a page: enough to continue from there, and true forever.

    `began_on`: the day on which the replay started at the first page. `unsettled_grant_ids`: held
    grants whose expiry the ledger does not show. `limit_counts`: what was drawn under each limit in
    its period; the ledger says nothing else of a count.
    """

    principal: Principal
    began_on: date
    page_number: int = 0
    recorded_at: datetime | None = None
    grants: tuple[Grant, ...] = ()
    unsettled_grant_ids: frozenset[str] = frozenset()
    reservations: tuple[ReservedByLedger, ...] = ()
    limit_counts: tuple[LimitCount, ...] = ()
