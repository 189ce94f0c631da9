"""`agent-credits team`: who pays for a team's runs since when, and what its payers hold."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from agent_credits.credits import format_credits
from agent_credits.dynamodb_rows import DynamoDBRows
from agent_credits.notices import iso
from agent_credits.policy import BillingPolicy
from agent_credits.principals import Principal
from agent_credits.teams import Team, Tenure
from agent_credits_cli.account import holdings_at, rows_of
from agent_credits_cli.refusal import Refusal
from agent_credits_cli.tables import AsJson, moment, out, print_json, progress, table
from agent_credits_cli.target import connect

# Fewer accounts than this are read before a progress bar could be read.
PROGRESS_FROM: Final = 50

# A principal and its available credits; None where it has no account.
Funds = tuple[Principal, int | None]


def team(
    context: typer.Context,
    team_id: Annotated[str, typer.Argument(metavar="TEAM")],
    as_json: AsJson = False,
) -> None:
    """Show a team's settings, who pays since when, and the credits of those who pay."""
    rows, now = rows_of(connect(context)), datetime.now(UTC)
    found = rows.read_team(team_id)
    if found is None:
        raise Refusal(f"there is no team {team_id}; declare it in a file for `agent-credits apply`")
    version = found.tenure_at(now).policy_version
    policy = rows.read_policy(version)
    if policy is None:
        raise Refusal(f"{team_id} is billed by policy {version}, which is missing; apply it again")
    funds = list(_funds(rows, payers(found, policy, now), policy, now))
    if as_json:
        print_json(_to_json(found, funds, now))
    else:
        _show(found, funds, now)


def payers(team: Team, policy: BillingPolicy, now: datetime) -> list[Principal]:
    """Return everyone who may pay for a run of the team now: owner, members, or the team itself."""
    tenure = team.tenure_at(now)
    kinds = {rule.payer for rule in policy.rules if rule.team == tenure.kind}
    user_ids = [tenure.owner] if "owner" in kinds else []
    if "user" in kinds and team.members != "*":
        user_ids += sorted(team.members)
    principals = [Principal("user", user_id) for user_id in dict.fromkeys(user_ids)]
    return [*principals, *([Principal("team", team.team_id)] if "team" in kinds else [])]


def _funds(
    rows: DynamoDBRows, principals: list[Principal], policy: BillingPolicy, now: datetime
) -> Iterator[Funds]:
    with progress(shown=len(principals) >= PROGRESS_FROM) as bar:
        task = bar.add_task("reading accounts", total=len(principals))
        for principal in principals:
            row = rows.read_account(principal)
            yield principal, holdings_at(row, policy, now).available_microcredits if row else None
            bar.advance(task)


def _to_json(team: Team, funds: list[Funds], now: datetime) -> dict[str, Any]:
    return {
        "team_id": team.team_id,
        "version": team.version,
        "plan": team.plan,
        "time_zone": team.time_zone,
        "members": "*" if team.members == "*" else sorted(team.members),
        "tenures": [
            tenure.model_dump(mode="json") | {"state": _state(team, tenure, now)}
            for tenure in team.tenures
        ],
        "payers": [
            {
                "principal": str(principal),
                "available_credits": None if left is None else format_credits(left),
            }
            for principal, left in funds
        ],
        "at": iso(now),
    }


def _show(team: Team, funds: list[Funds], now: datetime) -> None:
    members = "every user" if team.members == "*" else f"{len(team.members)} members"
    out().print(f"{team.team_id}: plan {team.plan}, {members}, time zone {team.time_zone}")
    tenures = table("since", "kind", "owner", "policy", "state", title="who pays")
    for tenure in team.tenures:
        tenures.add_row(
            moment(tenure.since),
            tenure.kind,
            tenure.owner,
            tenure.policy_version,
            _state(team, tenure, now),
        )
    out().print(tenures)
    credits_of = table("payer", ">available")
    for principal, left in funds:
        credits_of.add_row(str(principal), "no account" if left is None else format_credits(left))
    out().print(credits_of)


def _state(team: Team, tenure: Tenure, now: datetime) -> str:
    if tenure is team.tenure_at(now):
        return "current"
    return "pending" if tenure.since > now else "past"
