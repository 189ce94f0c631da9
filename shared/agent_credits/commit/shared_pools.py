"""Shared pools: what a commit draws and reserves of the pools of a team, on both accounts.

While a batch is decided, the team's grants stand among the payer's own, so that one waterfall draws
all. At the end they go back, with what became of them: the team's page gets an entry per commit of
a payer that drew or gave back, and the team's row holds what the payer's reservations hold of it.

A tree of reservations is one reservation on the team's row, with the expiry of its root. Children
never outlive their root, and what they leave stays in the tree. So either row alone knows what is
free at any time, and an expiry needs no commit of the other.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from msgspec.structs import replace

from agent_credits.billing.teams import Billing
from agent_credits.commit.beside import Beside
from agent_credits.commit.changes import Change, Past, RunChange
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import (
    NO_RESERVATION,
    Draw,
    EndedReservation,
    Entry,
    Move,
    ReservationFacts,
    total_of,
)
from agent_credits.ledger.reservations import (
    RESERVATIONS_MAX,
    Parts,
    Reservation,
    moved,
    net,
    reservation_of,
    together,
    tree_below,
)
from agent_credits.ledger.shared_pools import (
    holding_id,
    is_shared_grant,
    is_shared_pool,
    lender_of,
    lent,
    own_pool,
    taken_back,
)
from agent_credits.values.principals import Principal


def lenders(row: Account, changes: Iterable[Change]) -> frozenset[Principal]:
    """Return the teams whose pools these changes of a payer's account may draw or give back to."""
    runs = [change for change in changes if isinstance(change, RunChange)]
    named = {run.billing.lender for run in runs if run.billing.lender is not None}
    parts = [part for held in row.reservations for part in held.parts]
    return frozenset(named | {lender_of(p.grant_id)[0] for p in parts if is_shared_pool(p.pool)})


def with_grants_lent(account: Account, beside: Beside) -> Account:
    """Return the payer's account with the grants of its teams among its own.

    Of what has expired, only what the payer's own reservations hold parts of.
    """
    held = {part.grant_id for r in account.reservations for part in r.parts}
    shared = [
        grant
        for team in beside.shared.values()
        if team is not None
        for grant in (lent(team.principal.id, own) for own in team.grants)
        if grant.id in held or grant.remaining_microcredits > 0
    ]
    return replace(account, grants=(*account.grants, *shared)) if shared else account


def without_grants_lent(account: Account) -> Account:
    grants = tuple(grant for grant in account.grants if not is_shared_pool(grant.pool))
    return replace(account, grants=grants) if len(grants) < len(account.grants) else account


def past_with_lenders(past: Past, beside: Beside) -> Past:
    """Return the past with the teams' grants as they were made, as far as their pages show."""
    made = {
        grant.id: grant
        for team, entries in beside.pages.items()
        for entry in entries
        if entry.grant is not None and entry.outcome in ("granted", "refilled")
        for grant in (lent(team.id, entry.grant),)
    }
    return replace(past, grants={**made, **past.grants}) if made else past


def moved_lenders(
    after: Account, entries: Sequence[Entry], beside: Beside, now: datetime
) -> dict[Principal, Account]:
    """Return the teams' accounts that the payer's commit moves, with their new entries.

    `after`: the payer's account with the teams' grants among its own, before its version is raised.
    """
    moved_teams: dict[Principal, Account] = {}
    for principal, team in beside.shared.items():
        if team is None:
            continue
        changed = _with_commit(team, after, entries, now)
        if changed is not None:
            moved_teams[principal] = changed
    return moved_teams


def holds_too_many(account: Account, billing: Billing, beside: Beside) -> bool:
    """Return whether the team's account has no room for one more reservation of this payer."""
    team = beside.shared.get(billing.lender) if billing.lender is not None else None
    if team is None:
        return False
    others = sum(not _is_holding_of(held, account.principal) for held in team.reservations)
    return others + len(account.reservations) >= RESERVATIONS_MAX


def billing_of_lender(billing: Billing) -> Billing:
    """Return how a run is billed as far as the team's account is concerned."""
    if billing.lender is None:
        raise TypeError("only a run whose rule names a pool of the team has a lender")
    pools = tuple(own_pool(pool) for pool in billing.pools if is_shared_pool(pool))
    return Billing(
        principal=billing.lender,
        payer="team",
        pools=pools,
        policy_version=billing.policy_version,
        grace=billing.grace,
        low_thresholds=billing.low_thresholds,
        lender=billing.lender,
    )


def _with_commit(
    team: Account, after: Account, entries: Sequence[Entry], now: datetime
) -> Account | None:
    """Return the team's account after the payer's commit, or None if the commit leaves it alone."""
    payer = after.principal
    lent_after = {
        grant.id: grant
        for grant in (taken_back(g) for g in after.grants if _is_of(g.id, team.principal))
    }
    holdings = _holdings(after, team.principal)
    held_before = tuple(r for r in team.reservations if _is_holding_of(r, payer))
    drawn, returned = _net_draws(entries, team.principal)
    if not drawn and not returned and holdings == held_before:
        return None
    grants = tuple(lent_after.pop(grant.id, grant) for grant in team.grants)
    others = tuple(r for r in team.reservations if not _is_holding_of(r, payer))
    moves = _moves(held_before, holdings)
    ended = tuple(
        _at_its_end(held) for held in held_before if reservation_of(holdings, held.run_id) is None
    )
    facts = ReservationFacts(moves, ended) if moves or ended else NO_RESERVATION
    # What came back to a grant that had left the row may be reserved already.
    held = {part.grant_id for holding in holdings for part in holding.parts}
    back = (g for g in lent_after.values() if g.remaining_microcredits > 0 or g.id in held)
    version, recorded = after.version + 1, list[Entry]()
    if returned:
        recorded.append(Entry.pool_returned(team.principal, payer, version, returned, now))
    if drawn or facts is not NO_RESERVATION or not returned:
        recorded.append(Entry.pool_drawn(team.principal, payer, version, drawn, facts, now))
    return replace(
        team,
        grants=(*grants, *back),
        reservations=(*others, *holdings),
        entries=(*team.entries, *recorded),
    )


def _is_of(shared_id: str, lender: Principal) -> bool:
    return is_shared_grant(shared_id) and lender_of(shared_id)[0] == lender


def _holdings(account: Account, lender: Principal) -> tuple[Reservation, ...]:
    """Return what the payer's reservations hold of the team's grants, tree by tree."""
    holdings: list[Reservation] = []
    for root in account.reservations:
        if root.parent_run_id is not None:
            continue
        parts = _parts_of_tree(account.reservations, root, lender)
        if parts:
            holdings.append(
                Reservation(
                    run_id=holding_id(account.principal, root.run_id),
                    parent_run_id=None,
                    parts=parts,
                    reserved_microcredits=total_of(parts),
                    expires_at=root.expires_at,
                    terms=replace(root.terms, step_microcredits=0, grace_microcredits=0),
                )
            )
    return tuple(holdings)


def _parts_of_tree(
    reservations: Sequence[Reservation], root: Reservation, lender: Principal
) -> Parts:
    held = together(*(member.parts for member in tree_below(reservations, root.run_id)))
    parts = (
        Draw(own_pool(part.pool), lender_of(part.grant_id)[1], part.microcredits)
        for part in held
        if _is_of(part.grant_id, lender)
    )
    return tuple(sorted(parts, key=lambda part: (part.pool, part.grant_id)))


def _is_holding_of(reservation: Reservation, payer: Principal) -> bool:
    return reservation.run_id.startswith(holding_id(payer, ""))


def _at_its_end(held: Reservation) -> EndedReservation:
    return EndedReservation(held.run_id, None, held.reserved_microcredits, 0)


def _moves(before: Sequence[Reservation], after: Sequence[Reservation]) -> tuple[Move, ...]:
    moves = [move for held in before for move in moved(held.run_id, held.parts, -1)]
    moves += [move for held in after for move in moved(held.run_id, held.parts, 1)]
    return net(moves)


def _net_draws(
    entries: Iterable[Entry], lender: Principal
) -> tuple[tuple[Draw, ...], tuple[Draw, ...]]:
    """Return what the payer's new entries drew of the team's grants, and what they gave back."""
    sums: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        sign = -1 if entry.outcome == "returned" else 1
        for part in entry.draws:
            if is_shared_pool(part.pool) and _is_of(part.grant_id, lender):
                sums[part.pool, part.grant_id] += sign * part.microcredits
    return _draws(sums, 1), _draws(sums, -1)


def _draws(sums: Mapping[tuple[str, str], int], sign: int) -> tuple[Draw, ...]:
    return tuple(
        Draw(own_pool(pool), lender_of(grant_id)[1], sign * amount)
        for (pool, grant_id), amount in sums.items()
        if sign * amount > 0
    )
