"""`agent-credits account`: what an account holds now, from which grants, and what comes next."""

from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from agent_credits.ledger.shared_pools import payers_run
from agent_credits.ledger.thresholds import LowCredits, Threshold
from agent_credits.notices.reload_declines import decline_in_words
from agent_credits.values.display import amount_text, count_text, credits_text, time_text
from agent_credits_cli.accounts import principal_from
from agent_credits_cli.holdings import Holdings, holdings_to_json, read_holdings
from agent_credits_cli.limits import (
    LISTED_MAX,
    account_limit_to_json,
    account_limits_table,
    limits_of_account,
)
from agent_credits_cli.tables import AsJson, out, print_json, table
from agent_credits_cli.target import connect, rows_of

# Of the runs that a team's account holds credits for; with --json all of them are listed.
HELD_LISTED_MAX: Final = 20


def account(
    context: typer.Context,
    principal: Annotated[str, typer.Argument(help="user:<id> or team:<id>")],
    as_json: AsJson = False,
) -> None:
    """Show an account's pools, grants and limits as of now, and when its plan refills."""
    rows = rows_of(connect(context))
    holdings = read_holdings(rows, principal_from(principal), datetime.now(UTC))
    counted = limits_of_account(rows, holdings.account, holdings.now)
    if as_json:
        limits = [account_limit_to_json(*one, holdings.now) for one in counted]
        print_json(holdings_to_json(holdings) | {"limits": limits})
    else:
        _show(holdings)
        if counted:
            out().print(account_limits_table(counted[:LISTED_MAX], holdings.now))
        if len(counted) > LISTED_MAX:
            out().print(f"and {count_text(len(counted) - LISTED_MAX, 'more limit')}")


def _low_text(low: LowCredits) -> str:
    """Return which thresholds the account is below, whether it was announced, and why no reload."""
    sentences = []
    if low.notified:
        below = _thresholds_text(low.notified, low.base_microcredits)
        sentences.append(f"Low: below {below}; subscribers were notified.")
    if low.deferred:
        below = _thresholds_text(low.deferred, low.base_microcredits)
        sentences.append(f"Low: below {below}; the notice is deferred because a reload may help.")
    if low.decline:
        sentences.append(f"No reload: {decline_in_words(low.decline)}.")
    return " ".join(sentences)


def _thresholds_text(thresholds: tuple[Threshold, ...], base_microcredits: int) -> str:
    """Return thresholds in a phrase: 50% of 1,000 credits and 20 credits."""
    return " and ".join(
        f"{threshold} of {credits_text(base_microcredits)}"
        if threshold.unit == "percent"
        else credits_text(threshold.amount)
        for threshold in thresholds
    )


def _show(holdings: Holdings) -> None:
    available = f"{credits_text(holdings.available_microcredits)} available"
    if holdings.reserved_microcredits:
        runs = count_text(len(holdings.account.reservations), "run")
        held = amount_text(holdings.reserved_microcredits)
        available += f", {held} reserved for {runs} in flight"
    out().print(f"{holdings.account.principal}: {available}")
    plan = holdings.account.plan
    if plan is not None:
        refill = holdings.resets_at
        then = f"refills at {time_text(refill)}" if refill else "does not refill"
        out().print(f"plan {plan.name}: {credits_text(plan.microcredits)}, {then}")
    if holdings.account.low is not None:
        out().print(_low_text(holdings.account.low), soft_wrap=True)
    pools = table("pool", ">available", ">reserved")
    for balance, reserved in zip(holdings.balances, holdings.reserved, strict=True):
        pools.add_row(
            balance.pool,
            amount_text(balance.available_microcredits),
            amount_text(reserved.available_microcredits),
        )
    for balance, reserved in zip(holdings.shared, holdings.reserved_of_shared, strict=True):
        pools.add_row(
            balance.pool,
            amount_text(balance.available_microcredits),
            amount_text(reserved.available_microcredits),
        )
    out().print(pools)
    by_grant = holdings.reserved_by_grant
    grants = table(
        "grant, in drawing order", "pool", ">available", ">reserved", ">of", "expires", "cause"
    )
    for grant in holdings.grants:
        grants.add_row(
            grant.id,
            grant.pool if grant.pool in holdings.pools else f"{grant.pool} (no run draws it)",
            amount_text(grant.remaining_microcredits),
            amount_text(by_grant.get(grant.id, 0)),
            amount_text(grant.amount_microcredits),
            time_text(grant.expires_at) if grant.expires_at else "never",
            grant.cause,
        )
    out().print(grants)
    if holdings.held_for_members:
        _show_held_for_members(holdings)


def _show_held_for_members(holdings: Holdings) -> None:
    held_for = table("held for", "run", ">credits", "until")
    live = holdings.held_for_members
    for held in live[:HELD_LISTED_MAX]:
        payer, run_id = payers_run(held.run_id)
        left, until = amount_text(held.left_microcredits), time_text(held.expires_at)
        held_for.add_row(str(payer), run_id, left, until)
    out().print(held_for)
    if len(live) > HELD_LISTED_MAX:
        out().print(f"and {count_text(len(live) - HELD_LISTED_MAX, 'more run')}")
