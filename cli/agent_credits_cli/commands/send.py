"""`agent-credits send`: reads events from files, checks them and sends them to the queue.

Each event is sent as the exact text in the file. Nothing is sent unless every file can be read, and
sending again is harmless: a recorded event is not debited twice.
"""

from pathlib import Path
from typing import Annotated

import typer

from agent_credits.events.agent_runs import EVENTS_PER_MESSAGE_MAX
from agent_credits.events.signatures import KeysNotUnderstood, parse_key
from agent_credits.values.display import count_text
from agent_credits_cli.errors import CommandError
from agent_credits_cli.messages import checked_messages, message_of, read_text, signed
from agent_credits_cli.run_queue import send_messages
from agent_credits_cli.tables import AsJson, out, print_json
from agent_credits_cli.target import connect


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
    as_json: AsJson = False,
) -> None:
    """Send agent-run events to the queue. Each is its own message unless --pack is given."""
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
    if as_json:
        print_json({"messages": len(messages), "events": events, "repeated": sent.repeated})
    else:
        out().print(
            f"Sent {count_text(events, 'event')} in {count_text(len(messages), 'message')}"
            f" to {target.name}.",
            soft_wrap=True,
        )


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
