"""`agent-credits reservations`: what an account holds for runs in flight, run by run."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from agent_credits.ledger.reservations import Reservation
from agent_credits.ledger.shared_pools import is_holding, payers_run
from agent_credits.values.credits import format_credits
from agent_credits.values.display import amount_text, count_text, credits_text, time_text
from agent_credits_cli.accounts import principal_from
from agent_credits_cli.entries import draws_text
from agent_credits_cli.holdings import Holdings, read_holdings
from agent_credits_cli.reservations import as_tree, reservation_to_json
from agent_credits_cli.tables import AsJson, out, print_json, table
from agent_credits_cli.target import connect, rows_of


def reservations(
    context: typer.Context,
    principal: Annotated[str, typer.Argument(help="user:<id> or team:<id>")],
    as_json: AsJson = False,
) -> None:
    """List the live reservations of an account, each child below its parent.

    What a parent was reserved and has drawn includes what its children were given and have drawn;
    what is left is only its own.
    """
    rows = rows_of(connect(context))
    holdings = read_holdings(rows, principal_from(principal), datetime.now(UTC))
    if as_json:
        print_json(_to_json(holdings))
    else:
        _show(holdings)


def _to_json(holdings: Holdings) -> dict[str, Any]:
    return {
        "principal": str(holdings.account.principal),
        "available_credits": format_credits(holdings.available_microcredits),
        "reserved_credits": format_credits(holdings.reserved_microcredits),
        "reservations": [
            reservation_to_json(held) for _, held in as_tree(holdings.account.reservations)
        ],
    }


def _name(held: Reservation) -> str:
    """Return the run, or whose run a team's account holds its own credits for."""
    if not is_holding(held.run_id):
        return held.run_id
    payer, run_id = payers_run(held.run_id)
    return f"{run_id} of {payer}"


def _show(holdings: Holdings) -> None:
    live = holdings.account.reservations
    available = f"{credits_text(holdings.available_microcredits)} available"
    if not live:
        out().print(f"{holdings.account.principal}: {available}, no live reservation")
        return
    reserved = amount_text(holdings.reserved_microcredits)
    counted = count_text(len(live), "reservation")
    out().print(f"{holdings.account.principal}: {available}, {reserved} reserved by {counted}")
    listing = table(
        "run", ">reserved", ">drawn", ">left", ">overdrawn", "directive", "expires", "holds"
    )
    for depth, held in as_tree(live):
        branch = "  " * (depth - 1) + "└ " if depth else ""
        listing.add_row(
            branch + _name(held),
            amount_text(held.reserved_microcredits),
            amount_text(held.drawn_microcredits),
            amount_text(held.left_microcredits),
            amount_text(held.overdrawn_microcredits),
            held.directive,
            time_text(held.expires_at),
            draws_text(held.parts) or "nothing",
        )
    out().print(listing)
