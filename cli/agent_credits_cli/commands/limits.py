"""`agent-credits limits`: where each limit of a team stands now."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from agent_credits.notices.limit_words import current_limit_to_json
from agent_credits.notices.notice import iso
from agent_credits.values.display import count_text
from agent_credits_cli.hints import as_typed
from agent_credits_cli.limits import limits_of_team, limits_table
from agent_credits_cli.tables import AsJson, out, print_json
from agent_credits_cli.target import connect, rows_of
from agent_credits_cli.teams import read_team_and_policy


def limits(
    context: typer.Context,
    team_id: Annotated[str, typer.Argument(metavar="TEAM", help="The team's id.")],
    as_json: AsJson = False,
) -> None:
    """Show what is used, reserved and left under each limit of a team, and when it resets.

    The limit of each project or member comes first, then those of them that have used something,
    the fullest first. This reads the rows of the team's accounts, and of at most a thousand limits
    that span them.
    """
    rows, now = rows_of(connect(context)), datetime.now(UTC)
    team, policy = read_team_and_policy(rows, team_id, now)
    current = limits_of_team(rows, team, policy, now)
    if as_json:
        print_json(
            {
                "team_id": team.team_id,
                "time_zone": team.time_zone,
                "limits": [current_limit_to_json(limit) for limit in current.limits],
                "left_out": current.left_out,
                "at": iso(now),
            }
        )
        return
    if not team.limits:
        declare = f"{team.team_id} has no limits; declare some in a file for `agent-credits apply`"
        out().print(as_typed(context, declare), soft_wrap=True)
        return
    out().print(limits_table(current.limits, now))
    if current.left_out:
        out().print(f"and {count_text(current.left_out, 'more project')} with less used")
