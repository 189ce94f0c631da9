"""Who may pay for a team's runs, and from which pools, according to the policy's rules.

A team whose pools its members draw pays with them, so it is one of its payers.
"""

from collections.abc import Iterator
from datetime import datetime

from agent_credits.billing.policy import BillingPolicy, BillingRule, TeamKind
from agent_credits.billing.teams import Team
from agent_credits.ledger.shared_pools import is_shared_pool
from agent_credits.values.principals import Principal


def payers(team: Team, policy: BillingPolicy, now: datetime) -> list[Principal]:
    """Return everyone who may pay for a run of the team now: owner, members, or the team itself."""
    tenure = team.tenure_at(now)
    rules = [rule for rule in policy.rules if rule.team == tenure.kind]
    kinds = {rule.payer for rule in rules} | {"team" for rule in rules if rule.lends}
    user_ids = [tenure.owner] if "owner" in kinds else []
    if "user" in kinds and team.members != "*":
        user_ids += sorted(team.members)
    principals = [Principal("user", user_id) for user_id in dict.fromkeys(user_ids)]
    return [*principals, *([Principal("team", team.team_id)] if "team" in kinds else [])]


def may_pay(principal: Principal, team: Team, now: datetime) -> bool:
    """Tell whether runs of the team can be billed to the principal, now or by a tenure to come."""
    if principal.kind == "team":
        return principal.id == team.team_id
    owners = {team.tenure_at(now).owner, *(t.owner for t in team.tenures if t.since > now)}
    return principal.id in owners or team.has_member_at(principal.id, now)


def pays(principal: Principal, team: Team, policy: BillingPolicy, now: datetime) -> bool:
    """Tell whether a run of the team that starts now may be billed to the principal."""
    return any(True for _ in _rules_paid(principal, team, policy, now))


def _rules_paid(
    principal: Principal, team: Team, policy: BillingPolicy, now: datetime
) -> Iterator[BillingRule]:
    tenure = team.tenure_at(now)
    for rule in policy.rules:
        if rule.team == tenure.kind and _pays_by(rule, principal, team, now):
            yield rule


def _pays_by(rule: BillingRule, principal: Principal, team: Team, now: datetime) -> bool:
    match rule.payer:
        case "user":
            return principal.kind == "user" and team.has_member_at(principal.id, now)
        case "owner":
            return principal == Principal("user", team.tenure_at(now).owner)
        case "team":
            return principal == Principal("team", team.team_id)


def pools_lent_to(
    principal: Principal, team: Team, policy: BillingPolicy, now: datetime
) -> tuple[str, ...]:
    """Return the team's pools that runs of this payer draw behind the payer's own, by full name."""
    rules = _rules_paid(principal, team, policy, now)
    pools = (pool for rule in rules for pool in rule.pools_in(team.team_id))
    return tuple(dict.fromkeys(pool for pool in pools if is_shared_pool(pool)))


def pools_of(
    principal: Principal, policy: BillingPolicy, kind: TeamKind | None = None
) -> tuple[str, ...]:
    """Return the pools of this account that runs may draw, in the order of the rules.

    What a member's runs draw of the team is a pool of the team's account. `kind`: of the team
    whose account it is, if that is known.
    """
    rules = [rule for rule in policy.rules if kind is None or rule.team == kind]
    orders = [rule.pools_drawn_of(principal) for rule in rules]
    return tuple(dict.fromkeys(pool for pools in orders for pool in pools))
