"""What time alone does to an account: plan credits refill, grants and reservations expire.

All are applied lazily, by a pure function of account and time, with the account's next commit. So
no midnight job can be late, and no draw can use expired credits: an expired grant is never live,
whether or not its expiry has been recorded yet.

A part that a reservation holds of a grant that has expired is good until the reservation ends. The
grant stays on the row until then, and its expiry is recorded once, with all that lapses.
"""

from datetime import datetime

from msgspec.structs import replace

from agent_credits.ledger.accounts import Account, held_grant_ids
from agent_credits.ledger.ends import end_trees
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.grants import REFILL_PREFIX, Grant
from agent_credits.ledger.shared_pools import is_shared_grant
from agent_credits.values.periods import next_period_starts_at, period_containing


def bring_up_to(account: Account, now: datetime) -> Account:
    """Return the account at `now`, with an entry for each grant that expired and each refill.

    All reservations that expired have one entry together.
    """
    return _refill(_expire(_expire_reservations(account, now), now), now)


def resets_at(account: Account, now: datetime) -> datetime | None:
    """Return when the plan refills next, or None if no plan refills this account."""
    if account.plan is None or account.plan.microcredits == 0:
        return None
    return next_period_starts_at(account.plan.anchor, now)


def _expire_reservations(account: Account, now: datetime) -> Account:
    over = [held.run_id for held in account.reservations if not held.is_live(now)]
    if not over:
        return account
    after, facts = end_trees(account, over)
    version = account.version + 1
    entry = Entry.reservations_expired(account.principal, version, facts, now)
    return replace(after, entries=(*after.entries, entry))


def _expire(account: Account, now: datetime) -> Account:
    held = held_grant_ids(account)
    # A grant that a team lends for a commit expires on the team's own account.
    own = (grant for grant in account.grants if not is_shared_grant(grant.id))
    over = [grant for grant in own if not grant.is_live(now) and grant.id not in held]
    if not over:
        return account
    expired = [grant for grant in over if grant.remaining_microcredits > 0]
    gone = {grant.id for grant in over}
    return replace(
        account,
        grants=tuple(grant for grant in account.grants if grant.id not in gone),
        entries=account.entries
        + tuple(Entry.expired(account.principal, grant, now) for grant in expired),
    )


def _refill(account: Account, now: datetime) -> Account:
    plan = account.plan
    if plan is None or plan.microcredits == 0:
        return account
    period = period_containing(plan.anchor, now)
    if period is None or (plan.refilled_from and period.start.date() <= plan.refilled_from):
        return account
    start = period.start.date()
    grant = Grant(
        id=f"{REFILL_PREFIX}{start.isoformat()}",
        pool=plan.pool,
        amount_microcredits=plan.microcredits,
        remaining_microcredits=plan.microcredits,
        granted_at=period.start,
        expires_at=period.end,
        cause="refill",
    )
    entry = Entry.refilled(account.principal, grant, plan.name, now)
    return replace(
        account,
        grants=(*account.grants, grant),
        plan=replace(plan, refilled_from=start),
        entries=(*account.entries, entry),
    )
