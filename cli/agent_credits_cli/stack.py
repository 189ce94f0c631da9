"""What a stack already holds of what a file declares."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team
from agent_credits.commit.rows import Rows, TeamRows
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Identity, grant_identity
from agent_credits.values.principals import Principal
from agent_credits_cli.declared_teams import leaving_members, payers_until_changed
from agent_credits_cli.tables import tracked
from agent_credits_cli.world import World


@dataclass(frozen=True, slots=True)
class Stack:
    """What the stack holds of what the file names.

    `accounts` includes those of members who leave a team and of users who pay until its kind
    changes. `recorded`: the grants that were made.
    """

    policies: Mapping[str, BillingPolicy]
    teams: Mapping[str, Team]
    accounts: Mapping[Principal, Account]
    recorded: Mapping[Identity, Entry]


class OperatorRows(Rows, TeamRows, Protocol):
    """The rows that applying needs; the tests implement them in memory.

    Each method raises `RowsUnavailable` on a fault.
    """

    def put_policy(self, policy: BillingPolicy) -> BillingPolicy: ...

    def list_teams(self) -> Iterator[Team]: ...


def read_stack(rows: OperatorRows, world: World) -> Stack:
    """Read what the file names: each account first, then the receipts of its grants."""
    rows_of_teams = [rows.read_team(team.team_id) for team in world.teams]
    teams = {team.team_id: team for team in rows_of_teams if team}
    principals = dict.fromkeys(world.team_of_accounts())
    for declared in world.teams:
        before = teams.get(declared.team_id)
        principals |= dict.fromkeys(leaving_members(before, declared))
        principals |= dict.fromkeys(payers_until_changed(world, declared, before))
    accounts: dict[Principal, Account] = {}
    recorded: dict[Identity, Entry] = {}
    grant_ids: dict[Principal, list[str]] = {}
    for grant in world.grants:
        grant_ids.setdefault(grant.principal, []).append(grant.id)
    for principal in tracked(list(principals), "reading accounts"):
        account = rows.read_account(principal)
        if account is not None:
            accounts[principal] = account
            recorded.update(recorded_grants(rows, account, grant_ids.get(principal, ())))
    policies = [rows.read_policy(version) for version in world.policies]
    return Stack(
        policies={policy.version: policy for policy in policies if policy},
        teams=teams,
        accounts=accounts,
        recorded=recorded,
    )


def recorded_grants(
    rows: Rows, account: Account, grant_ids: Iterable[str]
) -> Mapping[Identity, Entry]:
    """Return the entries under these ids, from the account's open page and from the ledger."""
    wanted = {grant_identity(account.principal, grant_id) for grant_id in grant_ids}
    on_page = {entry.identity: entry for entry in account.entries if entry.identity in wanted}
    receipts = rows.read_receipts(wanted - on_page.keys())
    return {identity: receipt.entry for identity, receipt in receipts.items()} | on_page
