"""`agent-credits-demo replay`: a production trace through the embedded stack, fully verified."""

import secrets
from typing import Annotated, Any, Final

import typer

from agent_credits.events.agent_runs import EVENTS_PER_MESSAGE_MAX
from agent_credits.values.credits import format_credits
from agent_credits.values.display import amount_text, count_text
from agent_credits_cli.hints import typed
from agent_credits_cli.tables import AsJson, err, out, print_json, table
from agent_credits_demo.replay_run import Replayed, run_replay
from agent_credits_demo.trace import (
    TRACE_EVENTS,
    TRACE_FILE,
    ReplayOptions,
    plan_replay,
    read_trace,
)
from agent_credits_local import embedded_stack
from agent_credits_local.checkout import this_checkout
from agent_credits_local.options import Port, state_folder_of
from agent_credits_local.target import connect_to_local

FAILED_EXIT_STATUS: Final = 1
PRINCIPALS_SHOWN: Final = 10
PROBLEMS_SHOWN: Final = 20


def replay(
    context: typer.Context,
    events: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=TRACE_EVENTS, help="How many requests of the trace to send."
        ),
    ] = TRACE_EVENTS,
    principals: Annotated[
        int, typer.Option(metavar="N", min=1, max=999, help="How many users they are spread over.")
    ] = 40,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=999_999_999, help="Another seed gives another spread."
        ),
    ] = 1,
    pack: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=EVENTS_PER_MESSAGE_MAX, help="How many events per message."
        ),
    ] = 25,
    again: Annotated[
        str | None,
        typer.Option(
            metavar="TAG", help="Repeat the replay with this tag, which must change nothing."
        ),
    ] = None,
    port: Port = None,
    as_json: AsJson = False,
) -> None:
    """Send a production trace through the embedded stack, and check that every event counts once.

    The exit status is 1 unless the ledger is exactly what the trace says.
    """
    folder, checkout = state_folder_of(context), this_checkout()
    options = ReplayOptions(secrets.token_hex(3), events, principals, seed)
    if again is not None:
        options = ReplayOptions.from_tag(again)
    requests = read_trace(checkout.root / "data" / TRACE_FILE, options.events)
    planned = plan_replay(requests, options)
    embedded_stack.up(folder, checkout, port=port, on_any_port="make replay PORT=0", console=err())
    replayed = run_replay(connect_to_local(folder), planned, pack=pack, is_repeat=again is not None)
    if as_json:
        print_json(_to_json(replayed))
    else:
        _show(replayed)
        repeat = typed(context, f"agent-credits-demo replay --again {options.tag}")
        out().print(f"To repeat this replay: {repeat}", soft_wrap=True)
        out().print("The stack is still running; stop it with `make down`.")
    if not replayed.is_exact:
        raise typer.Exit(FAILED_EXIT_STATUS)


def _show(replayed: Replayed) -> None:
    replay = replayed.replay
    bills = sorted(replayed.bills, key=lambda bill: -bill.expected_microcredits)
    listing = table("principal", ">events", ">credits", ">in the trace", ">drawn", ">short", "")
    for bill in bills[:PRINCIPALS_SHOWN]:
        listing.add_row(
            str(bill.principal),
            f"{bill.events:,}",
            amount_text(bill.recorded_microcredits),
            amount_text(bill.expected_microcredits),
            amount_text(bill.drawn_microcredits),
            amount_text(bill.shortfall_microcredits),
            "WRONG" if bill.is_wrong else "exact",
        )
    out().print(listing)
    delivered = (
        f"{count_text(len(replay.events), 'event')} of the trace, sent"
        f" {count_text(len(replay.deliveries), 'time')}"
        f" in {count_text(replayed.messages, 'message')}: {replayed.seconds:.1f} s,"
        f" {replayed.events_per_second:,.0f} events/s"
    )
    lines = [
        f"and {len(bills) - PRINCIPALS_SHOWN:,} more" if len(bills) > PRINCIPALS_SHOWN else "",
        delivered,
        *replayed.problems[:PROBLEMS_SHOWN],
        *map(str, replayed.verified.findings[:PROBLEMS_SHOWN]),
        f"verify: {replayed.verified}",
        "Each event is recorded once, and every sum equals that of the trace."
        if replayed.is_exact
        else f"NOT exact: {count_text(len(replayed.problems), 'problem')}",
    ]
    out().print("\n".join(filter(None, lines)), soft_wrap=True)


def _to_json(replayed: Replayed) -> dict[str, Any]:
    replay = replayed.replay
    return {
        "exact": replayed.is_exact,
        "tag": replay.options.tag,
        "events": len(replay.events),
        "deliveries": len(replay.deliveries),
        "messages": replayed.messages,
        "seconds": round(replayed.seconds, 3),
        "events_per_second": round(replayed.events_per_second, 1),
        "problems": list(replayed.problems),
        "principals": [
            {
                "principal": str(bill.principal),
                "events": bill.events,
                "credits": format_credits(bill.recorded_microcredits),
                "expected_credits": format_credits(bill.expected_microcredits),
                "drawn_credits": format_credits(bill.drawn_microcredits),
                "expected_drawn_credits": format_credits(bill.expected_drawn_microcredits),
                "shortfall_credits": format_credits(bill.shortfall_microcredits),
            }
            for bill in replayed.bills
        ],
        "verify": replayed.verified.to_json(),
    }
