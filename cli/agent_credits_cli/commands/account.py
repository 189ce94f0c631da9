"""`agent-credits account`: what an account holds now, from which grants, and what comes next."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.ledger.thresholds import LowCredits
from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Principal
from agent_credits_cli.accounts import existing_account, principal_from
from agent_credits_cli.holdings import Holdings, holdings_at, holdings_to_json, policy_of
from agent_credits_cli.tables import AsJson, moment, out, print_json, table
from agent_credits_cli.target import connect, rows_of


def account(
    context: typer.Context,
    principal: Annotated[str, typer.Argument(help="user:<id> or team:<id>")],
    as_json: AsJson = False,
) -> None:
    """Show an account's pools and grants as they are now, and when its plan refills."""
    rows = rows_of(connect(context))
    holdings = read_holdings(rows, principal_from(principal), datetime.now(UTC))
    if as_json:
        print_json(holdings_to_json(holdings))
    else:
        _show(holdings)


def read_holdings(rows: DynamoDBRows, principal: Principal, now: datetime) -> Holdings:
    row = existing_account(rows, principal)
    return holdings_at(row, policy_of(rows, row, now), now)


def _low_text(low: LowCredits) -> str:
    parts = []
    if low.notified:
        why = f", {low.decline}" if low.decline else ""
        parts.append(f"told of {', '.join(map(str, low.notified))}{why}")
    if low.deferred:
        held = ", ".join(map(str, low.deferred))
        parts.append(f"silent about {held} while a reload is able or under way")
    return f"{'; '.join(parts)} (per cent of {format_credits(low.base_microcredits)})"


def _show(holdings: Holdings) -> None:
    available = format_credits(holdings.available_microcredits)
    out().print(f"{holdings.account.principal}: {available} credits available")
    plan = holdings.account.plan
    if plan is not None:
        refill = holdings.resets_at
        then = f"refills at {moment(refill)}" if refill else "does not refill"
        out().print(f"plan {plan.name}: {format_credits(plan.microcredits)} credits, {then}")
    if holdings.account.low is not None:
        out().print(f"low: {_low_text(holdings.account.low)}")
    pools = table("pool", ">available")
    for balance in holdings.balances:
        pools.add_row(balance.pool, format_credits(balance.available_microcredits))
    out().print(pools)
    grants = table("grant, in drawing order", "pool", ">remaining", ">of", "expires", "cause")
    for grant in holdings.grants:
        grants.add_row(
            grant.id,
            grant.pool if grant.pool in holdings.pools else f"{grant.pool} (no run draws it)",
            format_credits(grant.remaining_microcredits),
            format_credits(grant.amount_microcredits),
            moment(grant.expires_at) if grant.expires_at else "never",
            grant.cause,
        )
    out().print(grants)
