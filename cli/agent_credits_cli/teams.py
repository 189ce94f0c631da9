"""A team that a command names: found in the stack, with the policy that bills it."""

from datetime import datetime

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team
from agent_credits_cli.errors import CommandError


def read_team_and_policy(
    rows: DynamoDBRows, team_id: str, now: datetime
) -> tuple[Team, BillingPolicy]:
    """Return the team and the policy that bills it now. Raises `CommandError` without either."""
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
