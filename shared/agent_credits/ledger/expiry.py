"""What time alone does to an account: plan credits refill, and grants expire.

Both are applied lazily, by a pure function of account and time, with the account's next commit. So
no midnight job can be late, and no draw can use expired credits: an expired grant is never live,
whether or not its expiry has been recorded yet.
"""

from datetime import datetime

from msgspec.structs import replace

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.grants import REFILL_PREFIX, Grant
from agent_credits.values.periods import next_period_starts_at, period_containing


def bring_up_to(account: Account, now: datetime) -> Account:
    """Return the account at `now`, with an entry for each grant that expired and each refill."""
    return _refill(_expire(account, now), now)


def resets_at(account: Account, now: datetime) -> datetime | None:
    """Return when the plan refills next, or None if no plan refills this account."""
    if account.plan is None or account.plan.microcredits == 0:
        return None
    return next_period_starts_at(account.plan.anchor, now)


def _expire(account: Account, now: datetime) -> Account:
    expired = [g for g in account.grants if not g.is_live(now) and g.remaining_microcredits > 0]
    return replace(
        account,
        grants=tuple(grant for grant in account.grants if grant.is_live(now)),
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
