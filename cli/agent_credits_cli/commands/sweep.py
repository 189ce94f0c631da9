"""`agent-credits sweep`: begins a sweep over all accounts now, as its schedule does each day."""

import uuid
from typing import Annotated

import typer

from agent_credits.sweeps.sweep import SweepName, beginning
from agent_credits_cli.hints import as_typed
from agent_credits_cli.tables import AsJson, out, print_json
from agent_credits_cli.target import Target, connect


def sweep(
    context: typer.Context,
    name: Annotated[SweepName, typer.Argument(help="Which sweep to begin.")],
    as_json: AsJson = False,
) -> None:
    """Begin a sweep over all accounts; what it finds is published like any other notice.

    It goes on in the stack, in steps. Begun again on the same day it tells nothing twice, and
    within five minutes it joins the sweep that is under way.
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
        # The queue would drop the same message within five minutes, and nobody would be told.
        MessageDeduplicationId=uuid.uuid4().hex,
    )["MessageId"]
