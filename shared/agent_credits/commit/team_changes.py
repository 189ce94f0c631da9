"""The one path on which a team's row changes: read, change purely, compare-and-set, bounded."""

from collections.abc import Callable

from agent_credits.billing.teams import Team
from agent_credits.commit.rows import TeamRows
from agent_credits.commit.write_protocol import ATTEMPTS_MAX, Pause
from agent_credits.values.errors import Contended, TeamMissing


def read_team(rows: TeamRows, team_id: str) -> Team:
    """Return the team's row as it is now. Raises `TeamMissing`."""
    team = rows.read_team(team_id)
    if team is None:
        raise TeamMissing(f"there is no team {team_id!r}")
    return team


def change_team(rows: TeamRows, team_id: str, change: Callable[[Team], Team], pause: Pause) -> Team:
    """Return the team after the change; a change of nothing writes nothing.

    `change` must be pure: it is called again after each lost race. Raises `TeamMissing`, and
    `Contended` after `ATTEMPTS_MAX` lost races.
    """
    team = read_team(rows, team_id)
    for attempt in range(ATTEMPTS_MAX):
        changed = change(team)
        if changed == team:
            return team
        changed = changed.model_copy(update={"version": team.version + 1})
        current = rows.compare_and_set_team(changed)
        if current is None:
            return changed
        team = current
        pause(attempt + 1)
    raise Contended(f"team {team_id}: lost {ATTEMPTS_MAX} races in a row", ATTEMPTS_MAX)
