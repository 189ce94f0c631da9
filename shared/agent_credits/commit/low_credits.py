"""When an account falls low, what it is told, and when it has recovered. Decided at each commit.

1. An account is low when the pools of a run's rule hold less than one of its team's thresholds. Per
   cent are of what the period's plan refilled; without a plan, of what the live grants of these
   pools were made with.
2. The deepest threshold fallen through is told, and counts for those above it. It is told once,
   until the account has recovered from it, or its plan's next period begins.
3. While a reload is able or under way, it is held back instead: nobody has to act. When the reload
   is refused, that very commit tells it.
4. An account recovers from a threshold when credits come and it stands on or above it. Credits that
   a failed run gives back must lift it clear of the threshold by a tenth of the base, or a fleet of
   such runs would tell the same again and again.
5. Where a run fails because this commit leaves nothing, its own notice says all this and more.

What is told and held is on the row: commits of an account are one after the other, so ten workers
that cross a threshold together tell it once, and announcing needs nothing but the row.
"""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from agent_credits.billing.teams import Billing
from agent_credits.commit.changes import RunChange
from agent_credits.commit.decision_context import Situation
from agent_credits.commit.reload_requests import reload_standing
from agent_credits.ledger.accounts import Account, available_microcredits
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.grants import REFILL_PREFIX
from agent_credits.ledger.reloads import Refused
from agent_credits.ledger.thresholds import LowCredits, Threshold

# Credits that come back must lift an account above a threshold by this part of the base.
CLEARANCE_DIVISOR = 10


def with_low_credits(
    account: Account, runs: Sequence[RunChange], new_entries: Sequence[Entry], situation: Situation
) -> Account:
    """Return the account as it is to be committed, after the runs and the entries of the commit."""
    account = _recovered(account, new_entries, situation)
    for team_id, billing in dict.fromkeys((run.event.data.team_id, run.billing) for run in runs):
        account = _fallen(account, team_id, billing, new_entries, situation)
    return _told_by_refusal(account, new_entries)


def _recovered(account: Account, new_entries: Sequence[Entry], situation: Situation) -> Account:
    low = account.low
    if low is None:
        return account
    available = available_microcredits(account, low.pools, situation.now)
    outcomes = {entry.outcome for entry in new_entries}
    if "refilled" in outcomes:
        # A new period: what is still low is told anew, by the next run or refusal.
        low = replace(low, base_microcredits=_base(account, low.pools, situation))
        held = _fallen_through((*low.told, *low.held), available, low.base_microcredits)
        return replace(account, low=_unless_empty(replace(low, told=(), held=held)))
    clearance = 0 if "granted" in outcomes else low.base_microcredits // CLEARANCE_DIVISOR
    told = _fallen_through(low.told, available - clearance, low.base_microcredits)
    held = _fallen_through(low.held, available, low.base_microcredits)
    return replace(account, low=_unless_empty(replace(low, told=told, held=held)))


def _fallen(
    account: Account,
    team_id: str,
    billing: Billing,
    new_entries: Sequence[Entry],
    situation: Situation,
) -> Account:
    low = account.low or LowCredits(
        team_id, billing.payer, billing.pools, _base(account, billing.pools, situation)
    )
    if not billing.low_thresholds:
        return replace(account, low=None)
    base = low.base_microcredits
    available = available_microcredits(account, billing.pools, situation.now)
    through = _fallen_through(billing.low_thresholds, available, base)
    if not through or (low.told and _deepest(through, base) >= _deepest(low.told, base)):
        low = replace(low, told=_together(low.told, through, base), held=())
        return replace(account, low=_unless_empty(low))
    refusal = _refusal(account, billing, situation)
    low = replace(
        low,
        team_id=team_id,
        payer=billing.payer,
        pools=billing.pools,
        refusal=refusal,
    )
    if refusal is None:
        # What is above a threshold that was told is told with it.
        held = tuple(
            t for t in through if not low.told or t.microcredits(base) < _deepest(low.told, base)
        )
        return replace(account, low=replace(low, held=held))
    says_more = available == 0 and any(entry.fails_run for entry in new_entries)
    told_at_version = low.told_at_version if says_more else situation.row.version + 1
    told = _together(low.told, through, base)
    return replace(account, low=replace(low, told=told, held=(), told_at_version=told_at_version))


def _told_by_refusal(account: Account, new_entries: Sequence[Entry]) -> Account:
    """Tell what was held back for the account's newest reload, if this commit refuses that one."""
    low, reload = account.low, account.reload
    if low is None or not low.held or reload is None or reload.state != "refused":
        return account
    if not any(e.refusal and e.reload and e.reload.reload_id == reload.id for e in new_entries):
        return account
    told = _together(low.told, low.held, low.base_microcredits)
    version = account.version + 1
    low = replace(low, told=told, held=(), told_at_version=version, refusal=reload.cause)
    return replace(account, low=low)


def _refusal(account: Account, billing: Billing, situation: Situation) -> Refused | None:
    """Return what stands in the way of a reload, or None where one is able or under way."""
    match reload_standing(account, billing, situation.now):
        case "waiting":
            return None
        case "able":
            return billing.refusal_foreseen
        case refused:
            return refused


def _base(account: Account, pools: Iterable[str], situation: Situation) -> int:
    """Return what thresholds in per cent are of, in microcredits."""
    plan = account.plan
    if plan is not None and plan.refills_one_of(pools):
        # Of what this period was refilled with, should the plan have changed since.
        refill_id = f"{REFILL_PREFIX}{plan.refilled_from}"
        refill = next((grant for grant in account.grants if grant.id == refill_id), None)
        return refill.amount_microcredits if refill else plan.microcredits
    # Those as read count too: this commit may have drawn one to its end, or seen it lapse.
    grants = {grant.id: grant for grant in (*situation.row.grants, *account.grants)}
    return sum(grant.amount_microcredits for grant in grants.values() if grant.pool in pools)


def _fallen_through(
    thresholds: Iterable[Threshold], available: int, base: int
) -> tuple[Threshold, ...]:
    return tuple(t for t in thresholds if available < t.microcredits(base))


def _deepest(thresholds: Iterable[Threshold], base: int) -> int:
    return min(threshold.microcredits(base) for threshold in thresholds)


def _together(
    told: Iterable[Threshold], more: Iterable[Threshold], base: int
) -> tuple[Threshold, ...]:
    each_once = dict.fromkeys((*told, *more))
    return tuple(sorted(each_once, key=lambda t: (-t.microcredits(base), str(t))))


def _unless_empty(low: LowCredits) -> LowCredits | None:
    return low if low.told or low.held else None
