"""When an account falls low, when that is announced, and when the account has recovered.

1. An account is low when the pools of a run's rule hold less than one of its team's thresholds.
   What reservations hold counts: it may come back, and a notice for each run would say nothing.
   Percentages are of what the plan refilled this period; without a plan, of the amounts of the live
   grants in these pools.
2. The deepest threshold that the account is below is notified, and covers those above it. It is
   notified once, until the account has recovered from it or its plan's next period begins.
3. While a reload is able or under way, the threshold is deferred instead: nobody has to act. If the
   reload is declined, the commit that declines it notifies the threshold.
4. An account recovers from a threshold when credits come and it holds at least that much. Credits
   that a failed run gives back must lift it above the threshold by a tenth of the base, or a fleet
   of such runs would notify the same threshold again and again.
5. If a run fails because this commit leaves nothing, that run's own notice says all this and more.

Both are decided by each commit and kept on the row. The commits of an account follow one another,
so ten workers that cross a threshold together announce it once, and announcing needs only the row.
"""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from agent_credits.billing.teams import Billing
from agent_credits.commit.changes import RunChange
from agent_credits.commit.decision_context import DecisionContext
from agent_credits.commit.reload_requests import reload_standing
from agent_credits.ledger.accounts import Account, unburned_microcredits
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.grants import REFILL_PREFIX
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.ledger.thresholds import LowCredits, Threshold

# Credits that are given back must lift an account above a threshold by this part of the base.
CLEARANCE_DIVISOR = 10


def with_low_credits(
    account: Account,
    runs: Sequence[RunChange],
    new_entries: Sequence[Entry],
    context: DecisionContext,
) -> Account:
    """Return the account as it will be committed, after the commit's runs and entries."""
    account = _recovered(account, new_entries, context)
    for team_id, billing in dict.fromkeys((run.event.data.team_id, run.billing) for run in runs):
        account = _fallen(account, team_id, billing, new_entries, context)
    return _notified_by_decline(account, new_entries)


def _recovered(account: Account, new_entries: Sequence[Entry], context: DecisionContext) -> Account:
    low = account.low
    if low is None:
        return account
    available = unburned_microcredits(account, low.pools, context.now)
    outcomes = {entry.outcome for entry in new_entries}
    if "refilled" in outcomes:
        # A new period: the next run or decline notifies what is still low.
        low = replace(low, base_microcredits=_base(account, low.pools, context))
        deferred = _crossed((*low.notified, *low.deferred), available, low.base_microcredits)
        return replace(account, low=_unless_empty(replace(low, notified=(), deferred=deferred)))
    clearance = 0 if "granted" in outcomes else low.base_microcredits // CLEARANCE_DIVISOR
    notified = _crossed(low.notified, available - clearance, low.base_microcredits)
    deferred = _crossed(low.deferred, available, low.base_microcredits)
    return replace(account, low=_unless_empty(replace(low, notified=notified, deferred=deferred)))


def _fallen(
    account: Account,
    team_id: str,
    billing: Billing,
    new_entries: Sequence[Entry],
    context: DecisionContext,
) -> Account:
    low = account.low or LowCredits(
        team_id, billing.payer, billing.pools, _base(account, billing.pools, context)
    )
    if not billing.low_thresholds:
        return replace(account, low=None)
    base = low.base_microcredits
    available = unburned_microcredits(account, billing.pools, context.now)
    crossed = _crossed(billing.low_thresholds, available, base)
    if not crossed or (low.notified and _deepest(crossed, base) >= _deepest(low.notified, base)):
        low = replace(low, notified=_together(low.notified, crossed, base), deferred=())
        return replace(account, low=_unless_empty(low))
    decline = _decline(account, billing, context)
    low = replace(
        low,
        team_id=team_id,
        payer=billing.payer,
        pools=billing.pools,
        decline=decline,
        is_shared=billing.lender == account.principal,
    )
    if decline is None:
        # A threshold that was notified covers those above it.
        deferred = tuple(
            t
            for t in crossed
            if not low.notified or t.microcredits(base) < _deepest(low.notified, base)
        )
        return replace(account, low=replace(low, deferred=deferred))
    says_more = available == 0 and any(entry.fails_run for entry in new_entries)
    notified_at_version = low.notified_at_version if says_more else context.row.version + 1
    notified = _together(low.notified, crossed, base)
    return replace(
        account,
        low=replace(low, notified=notified, deferred=(), notified_at_version=notified_at_version),
    )


def _notified_by_decline(account: Account, new_entries: Sequence[Entry]) -> Account:
    """Notify what was deferred for the account's newest reload, if this commit declines it."""
    low, reload = account.low, account.reload
    if low is None or not low.deferred or reload is None or reload.state != "declined":
        return account
    if not any(e.decline and e.reload and e.reload.reload_id == reload.id for e in new_entries):
        return account
    notified = _together(low.notified, low.deferred, low.base_microcredits)
    version = account.version + 1
    low = replace(
        low, notified=notified, deferred=(), notified_at_version=version, decline=reload.cause
    )
    return replace(account, low=low)


def _decline(account: Account, billing: Billing, context: DecisionContext) -> DeclineCause | None:
    """Return the decline that a reload would meet, or None if one is able or under way."""
    match reload_standing(account, billing, context.now):
        case "waiting":
            return None
        case "able":
            return billing.decline_foreseen
        case declined:
            return declined


def _base(account: Account, pools: Iterable[str], context: DecisionContext) -> int:
    """Return what percentage thresholds are of, in microcredits."""
    plan = account.plan
    if plan is not None and plan.refills_one_of(pools):
        # The plan may have changed since it refilled this period; what it refilled counts.
        refill_id = f"{REFILL_PREFIX}{plan.refilled_from}"
        refill = next((grant for grant in account.grants if grant.id == refill_id), None)
        return refill.amount_microcredits if refill else plan.microcredits
    # The grants as read count too: this commit may have emptied one, or seen it expire.
    grants = {grant.id: grant for grant in (*context.row.grants, *account.grants)}
    return sum(grant.amount_microcredits for grant in grants.values() if grant.pool in pools)


def _crossed(thresholds: Iterable[Threshold], available: int, base: int) -> tuple[Threshold, ...]:
    return tuple(t for t in thresholds if available < t.microcredits(base))


def _deepest(thresholds: Iterable[Threshold], base: int) -> int:
    return min(threshold.microcredits(base) for threshold in thresholds)


def _together(
    notified: Iterable[Threshold], more: Iterable[Threshold], base: int
) -> tuple[Threshold, ...]:
    each_once = dict.fromkeys((*notified, *more))
    return tuple(sorted(each_once, key=lambda t: (-t.microcredits(base), str(t))))


def _unless_empty(low: LowCredits) -> LowCredits | None:
    return low if low.notified or low.deferred else None
