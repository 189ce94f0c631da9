"""The notice that an account is low: once per threshold fallen through, while there is time."""

from agent_credits.ledger.accounts import Account, pool_balances, together
from agent_credits.ledger.expiry import resets_at
from agent_credits.ledger.thresholds import LowCredits
from agent_credits.notices.insufficient_credits import (
    fixes,
    pools_text,
    pools_to_json,
    reload_state,
    reload_text,
    resets_text,
)
from agent_credits.notices.notice import Notice, iso
from agent_credits.values.credits import format_credits


def credits_low(account: Account, low: LowCredits) -> Notice:
    """Return the notice of the deepest threshold notified. The version is its key: each once."""
    time = account.entries[-1].recorded_at
    threshold, base = low.deepest_notified, low.base_microcredits
    pools = pool_balances(account, low.pools, time)
    available = together(pools)
    refill = resets_at(account, time)
    fix = fixes(account, low.payer, low.team_id, refill, low.decline)
    data = {
        "principal": str(account.principal),
        "team_id": low.team_id,
        "threshold": str(threshold),
        "threshold_credits": format_credits(threshold.microcredits(base)),
        "available_credits": format_credits(available),
        "percent_left": available * 100 // base if base else None,
        "percent_of_credits": format_credits(base),
        "pools": pools_to_json(pools),
        "auto_reload": {"state": reload_state(low.decline), "cause": low.decline},
        "resets_at": iso(refill) if refill else None,
        "fix": fix,
    }
    whose = f" of team {low.team_id}" if account.principal.kind == "user" else ""
    lines = [
        (
            f"{account.principal}{whose} has {format_credits(available)} credits left, less than "
            f"{_threshold_text(account, low)}."
        ),
        (
            "Runs go on until the credits are used up; then they fail."
            if available
            else "Every further run fails until there are credits again."
        ),
        "",
        f"Pools:     {pools_text(pools)}",
        f"Reload:    {reload_text(low.decline)}",
        f"Resets at: {resets_text(refill)}",
        "",
        "What to do now:",
        *(f"- {step}" for step in fix),
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
        email_subject=f"{account.principal} is low: {format_credits(available)} credits left",
        email_text="\n".join(lines) + "\n",
    )


def _threshold_text(account: Account, low: LowCredits) -> str:
    threshold, base = low.deepest_notified, format_credits(low.base_microcredits)
    if threshold.unit == "microcredits":
        return f"{threshold} credits"
    is_of_plan = account.plan is not None and account.plan.refills_one_of(low.pools)
    of = f"its plan's {base}" if is_of_plan else f"the {base} that were granted to it"
    return f"{threshold.amount} % of {of}"
