"""`agent-credits dead-letters`: what was rejected and why, without removing it from the queue."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.signing_keys import SigningKeys
from agent_credits.billing.directory import Directory
from agent_credits.commit.changes import RunChange
from agent_credits.commit.write_protocol import foresee
from agent_credits.events.agent_runs import (
    Message,
    ModelProviderErrorReported,
    Rejection,
    parse_message,
)
from agent_credits.events.signatures import ATTRIBUTE, Keys, why_not_authentic
from agent_credits.intake.debits import disposition_of
from agent_credits.intake.dispositions import Rejected
from agent_credits.notices.notice import iso
from agent_credits.values.display import count_text, time_text
from agent_credits.values.errors import SecretUnavailable
from agent_credits.values.principals import Principal
from agent_credits_cli.dead_letter_queue import peek
from agent_credits_cli.errors import CommandError
from agent_credits_cli.tables import AsJson, out, print_json
from agent_credits_cli.target import Target, connect, rows_of

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

BODY_CHARACTERS_SHOWN: Final = 200
NO_LONGER_REJECTED: Final = "rejected_no_more"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in the dead-letter queue, with why it would be rejected now."""

    message_id: str
    receive_count: int
    sent_at: datetime
    code: str
    reason: str
    event_ids: tuple[str, ...]
    body: str


def dead_letters(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=1_000, help="Show at most this many messages.")
    ] = 100,
    with_body: Annotated[
        bool,
        typer.Option(
            "--body", help=f"Also show the first {BODY_CHARACTERS_SHOWN} characters of each body."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show rejected messages, and why they would be rejected now. Nothing is removed.

    After a correction, `aws sqs start-message-move-task` delivers them again.
    """
    letters = read_dead_letters(connect(context), limit, datetime.now(UTC))
    if as_json:
        print_json([_to_json(letter, with_body=with_body) for letter in letters])
        return
    if not letters:
        out().print("The dead-letter queue is empty.")
        return
    for letter in letters:
        out().print(_text(letter, with_body=with_body), soft_wrap=True)


def read_dead_letters(target: Target, limit: int, now: datetime) -> list[DeadLetter]:
    """Return at most `limit` messages, each with what is wrong with it now."""
    rows = rows_of(target)
    directory = Directory(rows)
    keys = _signing_keys(target)
    letters = []
    for message in peek(target, limit):
        attributes = message["Attributes"]
        parsed = parse_message(message["Body"])
        rejection = _why_not_authentic(
            message, keys, unsigned_counts=target.outputs.event_signatures == "check-signed"
        ) or why_rejected(parsed, rows, directory, now)
        letters.append(
            DeadLetter(
                message_id=message["MessageId"],
                receive_count=int(attributes["ApproximateReceiveCount"]),
                sent_at=datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1_000, UTC),
                code=rejection.code if rejection else NO_LONGER_REJECTED,
                reason=rejection.reason
                if rejection
                else "it would be accepted now; move it back to the queue",
                event_ids=tuple(event.id for event in parsed.events),
                body=message["Body"],
            )
        )
    return letters


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
        decision = foresee(rows, row, changes, now)
        for change, result in zip(changes, decision.results, strict=True):
            disposition = disposition_of(change.event, result, now)
            if isinstance(disposition, Rejected):
                return disposition.rejection
    return None


def _to_json(letter: DeadLetter, *, with_body: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "message_id": letter.message_id,
        "receive_count": letter.receive_count,
        "sent_at": iso(letter.sent_at),
        "code": letter.code,
        "reason": letter.reason,
        "event_ids": list(letter.event_ids),
    }
    return document | ({"body": letter.body[:BODY_CHARACTERS_SHOWN]} if with_body else {})


def _text(letter: DeadLetter, *, with_body: bool) -> str:
    received = f"received {count_text(letter.receive_count, 'time')}"
    lines = [
        f"{letter.message_id}  sent {time_text(letter.sent_at)}, {received}",
        f"  {letter.code}: {letter.reason}",
    ]
    if with_body:
        # As JSON, because a body may hold control sequences for the terminal.
        lines.append(f"  {json.dumps(letter.body[:BODY_CHARACTERS_SHOWN])}")
    return "\n".join(lines)
