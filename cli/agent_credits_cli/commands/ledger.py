"""`agent-credits ledger`: an account's entries, oldest first, from full pages and the open page."""

import itertools
from collections.abc import Iterator
from typing import Annotated

import typer

from agent_credits.ledger.entries import Entry, payers_commit
from agent_credits.values.display import amount_text, credits_text, time_text
from agent_credits_cli.accounts import existing_account, principal_from
from agent_credits_cli.entries import all_pages, draws_text, entry_to_json
from agent_credits_cli.tables import LIMIT_MAX, AsJson, out, print_json_line
from agent_credits_cli.target import connect, rows_of


def ledger(
    context: typer.Context,
    principal: Annotated[str, typer.Argument(help="user:<id> or team:<id>")],
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=LIMIT_MAX, help="Stop after this many entries."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print an account's entries, oldest first. With --json, print NDJSON."""
    rows = rows_of(connect(context))
    row = existing_account(rows, principal_from(principal))
    numbered = ((page.number, entry) for page in all_pages(rows, row) for entry in page.entries)
    for page_number, entry in itertools.islice(numbered, limit):
        if as_json:
            print_json_line({"page": page_number, **entry_to_json(entry)})
        else:
            out().print(_line(page_number, entry), soft_wrap=True)


def _reservation_details(entry: Entry) -> Iterator[str]:
    facts = entry.reservation
    if entry.outcome in ("accepted", "extended") and facts.moves:
        yield "reserved"
    if facts.ended:
        back = -sum(move.microcredits for move in facts.moves if move.microcredits < 0)
        yield f"{amount_text(back)} went back" if back else "nothing left to go back"


def _holding_details(entry: Entry) -> Iterator[str]:
    """Yield what a team's account holds more or less for runs of the payer after this entry."""
    net = sum(move.microcredits for move in entry.reservation.moves)
    if net:
        yield f"{amount_text(abs(net))} {'more' if net > 0 else 'less'} held for its runs"


def _line(page_number: int, entry: Entry) -> str:
    """Return an entry as one line, so that a ledger of any length can be piped and searched."""
    what = f"{time_text(entry.recorded_at)}  page {page_number}  {entry.outcome:<12}"
    amount = credits_text(entry.amount_microcredits)
    if entry.run is not None:
        details = [amount if entry.amount_microcredits else ""]
        details += [draws_text(entry.draws)]
        if entry.shortfall_microcredits:
            details += [f"short by {credits_text(entry.shortfall_microcredits)}"]
        details += list(_reservation_details(entry))
        about = f"{entry.identity.id} of {entry.identity.subject}"
        return f"{what}  {about}  {', '.join(filter(None, details))}".rstrip()
    if entry.reload is not None and entry.grant is None:
        decline = f"  {entry.decline}" if entry.decline else ""
        return f"{what}  {entry.reload.reload_id} of team {entry.reload.team_id}{decline}"
    if entry.grant is not None:
        return f"{what}  {entry.grant.id}  {amount} in pool {entry.grant.pool}"
    if entry.type in ("pool.drawn", "pool.returned"):
        payer, version = payers_commit(entry)
        details = [draws_text(entry.draws), *_holding_details(entry)]
        about = f"for version {version} of {payer}"
        return f"{what}  {about}  {', '.join(filter(None, details))}".rstrip()
    if entry.reservation.ended:
        ended = ", ".join(ended.run_id for ended in entry.reservation.ended)
        why = f"  ({entry.reservation.reason})" if entry.reservation.reason else ""
        return f"{what}  reservation of {ended}  {amount} went back{why}"
    return f"{what}  plan {entry.plan_name}"
