"""Giving draws back to the grants they came from, when a run ends in a platform error."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from agent_credits.commit.decision_context import DecisionContext
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Draw, Entry, Move
from agent_credits.ledger.grants import Grant
from agent_credits.ledger.shared_pools import is_shared_grant
from agent_credits.values.errors import InvariantViolated, require


def draws_to_return(entries: Sequence[Entry]) -> tuple[Draw, ...]:
    """Return what the run took from each grant and was not yet given back."""
    net: dict[tuple[str, str], int] = {}
    for entry in entries:
        sign = -1 if entry.outcome == "returned" else 1
        for part in entry.draws:
            key = (part.pool, part.grant_id)
            net[key] = net.get(key, 0) + sign * part.microcredits
    require(all(left >= 0 for left in net.values()), "no draw is given back twice")
    return tuple(Draw(pool, grant_id, left) for (pool, grant_id), left in net.items() if left > 0)


def origin_of(account: Account, context: DecisionContext, grant_id: str) -> Grant:
    """Return the grant from the row or, once it has expired, as it was made.

    Neither the entry of its expiry nor an expired grant on the row will do: during a grace period,
    both have another expiry than the grant's own.
    """
    live = (grant for grant in account.grants if grant.is_live(context.now))
    entries = (*context.row.entries, *account.entries)
    made = (e.grant for e in entries if e.grant and e.outcome in ("granted", "refilled"))
    held = next((grant for grant in (*live, *made) if grant.id == grant_id), None)
    origin = held or context.past.grants.get(grant_id)
    if origin is None:
        raise InvariantViolated("every draw's grant is on the row or in the ledger")
    return origin


def given_back(
    account: Account,
    part: Draw,
    origin: Grant,
    grace: timedelta,
    now: datetime,
    moves: tuple[Move, ...] = (),
) -> Account | None:
    """Give the credits back to their grant; None where it expired too long ago to take them.

    A grant that expired meanwhile takes them until its grace is over. Grace is counted once, from
    the grant's own expiry, however often credits come back to it. `moves`: how the same event gave
    parts of reservations back to this grant; those lapse with what else the grant held.
    """
    held = next((grant for grant in account.grants if grant.id == part.grant_id), None)
    if held is not None and held.is_live(now):
        left = held.remaining_microcredits + part.microcredits
        return _with_grant(account, replace(held, remaining_microcredits=left))
    expires_at = origin.expires_at
    if expires_at is not None and expires_at <= now:
        expires_at += grace
        if expires_at <= now:
            return None
    if held is not None and is_shared_grant(part.grant_id):
        # It lapses on the team's account with what else the grant holds.
        left = held.remaining_microcredits + part.microcredits
        return _with_grant(account, replace(held, remaining_microcredits=left))
    revived = replace(origin, remaining_microcredits=part.microcredits, expires_at=expires_at)
    if held is None:
        return replace(account, grants=(*account.grants, revived))
    # It expired, and stays on the row because a reservation holds a part of it. What it held for
    # everyone lapses now, so that only what comes back is good for longer.
    if held.remaining_microcredits > 0:
        lapsed = Entry.expired(account.principal, held, now, moves)
        account = replace(account, entries=(*account.entries, lapsed))
    return _with_grant(account, revived)


def _with_grant(account: Account, changed: Grant) -> Account:
    grants = tuple(changed if grant.id == changed.id else grant for grant in account.grants)
    return replace(account, grants=grants)
