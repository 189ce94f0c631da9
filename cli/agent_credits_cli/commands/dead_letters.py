"""`agent-credits dead-letters`: what failed for good and why, moving it back, and deleting it."""

import json
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agent_credits.notices.notice import iso
from agent_credits.values.display import count_text, shortened, time_text
from agent_credits_cli import dead_letter_queue
from agent_credits_cli.confirmation import Yes, confirm
from agent_credits_cli.conventions import Command
from agent_credits_cli.dead_letter_queue import Taken
from agent_credits_cli.dead_letters import About, DeadLetter, about_of, read_dead_letters
from agent_credits_cli.errors import CommandError, CommandGroup, has_subcommand
from agent_credits_cli.queues import QUEUE_NAMES, Queue, QueueName, depth_of, queues_of
from agent_credits_cli.tables import AsJson, out, print_json, progress
from agent_credits_cli.target import Target, connect

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

app = typer.Typer(cls=CommandGroup, invoke_without_command=True)

BODY_CHARACTERS_SHOWN: Final = 2_000
# Of a message with more events than this, the text names the first ones.
EVENTS_NAMED: Final = 3
ID_LENGTH_SHOWN: Final = 128

OneQueue = Annotated[
    QueueName | None,
    typer.Option(
        metavar="NAME", help=f"Only this queue: {', '.join(QUEUE_NAMES)}.", show_default="all"
    ),
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID...", help="The messages' ids, as `dead-letters` shows them."),
]
All = Annotated[bool, typer.Option("--all", help="All messages instead of those of the ids.")]

# What `redrive` and `purge` have in common: it takes messages, and calls back after each.
Take = Callable[["SQSClient", Queue, Collection[str], Callable[[], None]], Taken]


@app.callback()
def dead_letters(
    context: typer.Context,
    queue: OneQueue = None,
    limit: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=1_000, help="Show at most this many messages of each queue."
        ),
    ] = 100,
    with_body: Annotated[
        bool,
        typer.Option(
            "--body",
            help=f"Also show each body, up to {BODY_CHARACTERS_SHOWN:,} characters without --json.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what failed for good: which event, run and team, and why it would be rejected now.

    Nothing is removed. SQS counts each look as a receive, which has no consequence in a dead-letter
    queue, and hides what is shown from other readers until the look ends. Of messages in one FIFO
    group (a team's reloads, a sweep's steps), a look shows the first ten.

    `dead-letters redrive` moves messages back after a correction, and `dead-letters purge` deletes
    them.
    """
    if has_subcommand(context):
        return
    target = connect(context)
    letters = read_dead_letters(target, limit, datetime.now(UTC), queue)
    if as_json:
        print_json([_to_json(letter, with_body=with_body) for letter in letters])
        return
    if not letters:
        names = ", ".join(queue.name for queue in queues_of(target.outputs, queue))
        out().print(f"No dead letters: {names}.")
        return
    for letter in letters:
        out().print(_text(letter, with_body=with_body), soft_wrap=True)


@app.command(cls=Command)
def redrive(
    context: typer.Context,
    ids: Ids = None,
    everything: All = False,
    queue: OneQueue = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Move messages back to the queue that they came from, after a correction.

    Body, attributes (a signature among them), message group and deduplication id stay as they are;
    the message gets a new id. Each is sent before it is deleted, so a crash leaves one message in
    both queues. That is harmless: what was recorded, paid or posted already is not done again.

    What is still wrong comes back to the dead-letter queue within seconds.
    """
    target = connect(context)
    taken = _taken(
        target, ids or (), everything, queue, yes, "Move {} back", dead_letter_queue.redrive
    )
    _report(taken, "moved back", "Moved {} back.", as_json=as_json)


@app.command(cls=Command)
def purge(
    context: typer.Context,
    ids: Ids = None,
    everything: All = False,
    queue: OneQueue = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete messages for good. A deleted event is never debited, and a reload stays open.

    To keep them in a file first: `dead-letters --body --json`.
    """
    target = connect(context)
    taken = _taken(
        target,
        ids or (),
        everything,
        queue,
        yes,
        "Delete {} for good",
        dead_letter_queue.purge,
    )
    _report(taken, "deleted", "Deleted {}.", as_json=as_json)


def _taken(
    target: Target,
    ids: Sequence[str],
    everything: bool,
    name: QueueName | None,
    yes: bool,
    question: str,
    take: Take,
) -> dict[Queue, Taken]:
    if bool(ids) == everything:
        raise CommandError("name the messages by their ids, or say --all, and not both")
    queues = queues_of(target.outputs, name)
    there = {queue: depth_of(target.sqs, queue.dead_letters_url).total for queue in queues}
    if everything and any(there.values()) and not yes:
        counts = ", ".join(f"{count:,} of {q.name}" for q, count in there.items() if count)
        confirm(f"{question.format('all dead letters')} ({counts})?")
    elif ids and not yes:
        confirm(f"{question.format(count_text(len(set(ids)), 'dead letter'))}?")
    missing = set(ids)
    taken: dict[Queue, Taken] = {}
    with progress(shown=sum(there.values()) > EVENTS_NAMED) as bar:
        task = bar.add_task("dead letters", total=len(missing) or sum(there.values()))
        for queue in queues:
            if there[queue] and (everything or missing):
                taken[queue] = take(target.sqs, queue, missing, lambda: bar.advance(task))
                missing -= {message["MessageId"] for message in taken[queue].messages}
    if missing:
        done = sum(len(t.messages) for t in taken.values())
        raise CommandError(
            f"{count_text(done, 'dead letter')} taken, but not found: {', '.join(sorted(missing))};"
            " see `agent-credits dead-letters`"
        )
    return taken


def _report(taken: dict[Queue, Taken], key: str, sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "queue": queue.name,
                    key.replace(" ", "_"): [
                        {
                            "message_id": message["MessageId"],
                            "about": list(about_of(queue.name, message["Body"])),
                            "body": message["Body"],
                        }
                        for message in one.messages
                    ],
                    "came_back": one.came_back,
                    "left": one.left,
                }
                for queue, one in taken.items()
            ]
        )
        return
    total = sum(len(one.messages) for one in taken.values())
    out().print(sentence.format(count_text(total, "dead letter")))
    for queue, one in taken.items():
        if one.came_back:
            again = count_text(one.came_back, "dead letter")
            out().print(f"{again} of {queue.name} came back: see `agent-credits dead-letters`")
        if one.left - one.came_back > 0:
            out().print(f"{count_text(one.left, 'dead letter')} of {queue.name} left.")


def _to_json(letter: DeadLetter, *, with_body: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "queue": letter.queue,
        "message_id": letter.message_id,
        "receive_count": letter.receive_count,
        "sent_at": iso(letter.sent_at),
        "code": letter.code,
        "reason": letter.reason,
        "about": [dict(about) for about in letter.about],
    }
    return document | ({"body": letter.body} if with_body else {})


def _text(letter: DeadLetter, *, with_body: bool) -> str:
    lines = [f"{letter.queue}  {letter.message_id}  sent {time_text(letter.sent_at)}"]
    lines += [f"  {_about_text(about)}" for about in letter.about[:EVENTS_NAMED]]
    if len(letter.about) > EVENTS_NAMED:
        lines.append(f"  and {count_text(len(letter.about) - EVENTS_NAMED, 'event')} more")
    lines.append(f"  {letter.code}: {letter.reason}")
    if with_body:
        lines += [f"  {line}" for line in _body_lines(letter.body)]
    return "\n".join(lines)


def _about_text(about: About) -> str:
    # Escaped, because a rejected message may hold control sequences for the terminal.
    return ", ".join(
        f"{name} {shortened(json.dumps(value)[1:-1], ID_LENGTH_SHOWN)}"
        for name, value in about.items()
    )


def _body_lines(body: str) -> Sequence[str]:
    """Return JSON with a line for each member, and anything else as one string, all escaped."""
    try:
        lines = json.dumps(json.loads(body), indent=2)
    except (ValueError, RecursionError):
        lines = json.dumps(body)
    return shortened(lines, BODY_CHARACTERS_SHOWN).splitlines()
