"""The team that a command names, and the policy that bills it."""

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.directory import SettingsRows
from agent_credits.billing.payers import may_pay
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import EVERYONE, Team
from agent_credits.values.principals import Principal
from agent_credits_cli.errors import CommandError
from agent_credits_cli.tables import err


def read_team_and_policy(
    rows: DynamoDBRows, team_id: str, now: datetime
) -> tuple[Team, BillingPolicy]:
    """Return the team and its current policy. Raises `CommandError` if either is missing."""
    found = rows.read_team(team_id)
    if found is None:
        raise CommandError(
            f"there is no team {team_id}; declare it in a file for `agent-credits apply`"
        )
    version = found.tenure_at(now).policy_version
    policy = rows.read_policy(version)
    if policy is None:
        raise CommandError(
            f"{team_id} is billed by policy {version}, which is missing; apply it again"
        )
    return found, policy


class TeamsRows(SettingsRows, Protocol):
    """The rows of teams; an operator may read all of them."""

    def list_teams(self) -> Iterator[Team]: ...


def teams_billing(rows: TeamsRows, principal: Principal, now: datetime) -> list[Team]:
    """Return the teams whose runs can be billed to the principal, found by owner and members.

    For a user, this reads every team.
    """
    if principal.kind == "team":
        team = rows.read_team(principal.id)
        return [team] if team else []
    with err().status("looking for the user's team"):
        return [
            team
            for team in rows.list_teams()
            if team.members != EVERYONE and may_pay(principal, team, now)
        ]
