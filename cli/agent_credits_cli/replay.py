"""`agent-credits replay`: a production trace through the embedded stack, and whether it all counts.

What has to come of it is computed from the trace alone: each event recorded once although every
tenth is delivered twice and all of them in a shuffled order, and every sum exact.
"""

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from agent_credits.aws.backoff import back_off
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.events.agent_runs import EVENTS_PER_MESSAGE_MAX
from agent_credits.ledger.entries import Entry
from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Principal
from agent_credits_cli import local_stack
from agent_credits_cli.account import rows_of
from agent_credits_cli.apply import carry_out, read_stack, utc_now
from agent_credits_cli.checkout import this_checkout
from agent_credits_cli.drain import drain
from agent_credits_cli.errors import CommandError
from agent_credits_cli.ledger import all_pages
from agent_credits_cli.send import Message, send_messages
from agent_credits_cli.steps import plan_steps
from agent_credits_cli.tables import AsJson, err, out, print_json, table
from agent_credits_cli.target import Target, choice_of, connect_to_local
from agent_credits_cli.trace import (
    TRACE_FILE,
    Replay,
    ReplayOptions,
    TracedEvent,
    plan_replay,
    read_trace,
    sum_by_principal,
)
from agent_credits_cli.verify import Verified, verify_all

FAILED_EXIT_STATUS: Final = 1
TRACE_EVENTS: Final = 8_819
PRINCIPALS_SHOWN: Final = 10
PROBLEMS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Bill:
    """What one principal was asked for and what came of it, beside what had to."""

    principal: Principal
    events: int
    expected_microcredits: int
    recorded_microcredits: int
    expected_drawn_microcredits: int
    drawn_microcredits: int
    shortfall_microcredits: int

    @property
    def is_wrong(self) -> bool:
        short = self.expected_microcredits - self.expected_drawn_microcredits
        return (
            self.recorded_microcredits != self.expected_microcredits
            or self.drawn_microcredits != self.expected_drawn_microcredits
            or self.shortfall_microcredits != short
        )


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a replay; `problems` are sentences, and there are none if all went well."""

    replay: Replay
    messages: int
    seconds: float
    bills: tuple[Bill, ...]
    problems: tuple[str, ...]
    verified: Verified

    @property
    def events_per_second(self) -> float:
        return len(self.replay.deliveries) / self.seconds

    @property
    def is_exact(self) -> bool:
        return not self.problems and self.verified.is_clean


def replay(
    context: typer.Context,
    events: Annotated[
        int, typer.Option(min=1, max=TRACE_EVENTS, help="How many requests of the trace.")
    ] = TRACE_EVENTS,
    principals: Annotated[
        int, typer.Option(min=1, max=999, help="How many users they are spread over.")
    ] = 40,
    seed: Annotated[
        int, typer.Option(min=0, max=999_999_999, help="Another seed, another spread.")
    ] = 1,
    pack: Annotated[
        int, typer.Option(min=1, max=EVENTS_PER_MESSAGE_MAX, help="Events in one message.")
    ] = 25,
    again: Annotated[
        str | None,
        typer.Option(metavar="TAG", help="Send that earlier replay again; nothing may change."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port, as for `local up`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a production trace through the embedded stack, and check that every event counts once.

    The exit status is 1 unless the ledger is exactly what the trace says.
    """
    choice, checkout = choice_of(context), this_checkout()
    if choice.aws_stack_name is not None:
        raise CommandError("a replay makes up teams and grants, so it never runs on AWS")
    options = ReplayOptions(secrets.token_hex(3), events, principals, seed)
    if again is not None:
        options = ReplayOptions.from_tag(again)
    requests = read_trace(checkout.root / "data" / TRACE_FILE, options.events)
    planned = plan_replay(requests, options)
    local_stack.up(choice.state_folder, checkout, port=port, console=err())
    target = connect_to_local(choice.state_folder)
    replayed = run_replay(target, planned, pack=pack, is_repeat=again is not None)
    if as_json:
        print_json(_to_json(replayed))
    else:
        _show(replayed)
    if not replayed.is_exact:
        raise typer.Exit(FAILED_EXIT_STATUS)


def run_replay(target: Target, replay: Replay, *, pack: int, is_repeat: bool) -> Replayed:
    """Apply the replay's team, send its events, wait for them, and compare ledger and trace."""
    rows, now = rows_of(target), datetime.now(UTC)
    if is_repeat and rows.read_team(replay.options.team_id) is None:
        raise CommandError(
            f"this stack has not seen the replay {replay.options.tag}; leave out --again"
        )
    steps = plan_steps(replay.world, read_stack(rows, replay.world), now)
    carry_out(rows, steps, clock=utc_now, pause=back_off)
    before = [rows.read_account(principal) for principal in replay.principals]
    messages = packed(replay.deliveries, pack)
    started_at = time.monotonic()
    send_messages(target.sqs, target.outputs.agent_runs_queue_url, messages)
    left = drain(target, "draining the queue").left
    seconds = time.monotonic() - started_at
    entries = {principal: read_entries(rows, principal) for principal in replay.principals}
    bills = bills_of(replay, entries)
    problems = [f"{left} messages are left in the queue"] if left else []
    problems += misrecorded(replay.events, entries)
    problems += [f"{b.principal}: the sums are not those of the trace" for b in bills if b.is_wrong]
    if is_repeat and before != [rows.read_account(principal) for principal in replay.principals]:
        problems.append("sending the replay again has changed an account")
    return Replayed(replay, len(messages), seconds, bills, tuple(problems), verify_all(rows))


def packed(deliveries: Sequence[TracedEvent], pack: int) -> list[Message]:
    """Return the deliveries as messages of so many events, in their order."""
    if pack == 1:
        return [Message(event.body, str(event.principal), 1) for event in deliveries]
    arrays = [deliveries[start : start + pack] for start in range(0, len(deliveries), pack)]
    return [
        Message(f"[{','.join(event.body for event in array)}]", str(array[0].principal), len(array))
        for array in arrays
    ]


def read_entries(rows: DynamoDBRows, principal: Principal) -> list[Entry]:
    """Return the entries of runs on an account."""
    row = rows.read_account(principal)
    pages = all_pages(rows, row) if row else ()
    return [entry for page in pages for entry in page.entries if entry.run is not None]


def misrecorded(
    events: Sequence[TracedEvent], entries: Mapping[Principal, Sequence[Entry]]
) -> Iterator[str]:
    """Yield what is not recorded exactly once, on its payer's account, with its amount."""
    recorded = Counter(
        (principal, entry.identity.subject, entry.identity.id, entry.amount_microcredits)
        for principal, of_account in entries.items()
        for entry in of_account
    )
    traced = Counter((e.principal, e.run_id, e.id, e.microcredits) for e in events)
    for principal, _, event_id, microcredits in (traced - recorded).elements():
        amount = format_credits(microcredits)
        yield f"{event_id} is not recorded on {principal} with {amount} credits"
    for principal, _, event_id, microcredits in (recorded - traced).elements():
        amount = format_credits(microcredits)
        yield f"{event_id} is recorded on {principal} with {amount} credits, but should not be"


def bills_of(replay: Replay, entries: Mapping[Principal, Sequence[Entry]]) -> tuple[Bill, ...]:
    """Return what each principal was billed beside what the trace and the grants come to."""
    asked, granted = sum_by_principal(replay.events), Counter[Principal]()
    for grant in replay.world.grants:
        granted[grant.principal] += grant.microcredits
    return tuple(
        Bill(
            principal=principal,
            events=len(of_account),
            expected_microcredits=asked.get(principal, 0),
            recorded_microcredits=sum(entry.amount_microcredits for entry in of_account),
            # All of it where the grants reach, and else every credit there was.
            expected_drawn_microcredits=min(asked.get(principal, 0), granted[principal]),
            drawn_microcredits=sum(entry.drawn_microcredits for entry in of_account),
            shortfall_microcredits=sum(entry.shortfall_microcredits for entry in of_account),
        )
        for principal, of_account in entries.items()
    )


def _show(replayed: Replayed) -> None:
    replay = replayed.replay
    bills = sorted(replayed.bills, key=lambda bill: -bill.expected_microcredits)
    listing = table("principal", ">events", ">credits", ">by the trace", ">drawn", ">short", "")
    for bill in bills[:PRINCIPALS_SHOWN]:
        listing.add_row(
            str(bill.principal),
            f"{bill.events:,}",
            format_credits(bill.recorded_microcredits),
            format_credits(bill.expected_microcredits),
            format_credits(bill.drawn_microcredits),
            format_credits(bill.shortfall_microcredits),
            "WRONG" if bill.is_wrong else "exact",
        )
    out().print(listing)
    delivered = (
        f"{len(replay.events):,} events of the trace, delivered {len(replay.deliveries):,} times"
        f" in {replayed.messages:,} messages: {replayed.seconds:.1f} s,"
        f" {replayed.events_per_second:,.0f} events/s"
    )
    lines = [
        f"... and {len(bills) - PRINCIPALS_SHOWN} more" if len(bills) > PRINCIPALS_SHOWN else "",
        delivered,
        *replayed.problems[:PROBLEMS_SHOWN],
        *map(str, replayed.verified.findings[:PROBLEMS_SHOWN]),
        f"verify: {replayed.verified}",
        "Each event is recorded once, and every sum is that of the trace."
        if replayed.is_exact
        else f"NOT exact: {len(replayed.problems)} problems",
        f"To send the same again: agent-credits replay --again {replay.options.tag}",
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
