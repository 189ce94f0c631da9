"""Head-room under the spend cap: reloads and manual purchases reserve it by the same steps.

    1 read the team's row    a purchase that has a reservation there keeps it
    2 look at the account    whether it still needs the purchase, and what to reserve for it
    3 compare-and-set        the team's row, as it was read; after a lost race, start again at 1

Why nothing is bought twice: a purchase that ends changes the account first and the team's row after
it. The row is read before the account, so a worker that comes late either finds on the account that
the purchase has ended, or loses the write. Read the other way round, it could miss both.
"""

from collections.abc import Callable
from typing import Generic, Literal, TypeVar

from msgspec import Struct

from agent_credits.billing.spend_cap import CapReservation, Spending, reserve
from agent_credits.billing.teams import Team
from agent_credits.commit.rows import TeamRows
from agent_credits.commit.team_changes import change_team, read_team
from agent_credits.commit.write_protocol import ATTEMPTS_MAX, Pause
from agent_credits.values.errors import Contended

Cause = TypeVar("Cause")


class NotReserved(Struct, Generic[Cause], frozen=True):
    """Nothing was reserved, as decided by this row of the team.

    `cause` is why the purchase is declined, or None where the account no longer needs it.
    """

    team: Team
    cause: Cause | Literal["spend_cap_reached"] | None


def reserve_head_room(
    rows: TeamRows,
    team_id: str,
    purchase_id: str,
    price: Callable[[Team], CapReservation | Cause | None],
    pause: Pause,
) -> CapReservation | NotReserved[Cause]:
    """Return the purchase's reservation, made now or by an earlier attempt.

    `price` reads the account and returns what to reserve, or why nothing, as in `NotReserved`; it
    is called again after each lost race. Raises `TeamMissing`, and `Contended` after
    `ATTEMPTS_MAX` lost races.
    """
    for attempt in range(ATTEMPTS_MAX):
        team = read_team(rows, team_id)
        held = team.spending.reservation(purchase_id)
        if held is not None:
            return held
        priced = price(team)
        if not isinstance(priced, CapReservation):
            return NotReserved(team, priced)
        spending = reserve(team.spending, priced, team.spend_cap_cents)
        if spending is None:
            return NotReserved(team, "spend_cap_reached")
        changed = {"spending": spending, "version": team.version + 1}
        if rows.compare_and_set_team(team.model_copy(update=changed)) is None:
            return priced
        pause(attempt + 1)
    raise Contended(f"team {team_id}: lost {ATTEMPTS_MAX} races in a row", ATTEMPTS_MAX)


def change_spending(
    rows: TeamRows, team_id: str, change: Callable[[Team], Spending], pause: Pause
) -> Team:
    """Change the spending on the team's row and nothing else of it, as `change_team` does."""

    def changed(team: Team) -> Team:
        return team.model_copy(update={"spending": change(team)})

    return change_team(rows, team_id, changed, pause)
