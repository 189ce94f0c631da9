"""`agent-credits send`: reads events from files, checks them and sends them to the queue.

Each event is sent as the exact text in the file. Nothing is sent unless every file can be read, and
sending again is harmless: a recorded event is not debited twice.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agent_credits.events.agent_runs import EVENTS_PER_MESSAGE_MAX
from agent_credits.events.signatures import KeysNotUnderstood, parse_key
from agent_credits.values.display import count_text
from agent_credits_cli.dead_letters import read_dead_letters
from agent_credits_cli.errors import CommandError
from agent_credits_cli.messages import checked_messages, message_of, read_text, signed
from agent_credits_cli.recording import (
    NOT_RECORDED_YET,
    Missing,
    Recording,
    explained,
    recording_of,
    wait_until_recorded,
)
from agent_credits_cli.run_queue import send_messages
from agent_credits_cli.tables import AsJson, err, out, print_json, progress
from agent_credits_cli.target import Target, connect, rows_of

NOT_RECORDED_EXIT_STATUS: Final = 1
# Rejecting takes seconds, and so does a busy queue; a reload may take five minutes.
TIMEOUT_SECONDS_DEFAULT: Final = 60
DEAD_LETTERS_READ_MAX: Final = 1_000
MISSING_SHOWN_MAX: Final = 20
AGAIN: Final = "send the same again, which counts once"


def send(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Events as JSON, a JSON array or NDJSON; - is standard input."
        ),
    ],
    pack: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=EVENTS_PER_MESSAGE_MAX,
            help="Pack up to this many events of the same payer into one message.",
        ),
    ] = 1,
    unchecked: Annotated[
        bool,
        typer.Option("--unchecked", help="Send each file as one message without checking it."),
    ] = False,
    sign_with: Annotated[
        str | None,
        typer.Option(
            metavar="KEYID:FILE",
            envvar="AGENT_CREDITS_SIGN_WITH",
            help="Sign each message with the key in this file, for a stack that requires it.",
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Return once the events are recorded, and say which are not."),
    ] = False,
    timeout: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=3_600,
            help="With --wait: give up after this many seconds.",
            show_default=str(TIMEOUT_SECONDS_DEFAULT),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send agent-run events to the queue. Each is its own message unless --pack is given.

    With --wait, the exit status is 1 if an event is not recorded when the command returns: it was
    rejected, it waits for a reload, or the time was up. Events that are recorded already count as
    recorded.
    """
    if timeout is not None and not wait:
        raise CommandError("--timeout says how long to wait; add --wait, or leave it out")
    if unchecked and pack > 1:
        raise CommandError("--unchecked sends files as they are; leave out --pack")
    named = [(name, read_text(name)) for name in files]
    if unchecked:
        messages = [message_of(name, text) for name, text in named]
    else:
        messages = [m for name, text in named for m in checked_messages(name, text, pack)]
    if sign_with is not None:
        messages = signed(messages, *signing_key(sign_with))
    target = connect(context)
    sent = send_messages(target.sqs, target.outputs.agent_runs_queue_url, messages)
    events = sum(message.events for message in messages)
    document: dict[str, Any] = {
        "messages": len(messages),
        "events": events,
        "repeated": sent.repeated,
    }
    if not as_json:
        out().print(
            f"Sent {count_text(events, 'event')} in {count_text(len(messages), 'message')}"
            f" to {target.name}.",
            soft_wrap=True,
        )
    missing: list[Missing] = []
    if wait:
        recording = recording_of(messages, sent.message_ids)
        _wait(target, recording, timeout or TIMEOUT_SECONDS_DEFAULT)
        missing = recording.missing
        document |= _recording_to_json(recording)
        if not as_json:
            _show(recording)
    if as_json:
        print_json(document)
    if missing:
        raise typer.Exit(NOT_RECORDED_EXIT_STATUS)


def _wait(target: Target, recording: Recording, seconds: int) -> None:
    with progress() as bar:
        task = bar.add_task("events decided", total=recording.total)
        try:
            wait_until_recorded(
                rows_of(target),
                recording,
                seconds,
                lambda: bar.update(task, completed=recording.settled),
            )
        except KeyboardInterrupt:
            decided = f"{recording.settled:,} of {count_text(recording.total, 'event')} decided"
            hint = f"Stopped waiting: {decided}, all are sent. To wait for the rest, {AGAIN}."
            err().print(hint, soft_wrap=True)
            raise
    if any(one.code == NOT_RECORDED_YET for one in recording.missing):
        letters = read_dead_letters(target, DEAD_LETTERS_READ_MAX, datetime.now(UTC))
        recording.missing = explained(recording.missing, letters)


def _show(recording: Recording) -> None:
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(recording.outcomes.items()))
    recorded = count_text(recording.outcomes.total(), "event")
    out().print(f"Recorded {recorded}{f': {outcomes}' if outcomes else ''}.", soft_wrap=True)
    for one in recording.missing[:MISSING_SHOWN_MAX]:
        what = f"{one.event_id} of {one.run_id}" if one.event_id else f"message {one.message_id}"
        out().print(f"Not recorded: {what}: {one.code}: {one.reason}", soft_wrap=True)
    if len(recording.missing) > MISSING_SHOWN_MAX:
        more = len(recording.missing) - MISSING_SHOWN_MAX
        out().print(f"Not recorded: {count_text(more, 'event')} more; --json names all of them")


def _recording_to_json(recording: Recording) -> dict[str, Any]:
    return {
        "recorded": recording.outcomes.total(),
        "outcomes": dict(sorted(recording.outcomes.items())),
        "not_recorded": [asdict(one) for one in recording.missing],
    }


def signing_key(option: str) -> tuple[str, bytes]:
    """Read `<key id>:<file>`; the key itself is never part of a command line."""
    key_id, colon, name = option.partition(":")
    if not colon:
        raise CommandError(
            "--sign-with takes the id of a key and its file, as in k1:signing-key.txt"
        )
    try:
        return key_id, parse_key(key_id, Path(name).read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the signing key in {name} cannot be read; name its file") from error
    except KeysNotUnderstood as wrong:
        raise CommandError(f"--sign-with: {wrong}") from wrong
