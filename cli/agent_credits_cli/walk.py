"""`agent-credits walk`: begins a walk over all accounts now, as its schedule does each day."""

import uuid
from typing import Annotated

import typer

from agent_credits.sweeps.sweep import WalkName, beginning
from agent_credits_cli.tables import AsJson, out, print_json
from agent_credits_cli.target import Target, connect


def walk(
    context: typer.Context,
    name: Annotated[WalkName, typer.Argument(help="Which walk to begin.")],
    as_json: AsJson = False,
) -> None:
    """Begin a walk over all accounts; what it finds is published like any other notice.

    It goes on in the stack, in steps. Begun again on the same day it tells nothing twice, and
    within five minutes it joins the walk that is under way.
    """
    message_id = begin(connect(context), name)
    if as_json:
        print_json({"walk": name, "message_id": message_id})
        return
    out().print(f"the walk {name} has begun; `agent-credits watch` prints what it finds")


def begin(target: Target, name: WalkName) -> str:
    """Send the message that begins the walk, and return its id."""
    return target.sqs.send_message(
        QueueUrl=target.outputs.walks_queue_url,
        MessageBody=beginning(name),
        MessageGroupId=name,
        # The queue would drop the same message within five minutes, and nobody would be told.
        MessageDeduplicationId=uuid.uuid4().hex,
    )["MessageId"]
