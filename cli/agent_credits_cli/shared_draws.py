"""What a team's account recorded of a member's run, which drew or reserved of its pools."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.ledger.accounts import pool_balances
from agent_credits.ledger.entries import Entry, PoolBalance, payers_commit
from agent_credits.ledger.shared_pools import (
    is_shared_grant,
    is_shared_pool,
    lender_of,
    pool_of_team,
    shared_grant_id,
)
from agent_credits.sweeps.reconciliation import Reconciliation
from agent_credits.values.display import amount_text
from agent_credits.values.principals import Principal
from agent_credits_cli.entries import all_pages, draws_text
from agent_credits_cli.recorded_runs import Recorded
from agent_credits_cli.tables import err

# A commit of this payer at this time; both accounts record the same time.
_Commit = tuple[Principal, datetime]


def with_shared_draws(rows: DynamoDBRows, found: Collection[Recorded]) -> list[Recorded]:
    """Return these events with what their team's account recorded of each, and held before it.

    The ledger of each team that gave or reserved something is replayed.
    """
    given: dict[_Commit, list[Recorded]] = {}
    for lender in sorted({lender for recorded in found for lender in _lenders(recorded.entry)}):
        wanted = {(r.principal, r.entry.recorded_at) for r in found if lender in _lenders(r.entry)}
        with err().status(f"replaying the ledger of {lender}"):
            for commit, recorded in _replay(rows, lender, wanted):
                given.setdefault(commit, []).append(recorded)
    return [_with_given(r, given.get((r.principal, r.entry.recorded_at), [])) for r in found]


def shared_texts(recorded: Recorded) -> Iterator[str]:
    """Yield what happened on the account of the team."""
    yield from map(_text, recorded.given)
    if not recorded.given:
        # A team's entry is the net of a commit.
        for lender in sorted(_lenders(recorded.entry)):
            yield f"the same commit took and gave back as much, so {lender} has no entry of it"


def _text(given: Recorded) -> str:
    """Return what a team's account gave or took back, and where it recorded that."""
    entry = given.entry
    net = sum(move.microcredits for move in entry.reservation.moves)
    done = "went back" if entry.type == "pool.returned" else "drawn"
    parts = [f"{draws_text(entry.draws)} {done}"] if entry.draws else []
    if net:
        parts.append(f"{amount_text(abs(net))} {'more' if net > 0 else 'less'} held for its runs")
    page = f"page {given.page_number}" + (" (open)" if given.is_on_open_page else "")
    what = ", ".join(parts) or "held for longer"
    return f"{what}; recorded as {entry.identity.id} on {page} of {given.principal}"


def _lenders(entry: Entry) -> set[Principal]:
    grant_ids = [part.grant_id for part in entry.draws]
    grant_ids += [move.grant_id for move in entry.reservation.moves]
    return {lender_of(grant_id)[0] for grant_id in grant_ids if is_shared_grant(grant_id)}


def _replay(
    rows: DynamoDBRows, lender: Principal, wanted: Collection[_Commit]
) -> Iterator[tuple[_Commit, Recorded]]:
    row = rows.read_account(lender)
    reconciliation = Reconciliation(lender)
    for page in all_pages(rows, row) if row else ():
        for entry in page.entries:
            commit = _commit_of(entry)
            if commit is not None and commit in wanted:
                before = reconciliation.account
                names = {shared_grant_id(lender.id, grant.id): grant for grant in before.grants}
                pools = sorted({grant.pool for grant in before.grants})
                yield (
                    commit,
                    Recorded(
                        lender,
                        page.number,
                        is_on_open_page=row is not None and page.number == row.page_number,
                        entry=entry,
                        held=pool_balances(before, pools, entry.recorded_at),
                        grant_pools={
                            name: pool_of_team(lender.id, grant.pool)
                            for name, grant in names.items()
                        },
                    ),
                )
            reconciliation.add_entry(entry, {})


def _commit_of(entry: Entry) -> _Commit | None:
    if entry.type not in ("pool.drawn", "pool.returned"):
        return None
    return payers_commit(entry)[0], entry.recorded_at


def _with_given(recorded: Recorded, given: list[Recorded]) -> Recorded:
    """Return the event with what its pools held before: those of the team as far as is known."""
    known = {pool.pool: pool for pool in recorded.entry.pools_before}
    for one in given:
        for pool in one.held:
            name = pool_of_team(one.principal.id, pool.pool)
            known.setdefault(name, PoolBalance(name, pool.available_microcredits))
    grant_pools: Mapping[str, str] = {
        **recorded.grant_pools,
        **{grant_id: pool for one in given for grant_id, pool in one.grant_pools.items()},
    }
    own = [pool for pool in recorded.held if not is_shared_pool(pool.pool)]
    shared = [pool.pool for pool in recorded.held if is_shared_pool(pool.pool)]
    return replace(
        recorded,
        held=(*own, *(known[pool] for pool in shared if pool in known)),
        unrecorded=tuple(pool for pool in shared if pool not in known),
        grant_pools=grant_pools,
        given=tuple(given),
    )
