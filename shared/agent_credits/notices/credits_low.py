"""The notice that an account is low: one for each time it falls below a threshold."""

from agent_credits.ledger.accounts import (
    Account,
    pool_balances,
    reserved_microcredits,
    total_microcredits,
)
from agent_credits.ledger.expiry import resets_at
from agent_credits.ledger.shared_pools import is_shared_pool
from agent_credits.ledger.thresholds import LowCredits
from agent_credits.notices.facts import account_text, fact_lines, facts, step_lines
from agent_credits.notices.insufficient_credits import fixes, pools_to_json, reload_state
from agent_credits.notices.notice import Notice, iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import amount_text, credits_text


def credits_low(account: Account, low: LowCredits) -> Notice:
    """Return the notice of the deepest threshold notified.

    Its key is the account's version, so that each fall is announced, and each once.
    """
    time = account.entries[-1].recorded_at
    threshold, base = low.deepest_notified, low.base_microcredits
    # What the team shares is on the team's row, whose own notice says when it is low.
    own_pools = [pool for pool in low.pools if not is_shared_pool(pool)]
    shares = len(own_pools) < len(low.pools)
    pools = pool_balances(account, own_pools, time)
    available = total_microcredits(pools)
    reserved = reserved_microcredits(account, own_pools, time)
    left = available + reserved
    refill = resets_at(account, time)
    is_sharing = shares or low.is_shared
    fix = fixes(account, low.payer, low.team_id, refill, low.decline, shares=is_sharing)
    data = {
        "principal": str(account.principal),
        "team_id": low.team_id,
        "threshold": str(threshold),
        "threshold_credits": format_credits(threshold.microcredits(base)),
        "available_credits": format_credits(available),
        "percent_left": left * 100 // base if base else None,
        "percent_of_credits": format_credits(base),
        "pools": pools_to_json(pools),
        "auto_reload": {"state": reload_state(low.decline), "cause": low.decline},
        "resets_at": iso(refill) if refill else None,
        "fix": fix,
    }
    if reserved:
        data["reserved_credits"] = format_credits(reserved)
    whose = account_text(account.principal, low.team_id)
    if low.is_shared:
        whose = f"The pool that team {low.team_id} shares"
    # No reload adds to what a team shares.
    about_reload = () if low.is_shared else ("auto_reload",)
    lines = [
        (
            f"{whose} has {credits_text(left)} {'of its own ' if shares else ''}left, less than "
            f"{_threshold_text(account, low, shares=shares)}."
        ),
        _when_shared(low, shares=shares) or _what_follows(available, reserved),
        "",
        *fact_lines(facts(data, "pools", "reserved_credits", *about_reload, "resets_at")),
        "",
        *step_lines(fix),
    ]
    return Notice(
        type="credits_low",
        severity="warning",
        principal=account.principal,
        team_id=low.team_id,
        key=str(account.version),
        subject=str(account.principal),
        time=time,
        retryable=False,
        data=data,
        email_subject=f"{account.principal} is low on credits: {amount_text(left)} left",
        email_text="\n".join(lines) + "\n",
    )


def _what_follows(available: int, reserved: int) -> str:
    if available:
        return "Runs continue until the credits are used up; then they fail."
    if reserved:
        return "All of it is reserved for runs in flight; new runs fail until those finish."
    return "Every further run fails until credits are added."


def _when_shared(low: LowCredits, *, shares: bool) -> str | None:
    if low.is_shared:
        return "Members' runs draw it when their own credits are used up, and fail without it."
    if shares:
        return f"Runs then draw what team {low.team_id} shares, and fail once that is used up too."
    return None


def _threshold_text(account: Account, low: LowCredits, *, shares: bool) -> str:
    threshold, base = low.deepest_notified, credits_text(low.base_microcredits)
    if threshold.unit == "microcredits":
        return credits_text(threshold.amount)
    is_of_plan = account.plan is not None and account.plan.refills_one_of(low.pools)
    granted = f"the {base} granted to it{' and to its team' if shares else ''}"
    of = f"its plan's {base}" if is_of_plan else granted
    return f"{threshold} of {of}"
