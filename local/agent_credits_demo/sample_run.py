"""Running the samples of a world against a stack, and observing the results.

Only what is visible from outside is observed: the ledger before and after, the rejections in the
log, the dead-letter queue, the notices that a subscriber receives, and the charges at the payment
provider.
"""

import json
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent_credits.aws.backoff import back_off
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.commit.team_changes import read_team
from agent_credits.ledger.entries import Receipt
from agent_credits.notices.published import Published
from agent_credits.notices.slack_messages import slack_message
from agent_credits.values.principals import Principal
from agent_credits_cli.dead_letter_queue import peek
from agent_credits_cli.holdings import Holdings, holdings_at
from agent_credits_cli.run_queue import send_messages
from agent_credits_cli.stack import read_stack
from agent_credits_cli.steps import carry_out, plan_steps, utc_now
from agent_credits_cli.subscription import Watch, subscribed
from agent_credits_cli.target import Target, rows_of
from agent_credits_cli.verification import Verified, verify_all
from agent_credits_demo.drain import EMPTY_READS, drain, messages_in
from agent_credits_demo.sample_checks import (
    Check,
    Ledger,
    Observed,
    SeenNotice,
    SentSample,
    TeamPayments,
    check_balances,
    check_payments,
    check_samples,
    identities_of,
    read_ledger,
    sample_files,
    waves,
)
from agent_credits_demo.sample_world import (
    Sample,
    SampleWorld,
    load_sample_world,
    with_cards_on_file,
)
from agent_credits_local import embedded_stack
from agent_credits_local.payment_stand_in import PaymentStandIn
from agent_credits_local.slack_stand_in import SlackStandIn
from agent_credits_local.target import LocalTarget

LOG_GROUP: Final = f"/aws/lambda/{embedded_stack.STACK_NAME}/debit_runs"
LOG_EVENTS_MAX: Final = 100_000
LETTERS_MAX: Final = 1_000

# A commit is announced within a second or two; a notice that takes longer than this is missing.
NOTICES_SECONDS_MAX: Final = 20.0
LOG_SECONDS_MAX: Final = 10.0
# A reload takes a second or two; while its outcome is unknown, its message returns for minutes.
RELOADS_SECONDS_MAX: Final = 60.0
# After the last expected notice, unexpected ones are awaited for this long.
QUIET_SECONDS: Final = 1
READ_EVERY_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class SampleRun:
    """The samples' world before and after, each expectation beside what happened, the notices.

    `failures`: the entries that failed a run, by run; each must be announced. `rejections`: the
    logged code, by message. `payments`: those of the teams that pay by card.
    """

    world: SampleWorld
    before: dict[Principal, Holdings]
    after: dict[Principal, Holdings]
    checks: tuple[Check, ...]
    notices: tuple[Published, ...]
    failures: dict[str, Receipt]
    rejections: dict[str, str]
    payments: tuple[TeamPayments, ...]
    verified: Verified
    # As posted to the stand-in for Slack, in order of arrival.
    slack_messages: tuple[dict[str, Any], ...]

    @property
    def is_as_expected(self) -> bool:
        return self.verified.is_clean and all(check.is_met for check in self.checks)


@dataclass(slots=True)
class _Seen:
    """What was observed so far, over all waves."""

    checks: list[Check] = field(default_factory=list)
    notices: dict[str, Published] = field(default_factory=dict)
    failures: dict[str, Receipt] = field(default_factory=dict)
    rejections: dict[str, str] = field(default_factory=dict)
    left_in_queue: int = 0


def run_samples(target: LocalTarget, world_file: Path) -> SampleRun:
    """Apply the world, send its samples and observe them; the stack must not have seen them yet.

    Samples are paid at a stand-in and posted to a stand-in, and only a local target has those.
    """
    rows, now = rows_of(target), datetime.now(UTC)
    stand_in, slack = target.payment_stand_in, target.slack_stand_in
    world = with_cards_on_file(
        load_sample_world(world_file), lambda number: _method(stand_in, number)
    )
    carry_out(rows, plan_steps(world, read_stack(rows, world), now), clock=utc_now, pause=back_off)
    before = _holdings(rows, world)
    seen = _Seen()
    # Earlier use of the stack may have posted messages too.
    posted_before = len(_posted(slack, at_least=0))
    with subscribed(target) as watch:
        for together in waves(world.samples):
            _run_together(target, watch, world, together, world_file.parent, seen)
    after = _holdings(rows, world)
    accounts = {principal: holdings.account for principal, holdings in after.items()}
    balances = check_balances(world.balances, accounts, datetime.now(UTC))
    payments = tuple(_payments(rows, stand_in, world))
    in_slack = _posted(slack, posted_before + len(_for_slack(seen)))[posted_before:]
    left = Check("all samples", "left in the queue", "0", str(seen.left_in_queue))
    return SampleRun(
        world,
        before,
        after,
        (*seen.checks, *balances, *check_payments(payments), _check_slack(seen, in_slack), left),
        tuple(seen.notices.values()),
        seen.failures,
        seen.rejections,
        payments,
        verify_all(rows),
        tuple(in_slack),
    )


def _posted(slack: SlackStandIn, at_least: int) -> Sequence[dict[str, Any]]:
    """Return what was posted, once it is at least this many and no more arrive."""
    gives_up_at = time.monotonic() + NOTICES_SECONDS_MAX
    count = -1
    while time.monotonic() < gives_up_at:
        before, count = count, len(slack.messages())
        if count >= at_least and count == before:
            break
        time.sleep(QUIET_SECONDS)
    return slack.attachments()


def _for_slack(seen: _Seen) -> list[str]:
    """Return the headlines of the notices that the stack posts to Slack by default."""
    severe = [p for p in seen.notices.values() if p.severity != "info"]
    return [slack_message(published).to_dict()["fallback"] for published in severe]


def _check_slack(seen: _Seen, messages: Sequence[dict[str, Any]]) -> Check:
    expected, actual = Counter(_for_slack(seen)), Counter(m["fallback"] for m in messages)
    differences = [f"missing: {headline}" for headline in (expected - actual).elements()]
    differences += [f"too many: {headline}" for headline in (actual - expected).elements()]
    each_once = f"{expected.total()} posted, each once"
    return Check("all samples", "Slack", each_once, "; ".join(differences) or each_once)


def _method(stand_in: PaymentStandIn, card_number: str) -> PaymentMethod:
    card = stand_in.put_card_on_file(card_number)
    return PaymentMethod(
        provider="stripe", customer=card.customer, payment_method=card.payment_method
    )


def _payments(
    rows: DynamoDBRows, stand_in: PaymentStandIn, world: SampleWorld
) -> Iterator[TeamPayments]:
    for card in world.cards:
        team = read_team(rows, card.team_id)
        made = stand_in.payments(team.payment.customer) if team.payment else []
        yield TeamPayments(team, tuple(p.amount for p in made if p.status == "succeeded"))


def _holdings(rows: DynamoDBRows, world: SampleWorld) -> dict[Principal, Holdings]:
    now = datetime.now(UTC)
    teams = world.team_of_accounts()
    read = ((p, rows.read_account(p)) for p in sorted(teams))
    return {
        p: holdings_at(row, world.policy_of(teams[p]), now) for p, row in read if row is not None
    }


def _run_together(
    target: Target,
    watch: Watch,
    world: SampleWorld,
    together: Sequence[Sample],
    folder: Path,
    seen: _Seen,
) -> None:
    """Send samples that do not wait for each other, wait until they are processed, check them."""
    started_at = datetime.now(UTC)
    files = [sample_files(sample, folder) for sample in together]
    identities = identities_of(file for of_sample in files for file in of_sample)
    rows, principals = rows_of(target), list(world.team_of_accounts())
    before = read_ledger(rows, principals, identities)
    messages = [file.message for of_sample in files for file in of_sample]
    ids = iter(send_messages(target.sqs, target.outputs.agent_runs_queue_url, messages).message_ids)
    sent = [
        SentSample(sample, of_sample, tuple(next(ids) for _ in of_sample))
        for sample, of_sample in zip(together, files, strict=True)
    ]
    left = drain(target, f"{len(together)} samples").left + _reloads_left(target)
    after = read_ledger(rows, principals, identities)
    notices = _receive(watch, sum(len(sample.notices) for sample in together), seen)
    dead_letters = {
        message["MessageId"]
        for message in peek(
            target.sqs, target.outputs.agent_runs_dead_letter_queue_url, LETTERS_MAX
        )
    }
    own_letters = dead_letters & {i for sample in sent for i in sample.message_ids}
    rejections = logged_rejections(target, own_letters, started_at)
    observed = Observed(before, after, rejections, dead_letters, notices)
    seen.left_in_queue = max(seen.left_in_queue, left)
    seen.checks += check_samples(sent, observed)
    seen.failures |= _failures(after)
    seen.rejections |= rejections


def _reloads_left(target: Target) -> int:
    """Wait until every reload is resolved; return how many were still open when the wait ended."""
    gives_up_at = time.monotonic() + RELOADS_SECONDS_MAX
    left = empty_reads = 0
    while empty_reads < EMPTY_READS and time.monotonic() < gives_up_at:
        left = messages_in(target, target.outputs.reloads_queue_url)
        empty_reads = empty_reads + 1 if left == 0 else 0
        time.sleep(READ_EVERY_SECONDS)
    return left


def _receive(watch: Watch, expected: int, seen: _Seen) -> list[SeenNotice]:
    """Return the new notices, without repeats, once no more arrive."""
    new: list[SeenNotice] = []
    gives_up_at = time.monotonic() + NOTICES_SECONDS_MAX
    while time.monotonic() < gives_up_at:
        came = watch.receive(QUIET_SECONDS)
        for published in came:
            if published.notice["id"] not in seen.notices:
                seen.notices[published.notice["id"]] = published
                new.append(SeenNotice(published.notice["type"], published.notice["subject"]))
        if not came and len(new) >= expected:
            break
    return new


def logged_rejections(
    target: Target, message_ids: Collection[str], since: datetime
) -> dict[str, str]:
    """Return the logged code of each message, once there is one for all of `message_ids`."""
    gives_up_at = time.monotonic() + LOG_SECONDS_MAX
    while True:
        codes = _read_log(target, since)
        if codes.keys() >= set(message_ids) or time.monotonic() > gives_up_at:
            return codes
        time.sleep(READ_EVERY_SECONDS)


def _read_log(target: Target, since: datetime) -> dict[str, str]:
    pages = target.logs.get_paginator("filter_log_events").paginate(
        logGroupName=LOG_GROUP,
        startTime=int(since.timestamp() * 1_000),
        PaginationConfig={"MaxItems": LOG_EVENTS_MAX},
    )
    codes: dict[str, str] = {}
    for line in (event["message"] for page in pages for event in page["events"]):
        # The platform logs lines of its own in between, and not all are JSON.
        if line.startswith("{"):
            record = json.loads(line)
            if record.get("message") == "rejected":
                codes[record["message_id"]] = record["code"]
    return codes


def _failures(ledger: Ledger) -> dict[str, Receipt]:
    return {
        receipt.entry.identity.subject: receipt
        for receipt in ledger.values()
        if receipt.entry.fails_run
    }
