"""`agent-credits sweep`: begins a sweep now, as its schedule does each day."""

import uuid
from typing import Annotated, get_args

import typer

from agent_credits.sweeps.last_sweep import SweepName
from agent_credits.sweeps.sweep import beginning
from agent_credits_cli.hints import as_typed
from agent_credits_cli.tables import AsJson, out, print_json
from agent_credits_cli.target import Target, connect


def sweep(
    context: typer.Context,
    name: Annotated[
        SweepName,
        typer.Argument(
            metavar="SWEEP", help=f"The sweep to begin: {', '.join(get_args(SweepName))}."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Begin a sweep over all accounts or teams. What it finds is published like any other notice.

    The sweep continues in the stack, in steps. A second one on the same day repeats no notice. One
    that begins within five minutes of another joins it.
    """
    message_id = begin(connect(context), name)
    if as_json:
        print_json({"sweep": name, "message_id": message_id})
        return
    begun = f"the sweep {name} has begun; `agent-credits watch` prints what it finds"
    out().print(as_typed(context, begun), soft_wrap=True)


def begin(target: Target, name: SweepName) -> str:
    """Send the message that begins the sweep, and return its id."""
    return target.sqs.send_message(
        QueueUrl=target.outputs.sweeps_queue_url,
        MessageBody=beginning(name),
        MessageGroupId=name,
        # The queue would silently drop the same message within five minutes.
        MessageDeduplicationId=uuid.uuid4().hex,
    )["MessageId"]
