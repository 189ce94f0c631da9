"""What an apply says of limits that are passed as soon as they change."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from agent_credits.billing.limits import declared_for
from agent_credits.billing.teams import Team
from agent_credits.ledger.limits import LimitStanding
from agent_credits.values.display import amount_text, count_text, credits_text, time_text
from agent_credits_cli.limit_settings import place_text
from agent_credits_cli.limits import limits_of_team
from agent_credits_cli.stack import OperatorRows
from agent_credits_cli.steps import SetTeam, Step

NAMED_MAX: Final = 10


def limits_passed(rows: OperatorRows, steps: Sequence[Step], now: datetime) -> list[str]:
    """Return a warning for each limit that a step changes to less than is drawn and reserved.

    What counts is read only for teams whose limits change.
    """
    return [
        warning
        for step in steps
        if isinstance(step, SetTeam) and step.before and step.before.limits != step.after.limits
        for warning in _warnings(rows, step.before, step.after, now)
    ]


def _warnings(rows: OperatorRows, before: Team, after: Team, now: datetime) -> Iterator[str]:
    policy = rows.read_policy(after.tenure_at(now).policy_version)
    if policy is None:
        return
    passed = [
        limit.standing
        for limit in limits_of_team(rows, after, policy, now).limits
        if limit.standing is not None
        and limit.is_passed
        and not limit.is_lifted(now)
        and declared_for(before.limits, limit.standing.key) != limit.declared
    ]
    for standing in passed[:NAMED_MAX]:
        yield _warning(standing)
    if len(passed) > NAMED_MAX:
        more = count_text(len(passed) - NAMED_MAX, "more limit")
        yield f"team {after.team_id} is over {more} too"


def _warning(standing: LimitStanding) -> str:
    key, resets_at = standing.key, standing.resets_at
    limit = credits_text(standing.limit_microcredits)
    taken = f"{amount_text(standing.drawn_microcredits)} of {limit} used"
    if standing.held_microcredits:
        taken += f" and {amount_text(standing.held_microcredits)} reserved"
    what_follows = "new runs are refused" if standing.stops else "it only warns"
    return (
        f"team {key.team_id} is over its new limit of {place_text(key.scope, key.id, key.period)}:"
        f" {taken}; {what_follows}"
        + (f", and it resets at {time_text(resets_at)}" if resets_at else "")
    )
