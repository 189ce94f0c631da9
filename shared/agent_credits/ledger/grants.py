"""A grant: credits put into a pool at one time, and the total order in which grants are drawn."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

# The ids of the system's own entries start with these. An operator's grant id may not, or it could
# take the identity of such an entry.
REFILL_PREFIX = "refill:"
RELOAD_PREFIX = "reload:"
EXPIRY_PREFIX = "expiry:"
PLAN_CHANGE_PREFIX = "plan:"
RESERVATIONS_PREFIX = "reservations:"
# Of a team's grants and entries, where a member's run draws from the team's pools.
SHARED_PREFIX = "shared:"
RESERVED_PREFIXES = (
    REFILL_PREFIX,
    RELOAD_PREFIX,
    EXPIRY_PREFIX,
    PLAN_CHANGE_PREFIX,
    RESERVATIONS_PREFIX,
    SHARED_PREFIX,
)

GRANTS_MAX = 200

# The pool of trials. Its credits count as a trial whatever their cause.
TRIAL_POOL = "trial"

_NEVER = datetime.max.replace(tzinfo=UTC)

GrantCause = Literal["refill", "reload", "purchase", "gift", "contract"]


class Grant(Struct, frozen=True):
    id: str
    pool: str
    amount_microcredits: int
    remaining_microcredits: int
    granted_at: datetime
    expires_at: datetime | None
    cause: GrantCause

    def is_live(self, now: datetime) -> bool:
        """Return whether it can be drawn. At the instant of its expiry it no longer can."""
        return self.expires_at is None or self.expires_at > now


def drawing_order(grants: Iterable[Grant], pools: Iterable[str]) -> list[Grant]:
    """Return the grants of these pools in the one order in which every worker draws them.

    1. the pool's place in the policy's order
    2. earliest expiry first, so that as little as possible expires; grants without expiry last
    3. oldest grant first
    4. grant id, so that no two grants ever tie
    """
    place = {pool: number for number, pool in enumerate(pools)}
    return sorted(
        (grant for grant in grants if grant.pool in place),
        key=lambda g: (place[g.pool], g.expires_at or _NEVER, g.granted_at, g.id),
    )
