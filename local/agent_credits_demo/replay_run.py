"""Running a replay against a stack, and comparing the ledger with the trace.

The expected result is computed from the trace alone: each event is recorded once, although every
tenth is delivered twice and the order is shuffled, and every sum is exact.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from agent_credits.aws.backoff import back_off
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.ledger.entries import Entry
from agent_credits.values.display import count_text, credits_text
from agent_credits.values.principals import Principal
from agent_credits_cli.entries import all_pages
from agent_credits_cli.errors import CommandError
from agent_credits_cli.messages import Message
from agent_credits_cli.run_queue import send_messages
from agent_credits_cli.stack import read_stack
from agent_credits_cli.steps import carry_out, plan_steps, utc_now
from agent_credits_cli.target import Target, rows_of
from agent_credits_cli.verification import Verified, verify_all
from agent_credits_demo.drain import drain
from agent_credits_demo.trace import Replay, TracedEvent, sum_by_principal


@dataclass(frozen=True, slots=True)
class Bill:
    """What one principal was billed, beside what was expected."""

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
    """The result of a replay; `problems` are sentences, and there are none if all went well."""

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
    problems = [f"{count_text(left, 'message')} left in the queue"] if left else []
    problems += misrecorded(replay.events, entries)
    problems += [f"{b.principal}: the sums differ from the trace" for b in bills if b.is_wrong]
    if is_repeat and before != [rows.read_account(principal) for principal in replay.principals]:
        problems.append("sending the replay again has changed an account")
    return Replayed(replay, len(messages), seconds, bills, tuple(problems), verify_all(rows))


def packed(deliveries: Sequence[TracedEvent], pack: int) -> list[Message]:
    """Return the deliveries as messages of `pack` events, in order."""
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
    """Yield each event that is not recorded once, on its payer's account, with its amount."""
    recorded = Counter(
        (principal, entry.identity.subject, entry.identity.id, entry.amount_microcredits)
        for principal, of_account in entries.items()
        for entry in of_account
    )
    traced = Counter((e.principal, e.run_id, e.id, e.microcredits) for e in events)
    for principal, _, event_id, microcredits in (traced - recorded).elements():
        amount = credits_text(microcredits)
        yield f"{event_id} is not recorded on {principal} with {amount}"
    for principal, _, event_id, microcredits in (recorded - traced).elements():
        amount = credits_text(microcredits)
        yield f"{event_id} is recorded on {principal} with {amount}, but should not be"


def bills_of(replay: Replay, entries: Mapping[Principal, Sequence[Entry]]) -> tuple[Bill, ...]:
    """Return what each principal was billed, beside what the trace and the grants add up to."""
    asked, granted = sum_by_principal(replay.events), Counter[Principal]()
    for grant in replay.world.grants:
        granted[grant.principal] += grant.microcredits
    return tuple(
        Bill(
            principal=principal,
            events=len(of_account),
            expected_microcredits=asked.get(principal, 0),
            recorded_microcredits=sum(entry.amount_microcredits for entry in of_account),
            # The whole amount if the grants cover it, or else all credits that were granted.
            expected_drawn_microcredits=min(asked.get(principal, 0), granted[principal]),
            drawn_microcredits=sum(entry.drawn_microcredits for entry in of_account),
            shortfall_microcredits=sum(entry.shortfall_microcredits for entry in of_account),
        )
        for principal, of_account in entries.items()
    )
