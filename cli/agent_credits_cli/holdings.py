"""What an account holds at a time: its pools, and its grants in drawing order."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.payers import pools_lent_to, pools_of
from agent_credits.billing.policy import BillingPolicy, TeamKind
from agent_credits.billing.teams import Team
from agent_credits.commit.changes import Past
from agent_credits.commit.decision_context import DecisionContext
from agent_credits.commit.low_credits import with_low_credits
from agent_credits.ledger.accounts import (
    Account,
    available_microcredits,
    pool_balances,
    reserved_balances,
    reserved_by_grant,
    total_microcredits,
)
from agent_credits.ledger.entries import PoolBalance
from agent_credits.ledger.expiry import bring_up_to, resets_at
from agent_credits.ledger.grants import Grant, drawing_order
from agent_credits.ledger.reservations import Reservation
from agent_credits.ledger.shared_pools import is_holding, own_pool, payers_run
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Principal
from agent_credits_cli.accounts import existing_account
from agent_credits_cli.teams import teams_billing


@dataclass(frozen=True, slots=True)
class Holdings:
    """An account at a time; `pools` are in drawing order, without those that no run may draw.

    `shared`: what is available in the pools of the team that runs draw behind these.
    """

    account: Account
    pools: tuple[str, ...]
    now: datetime
    shared: tuple[PoolBalance, ...] = ()

    @property
    def balances(self) -> tuple[PoolBalance, ...]:
        return pool_balances(self.account, self.pools, self.now)

    @property
    def available_microcredits(self) -> int:
        return available_microcredits(self.account, self.pools, self.now)

    @property
    def reserved(self) -> tuple[PoolBalance, ...]:
        """What runs in flight hold of each pool, beside its balance."""
        return reserved_balances(self.account, self.pools, self.now)

    @property
    def reserved_microcredits(self) -> int:
        return total_microcredits(self.reserved)

    @property
    def reserved_of_shared(self) -> tuple[PoolBalance, ...]:
        """What runs in flight of this account hold of each pool of the team."""
        return reserved_balances(self.account, [pool.pool for pool in self.shared], self.now)

    @property
    def held_for_members(self) -> list[Reservation]:
        """What a team's account holds of its pools for runs that its members pay for."""
        live = self.account.reservations
        return [held for held in live if is_holding(held.run_id) and held.is_live(self.now)]

    @property
    def reserved_by_grant(self) -> dict[str, int]:
        return reserved_by_grant(self.account, self.now)

    @property
    def grants(self) -> list[Grant]:
        undrawn = sorted({grant.pool for grant in self.account.grants} - set(self.pools))
        return drawing_order(self.account.grants, (*self.pools, *undrawn))

    @property
    def resets_at(self) -> datetime | None:
        return resets_at(self.account, self.now)


def read_holdings(rows: DynamoDBRows, principal: Principal, now: datetime) -> Holdings:
    row = existing_account(rows, principal)
    team_id, policy = _billed_by(rows, row, now)
    team = rows.read_team(team_id) if team_id else None
    if principal.kind == "team":
        return holdings_at(row, policy, now, team.tenure_at(now).kind if team else None)
    holdings = holdings_at(row, policy, now)
    if team is None or policy is None:
        return holdings
    return replace(holdings, shared=_shared(rows, row, team, policy, now))


def _shared(
    rows: DynamoDBRows, row: Account, team: Team, policy: BillingPolicy, now: datetime
) -> tuple[PoolBalance, ...]:
    """Return what is available in the pools that the team shares with this account."""
    pools = pools_lent_to(row.principal, team, policy, now)
    if not pools:
        return ()
    lender = Principal("team", team.team_id)
    balances = pool_balances(
        rows.read_account(lender) or Account(lender), map(own_pool, pools), now
    )
    return tuple(
        PoolBalance(pool, balance.available_microcredits)
        for pool, balance in zip(pools, balances, strict=True)
    )


def holdings_at(
    row: Account, policy: BillingPolicy | None, now: datetime, kind: TeamKind | None = None
) -> Holdings:
    """Return the account as its next commit would bring it up to `now`; nothing is written.

    `kind`: of the team whose account it is, if that is known.
    """
    current = bring_up_to(row, now)
    # A refill that is due may also have lifted the account above its thresholds.
    expires = current.entries[len(row.entries) :]
    current = with_low_credits(current, (), expires, DecisionContext(row, Past(), now))
    if policy is None:
        return Holdings(current, tuple(sorted({grant.pool for grant in current.grants})), now)
    return Holdings(current, pools_of(row.principal, policy, kind), now)


def _billed_by(
    rows: DynamoDBRows, row: Account, now: datetime
) -> tuple[str | None, BillingPolicy | None]:
    """Return whose runs are billed to the account, and the policy that they are billed under.

    The newest run on the open page names both. Before the first run, it is a team that bills this
    account, and finding that team may mean reading all teams.
    """
    runs = [entry.run for entry in row.entries if entry.run]
    if runs:
        return runs[-1].team_id, rows.read_policy(runs[-1].policy_version)
    team = next(iter(teams_billing(rows, row.principal, now)), None)
    if team is None:
        return None, None
    return team.team_id, rows.read_policy(team.tenure_at(now).policy_version)


def holdings_to_json(holdings: Holdings) -> dict[str, Any]:
    plan, refill = holdings.account.plan, holdings.resets_at
    low, reserved = holdings.account.low, holdings.reserved_by_grant
    return {
        "principal": str(holdings.account.principal),
        "version": holdings.account.version,
        "available_credits": format_credits(holdings.available_microcredits),
        "reserved_credits": format_credits(holdings.reserved_microcredits),
        "pools": [
            {
                "pool": b.pool,
                "available_credits": format_credits(b.available_microcredits),
                "reserved_credits": format_credits(r.available_microcredits),
            }
            for b, r in zip(holdings.balances, holdings.reserved, strict=True)
        ],
        "shared_pools": [
            {
                "pool": b.pool,
                "available_credits": format_credits(b.available_microcredits),
                "reserved_credits": format_credits(r.available_microcredits),
            }
            for b, r in zip(holdings.shared, holdings.reserved_of_shared, strict=True)
        ],
        "held_for_members": [
            {
                "principal": str(payer),
                "run_id": run_id,
                "credits": format_credits(held.left_microcredits),
                "expires_at": iso(held.expires_at),
            }
            for held in holdings.held_for_members
            for payer, run_id in [payers_run(held.run_id)]
        ],
        "grants": [
            {
                "id": grant.id,
                "pool": grant.pool,
                "remaining_credits": format_credits(grant.remaining_microcredits),
                "reserved_credits": format_credits(reserved.get(grant.id, 0)),
                "amount_credits": format_credits(grant.amount_microcredits),
                "granted_at": iso(grant.granted_at),
                "expires_at": iso(grant.expires_at) if grant.expires_at else None,
                "cause": grant.cause,
            }
            for grant in holdings.grants
        ],
        "low": low
        and {
            "notified": [str(threshold) for threshold in low.notified],
            "deferred": [str(threshold) for threshold in low.deferred],
            "percent_of_credits": format_credits(low.base_microcredits),
            "decline": low.decline,
        },
        "plan": plan
        and {
            "name": plan.name,
            "pool": plan.pool,
            "credits": format_credits(plan.microcredits),
            "resets_at": iso(refill) if refill else None,
        },
    }
