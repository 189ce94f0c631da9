"""Names of what an account draws from its team's account: a shared pool and its grants.

A rule names such a pool "team:shared". On the account of a member of the team acme it is the pool
"team:acme/shared", and the team's grant "g-1" is "shared:acme/g-1". So no two teams' pools are
taken for one another, and no such grant for one of the account's own.
"""

from msgspec.structs import replace

from agent_credits.ledger.grants import SHARED_PREFIX, Grant
from agent_credits.values.principals import Principal, parse_principal

TEAM_POOL_PREFIX = "team:"


def is_shared_pool(pool: str) -> bool:
    return pool.startswith(TEAM_POOL_PREFIX)


def is_shared_grant(grant_id: str) -> bool:
    return grant_id.startswith(SHARED_PREFIX)


def pool_of_team(team_id: str, pool: str) -> str:
    """Return the name of a team's pool on the accounts of its members."""
    return f"{TEAM_POOL_PREFIX}{team_id}/{pool}"


def own_pool(shared_pool: str) -> str:
    """Return the name of a shared pool on the team's own account."""
    # The name of a pool holds no slash; that of a team may.
    return shared_pool.removeprefix(TEAM_POOL_PREFIX).rpartition("/")[2]


def shared_grant_id(team_id: str, grant_id: str) -> str:
    return f"{SHARED_PREFIX}{_escaped(team_id)}/{grant_id}"


def lender_of(shared_id: str) -> tuple[Principal, str]:
    """Return whose grant it is, and the grant's own id."""
    team_id, _, grant_id = shared_id.removeprefix(SHARED_PREFIX).partition("/")
    return Principal("team", team_id.replace("%2F", "/").replace("%25", "%")), grant_id


def holding_id(payer: Principal, run_id: str) -> str:
    """Return how the team's row names what a payer's run holds of it; no run's id has a space."""
    return f"{payer} {run_id}"


def payers_run(holding: str) -> tuple[Principal, str]:
    """Return the payer and the root of the runs that the team's row holds this for."""
    payer, _, run_id = holding.partition(" ")
    return parse_principal(payer), run_id


def is_holding(run_id: str) -> bool:
    return " " in run_id


def lent(team_id: str, grant: Grant) -> Grant:
    """Return the team's grant as it is called on the accounts of its members."""
    return replace(
        grant, id=shared_grant_id(team_id, grant.id), pool=pool_of_team(team_id, grant.pool)
    )


def taken_back(grant: Grant) -> Grant:
    """Return a grant that was lent as it is called on the team's own account."""
    _, grant_id = lender_of(grant.id)
    return replace(grant, id=grant_id, pool=own_pool(grant.pool))


def _escaped(team_id: str) -> str:
    return team_id.replace("%", "%25").replace("/", "%2F")
