"""What lies in the dead-letter queues: what each message is about, and why it is there.

An agent-run event says nothing of why it was rejected, so the reason is found again, as of now: it
may be gone since. Why another message failed is known to the log of its function alone.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, assert_never

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.signing_keys import SigningKeys
from agent_credits.billing.directory import Directory
from agent_credits.commit.changes import RunChange
from agent_credits.commit.together import foresee
from agent_credits.events.agent_runs import (
    Message,
    ModelProviderErrorReported,
    Rejection,
    parse_message,
)
from agent_credits.events.signatures import ATTRIBUTE, Keys, why_not_authentic
from agent_credits.intake.debits import disposition_of
from agent_credits.intake.dispositions import Rejected
from agent_credits.notices.published import NotAnEnvelope, read_envelope
from agent_credits.values.errors import PolicyMissing, SecretUnavailable
from agent_credits.values.principals import Principal
from agent_credits_cli.dead_letter_queue import peek
from agent_credits_cli.errors import CommandError
from agent_credits_cli.queues import Queue, QueueName, queues_of
from agent_credits_cli.target import Target, rows_of

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

NO_LONGER_REJECTED: Final = "rejected_no_more"
POLICY_MISSING: Final = "policy_missing"
WHY_ELSEWHERE: Final[Mapping[QueueName, str]] = {
    "reloads": "its payment stayed unknown, or AutoReload failed on it; its log says which",
    "slack": "Slack rejected it, or did not answer for hours; the log of NotifySlack says which",
    "sweeps": "Sweep failed on it five times; its log says why",
}

# What a message is about, by the names that a reader knows: {"event": "evt-1", "run": "run-1"}.
About = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in a dead-letter queue. `receive_count` includes the looks of operators."""

    queue: QueueName
    message_id: str
    receive_count: int
    sent_at: datetime
    code: str
    reason: str
    about: tuple[About, ...]
    body: str

    @property
    def event_ids(self) -> tuple[str, ...]:
        return tuple(about["event"] for about in self.about if "event" in about)


def read_dead_letters(
    target: Target, limit: int, now: datetime, queue: QueueName | None = "agent-runs"
) -> list[DeadLetter]:
    """Return at most `limit` messages of a queue, or of each one, with what is wrong with them."""
    queues = queues_of(target.outputs, queue)
    # Made here, because boto3 cannot make clients in several threads at once.
    sqs = target.sqs
    # At the same time, because each waits a second for messages that are not there.
    with ThreadPoolExecutor(len(queues)) as pool:
        urls = [each.dead_letters_url for each in queues]
        found = list(pool.map(lambda url: peek(sqs, url, limit), urls))
    return [
        letter
        for each, messages in zip(queues, found, strict=True)
        for letter in _letters(target, each, messages, now)
    ]


def about_of(name: QueueName, body: str) -> tuple[About, ...]:
    """Return what a message is about, as far as its body can be read at all."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    documents = document if isinstance(document, list) else [document]
    match name:
        case "agent-runs":
            return tuple(_about_event(each) for each in documents if isinstance(each, dict))
        case "slack":
            return _about_notice(body)
        case "reloads":
            keys = {"reload": "reload_id", "team": "team_id", "account": "principal"}
        case "sweeps":
            keys = {"sweep": "sweep", "day": "day", "step": "number", "row": "key"}
        case _:
            assert_never(name)
    return tuple(_texts(each, keys) for each in documents if isinstance(each, dict))


def _about_event(document: Mapping[str, Any]) -> About:
    data = document.get("data")
    team = _texts(data, {"team": "team_id"}) if isinstance(data, dict) else {}
    return {**_texts(document, {"event": "id", "run": "subject"}), **team}


def _about_notice(body: str) -> tuple[About, ...]:
    try:
        published = read_envelope(body)
    except NotAnEnvelope:
        return ()
    notice = {"notice": published.id, "type": published.type, "about": published.notice["subject"]}
    return ({**notice, **({"team": published.team_id} if published.team_id else {})},)


def _texts(document: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, str]:
    return {
        name: str(document[key])
        for name, key in keys.items()
        if isinstance(document.get(key), str | int)
    }


def _letters(
    target: Target, queue: Queue, messages: "Sequence[MessageTypeDef]", now: datetime
) -> Iterator[DeadLetter]:
    reasons = _Reasons(target, now) if queue.name == "agent-runs" and messages else None
    for message in messages:
        attributes = message["Attributes"]
        code, reason = reasons.of(message) if reasons else ("failed", WHY_ELSEWHERE[queue.name])
        yield DeadLetter(
            queue=queue.name,
            message_id=message["MessageId"],
            receive_count=int(attributes["ApproximateReceiveCount"]),
            sent_at=datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1_000, UTC),
            code=code,
            reason=reason,
            about=about_of(queue.name, message["Body"]),
            body=message["Body"],
        )


class _Reasons:
    """Says why an agent-run message would be rejected now."""

    def __init__(self, target: Target, now: datetime) -> None:
        self._rows = rows_of(target)
        self._directory = Directory(self._rows)
        self._keys = _signing_keys(target)
        self._unsigned_counts = target.outputs.event_signatures == "check-signed"
        self._now = now

    def of(self, message: "MessageTypeDef") -> tuple[str, str]:
        try:
            rejection = _why_not_authentic(
                message, self._keys, unsigned_counts=self._unsigned_counts
            ) or why_rejected(
                parse_message(message["Body"]), self._rows, self._directory, self._now
            )
        except PolicyMissing as missing:
            # Its events wait, and are dead letters only after many attempts.
            return POLICY_MISSING, f"{missing}; apply it, then move the message back"
        if rejection is None:
            return NO_LONGER_REJECTED, "it would be accepted now; move it back to the queue"
        return rejection.code, rejection.reason


def _signing_keys(target: Target) -> Keys | None:
    secret = target.outputs.event_signing_secret_arn
    if target.outputs.event_signatures == "off" or secret is None:
        return None
    return SigningKeys(target.secretsmanager, secret, lambda: datetime.now(UTC))


def _why_not_authentic(
    message: "MessageTypeDef", keys: Keys | None, *, unsigned_counts: bool
) -> Rejection | None:
    if keys is None:
        return None
    attributes = message.get("MessageAttributes", {})
    signature = attributes[ATTRIBUTE].get("StringValue") if ATTRIBUTE in attributes else None
    try:
        return why_not_authentic(message["Body"], signature, keys, unsigned_counts=unsigned_counts)
    except SecretUnavailable as fault:
        raise CommandError(
            f"signatures cannot be checked: {fault}; ask for permission to read the secret"
            " that the output EventSigningSecretArn names"
        ) from fault


def why_rejected(
    message: Message, rows: DynamoDBRows, directory: Directory, now: datetime
) -> Rejection | None:
    """Return why the message would be rejected now, as the function that debits it would say."""
    if message.rejections:
        return message.rejections[0]
    by_account: dict[Principal, list[RunChange]] = {}
    for event in message.events:
        billing = directory.bill(event, now)
        if isinstance(billing, Rejection):
            return billing
        # A model provider's error adds no entry to the account, so it contradicts none.
        if not isinstance(event, ModelProviderErrorReported):
            by_account.setdefault(billing.principal, []).append(RunChange(event, billing))
    for principal, changes in by_account.items():
        row = rows.read_account(principal)
        if row is None:
            return Rejection("unknown_user", f"{principal} has no account")
        decision = foresee(rows, row, changes, now).decision
        for change, result in zip(changes, decision.results, strict=True):
            disposition = disposition_of(change.event, result, now)
            if isinstance(disposition, Rejected):
                return disposition.rejection
    return None
