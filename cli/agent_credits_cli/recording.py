"""Waiting until events that were sent are recorded, and saying why others are not.

Nothing answers the sender, so the ledger is read until it has them. The order of the reads matters:
an entry moves from its account's open page to a receipt, so the page is read first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Final

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.directory import Directory
from agent_credits.billing.teams import Billing
from agent_credits.events.agent_runs import (
    AgentRunEvent,
    ModelProviderErrorReported,
    Rejection,
    parse_message,
)
from agent_credits.intake.model_provider_errors import model_provider_error_of
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Identity
from agent_credits.values.errors import PolicyMissing
from agent_credits.values.principals import Principal
from agent_credits_cli.dead_letters import DeadLetter
from agent_credits_cli.messages import Message

# The first look is early, and the later ones are rarer: each reads what is not recorded yet.
LOOK_AGAIN_SECONDS: Final = 0.5
LOOK_AGAIN_SECONDS_MAX: Final = 5.0
LOOK_AGAIN_FACTOR: Final = 1.5

WAITING_FOR_RELOAD: Final = "waiting_for_reload"
NOT_RECORDED_YET: Final = "not_recorded_yet"


@dataclass(frozen=True, slots=True)
class Awaited:
    """An event, and the message that it was sent in."""

    event: AgentRunEvent
    message_id: str


@dataclass(frozen=True, slots=True)
class Missing:
    """An event, or a message that holds none, that is not recorded: why, if that is known."""

    message_id: str
    event_id: str | None
    run_id: str | None
    code: str
    reason: str


@dataclass(slots=True)
class Recording:
    """What is known of the events so far. An outcome is that of the entry that recorded it."""

    awaited: list[Awaited]
    missing: list[Missing] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.settled + len(self.awaited)

    @property
    def settled(self) -> int:
        return self.outcomes.total() + len(self.missing)


def recording_of(messages: Sequence[Message], message_ids: Sequence[str]) -> Recording:
    """Return what is to be awaited after the messages were sent under these ids."""
    recording = Recording([])
    for message, message_id in zip(messages, message_ids, strict=True):
        parsed = parse_message(message.body)
        recording.awaited += [Awaited(event, message_id) for event in parsed.events]
        recording.missing += [
            Missing(message_id, None, None, rejection.code, rejection.reason)
            for rejection in parsed.rejections
        ]
    return recording


def wait_until_recorded(
    rows: DynamoDBRows, recording: Recording, seconds: float, looked: Callable[[], None]
) -> None:
    """Look until each event is recorded or rejected, or the time is up; call `looked` after each.

    What is left then is missing too, with what is known of it.
    """
    gives_up_at = monotonic() + seconds
    pause = LOOK_AGAIN_SECONDS
    while True:
        why = _look(rows, recording, datetime.now(UTC))
        looked()
        left = gives_up_at - monotonic()
        if not recording.awaited or left <= 0:
            break
        sleep(min(pause, left))
        pause = min(pause * LOOK_AGAIN_FACTOR, LOOK_AGAIN_SECONDS_MAX)
    recording.missing += [_missing(each, *why[each.event.identity]) for each in recording.awaited]
    recording.awaited = []


def _look(
    rows: DynamoDBRows, recording: Recording, now: datetime
) -> dict[Identity, tuple[str, str]]:
    """Settle what is recorded or rejected by now; return what is known of the rest."""
    # Made for each look, because it caches the settings of teams.
    directory = Directory(rows)
    billed = {each.event.identity: _bill(directory, each.event, now) for each in recording.awaited}
    payers = {b.principal for b in billed.values() if isinstance(b, Billing)}
    accounts = rows.read_accounts_of(payers)
    entries = _entries(rows, accounts.values(), billed)
    still: list[Awaited] = []
    why: dict[Identity, tuple[str, str]] = {}
    for each in recording.awaited:
        identity = each.event.identity
        found = _found(rows, each.event, billed[identity], accounts, entries.get(identity))
        match found:
            case Rejection():
                recording.missing.append(_missing(each, found.code, found.reason))
            case str():
                recording.outcomes[found] += 1
            case None:
                still.append(each)
                why[identity] = _why_not_yet(billed[identity], accounts, now)
    recording.awaited = still
    return why


def _bill(
    directory: Directory, event: AgentRunEvent, now: datetime
) -> Billing | Rejection | PolicyMissing:
    try:
        return directory.bill(event, now)
    except PolicyMissing as missing:
        return missing


def _entries(
    rows: DynamoDBRows, accounts: Iterable[Account], wanted: Mapping[Identity, object]
) -> dict[Identity, Entry]:
    on_pages = {
        entry.identity: entry
        for account in accounts
        for entry in account.entries
        if entry.identity in wanted
    }
    receipts = rows.read_receipts(wanted.keys() - on_pages.keys())
    return {identity: receipt.entry for identity, receipt in receipts.items()} | on_pages


def _found(
    rows: DynamoDBRows,
    event: AgentRunEvent,
    billed: Billing | Rejection | PolicyMissing,
    accounts: Mapping[Principal, Account],
    entry: Entry | None,
) -> str | Rejection | None:
    """Return the outcome of an event, or why it is rejected; None if it is neither yet."""
    if entry is not None:
        if entry.payload_hash == event.payload_hash:
            return entry.outcome
        return Rejection("conflicting", f"event {event.id} was recorded with another payload")
    if isinstance(billed, Rejection):
        return billed
    if isinstance(billed, PolicyMissing):
        return None
    if isinstance(event, ModelProviderErrorReported):
        return "observed" if rows.has_observation(model_provider_error_of(event, billed)) else None
    if billed.principal not in accounts:
        return Rejection("unknown_user", f"{billed.principal} has no account")
    return None


def _why_not_yet(
    billed: Billing | Rejection | PolicyMissing,
    accounts: Mapping[Principal, Account],
    now: datetime,
) -> tuple[str, str]:
    if not isinstance(billed, Billing):
        return NOT_RECORDED_YET, str(billed)
    reload = accounts[billed.principal].reload if billed.principal in accounts else None
    if reload and reload.state == "requested" and reload.until and now < reload.until:
        return WAITING_FOR_RELOAD, f"{billed.principal} waits for a reload"
    return NOT_RECORDED_YET, "it is in the queue, or being debited"


def _missing(awaited: Awaited, code: str, reason: str) -> Missing:
    event = awaited.event
    return Missing(awaited.message_id, event.id, event.subject, code, reason)


def explained(missing: Iterable[Missing], letters: Iterable[DeadLetter]) -> list[Missing]:
    """Return the events with the reasons of those whose messages lie in the dead-letter queue."""
    by_message = {letter.message_id: letter for letter in letters}
    return [
        replace(one, code=letter.code, reason=letter.reason)
        if one.code == NOT_RECORDED_YET and (letter := by_message.get(one.message_id))
        else one
        for one in missing
    ]
