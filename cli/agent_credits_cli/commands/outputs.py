"""`agent-credits outputs`: the outputs of the stack, also as variables for a shell."""

import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Final

import typer

from agent_credits_cli.errors import CommandError
from agent_credits_cli.tables import AsJson, print_json
from agent_credits_cli.target import Target, connect, described, outputs_of

# Before each capital letter that begins a word: AgentRunsQueueUrl, and EventSigningSecretArn.
_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")


def outputs(
    context: typer.Context,
    export: Annotated[
        bool,
        typer.Option("--export", help="Print exports for a shell, such as AGENT_RUNS_QUEUE_URL."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the outputs of the stack: its queues, topic, tables and secrets.

    `eval "$(agent-credits outputs --export)"` sets a variable for each, as the guides use them.
    """
    if export and as_json:
        raise CommandError("--export and --json are two forms of the same; leave out one")
    values = read_outputs(connect(context))
    if as_json:
        print_json(values)
    elif export:
        for name, value in values.items():
            typer.echo(f"export {variable_of(name)}={shlex.quote(value)}")
    else:
        width = max(map(len, values), default=0)
        for name, value in values.items():
            typer.echo(f"{name:{width}}  {value}")


def read_outputs(target: Target) -> Mapping[str, str]:
    """Return the outputs that CloudFormation has now, by name in alphabetical order."""
    outputs = outputs_of(described(target.cloudformation, target.stack_name))
    return dict(sorted(target.reachable(outputs).items()))


def variable_of(output: str) -> str:
    """Return the name of an output as a shell's variable: StripeSecretArn -> STRIPE_SECRET_ARN."""
    return _WORD.sub("_", output).upper()
