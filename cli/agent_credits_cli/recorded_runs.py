"""What is recorded of a run, on whichever accounts it was billed to."""

from dataclasses import dataclass, field

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.ledger.entries import Entry, PoolBalance
from agent_credits.values.principals import Principal
from agent_credits_cli.reservations import Pools
from agent_credits_cli.tables import err


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event of the run, where it is recorded, and what each pool of its order held before.

    `held` is empty if the policy that names the order is missing. `grant_pools`: the pool of each
    grant that the account held then. `unrecorded`: pools of the
    team of which its account recorded nothing. `given`: what it recorded of the same commit.
    """

    principal: Principal
    page_number: int
    is_on_open_page: bool
    entry: Entry
    held: tuple[PoolBalance, ...] = ()
    grant_pools: Pools = field(default_factory=dict)
    unrecorded: tuple[str, ...] = ()
    given: tuple["Recorded", ...] = ()

    def drawn_from(self, pool: str) -> int:
        return sum(part.microcredits for part in self.entry.draws if part.pool == pool)

    def taken_from(self, pool: str) -> int:
        """Return what the entry took of the pool's available credits, to draw or to reserve."""
        moved = sum(
            move.microcredits
            for move in self.entry.reservation.moves
            if self.grant_pools.get(move.grant_id) == pool
        )
        return self.drawn_from(pool) + moved


def find_run(rows: DynamoDBRows, run_id: str, principal: Principal | None) -> list[Recorded]:
    """Return what is recorded of a run, in no order.

    An event on an open page has no receipt yet. So the open pages of the accounts that the run is
    known to be billed to are read, or else those of all accounts.
    """
    found = {
        receipt.entry.identity: Recorded(
            receipt.principal, receipt.page_number, False, receipt.entry
        )
        for receipt in rows.read_run(run_id)
    }
    principals = {recorded.principal for recorded in found.values()}
    if principal is not None:
        principals.add(principal)
    with err().status(f"reading open pages for events of run {run_id}"):
        for row in map(rows.read_account, principals) if principals else rows.list_accounts():
            for entry in row.entries if row else ():
                identity = entry.identity
                if row and (identity.realm, identity.subject) == ("RUN", run_id):
                    recorded = Recorded(row.principal, row.page_number, True, entry)
                    found.setdefault(identity, recorded)
    return list(found.values())
