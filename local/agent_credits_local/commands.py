"""`agent-credits local`: the embedded stack, for experiments and for the tests."""

from typing import Annotated, Final

import typer

from agent_credits.values.display import count_text
from agent_credits_cli.conventions import Command
from agent_credits_cli.errors import CommandGroup
from agent_credits_cli.hints import as_typed
from agent_credits_cli.tables import AsJson, err, print_json
from agent_credits_cli.target import choice_of
from agent_credits_local import embedded_stack
from agent_credits_local.checkout import this_checkout
from agent_credits_local.options import Port
from agent_credits_local.session import LOCAL_REGION
from agent_credits_local.stack_state import StackState, StateFolder
from agent_credits_local.token_issuer import sign_token

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Start, stop and inspect the local stack, which needs no Docker and no AWS account.",
)

DOWN_EXIT_STATUS: Final = 1
KEPT: Final = "`agent-credits local up` starts it with what it held."


@app.command(cls=Command)
def up(
    context: typer.Context,
    port: Port = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard everything that the stack holds first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start the stack with what it held when it was stopped; build and deploy what has changed."""
    folder = _folder(context)
    state = embedded_stack.up(folder, this_checkout(), port=port, fresh=fresh, console=err())
    _print(context, folder, state, as_json=as_json)


@app.command(cls=Command)
def down(context: typer.Context, as_json: AsJson = False) -> None:
    """Stop what `local up` started, and nothing else. The next `local up` starts it as it was."""
    folder = _folder(context)
    state = folder.read()
    if state is not None and state.is_usable():
        err().print(
            "Keeping tables, queues, secrets, logs and payments. Not kept: what was posted to the"
            " stand-in for Slack, and notices and reloads of changes that are not announced yet.",
            soft_wrap=True,
        )
    stopped = embedded_stack.down(folder)
    if as_json:
        print_json(
            {
                "stopped": stopped.was_running,
                "kept": stopped.is_kept,
                "changes_not_announced": stopped.changes_lost,
            }
        )
        return
    if stopped.changes_lost:
        lost = count_text(stopped.changes_lost, "change")
        typer.echo(f"{lost} had not been announced: any notices and reloads of them are lost.")
    match stopped.was_running, stopped.is_kept:
        case True, True:
            typer.echo(as_typed(context, f"The local stack has stopped; {KEPT}"))
        case True, False:
            typer.echo("The local stack has stopped. What it held could not be kept.")
        case _:
            typer.echo("The local stack was not running.")


@app.command(cls=Command)
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show endpoint, outputs and health. The exit status is 1 unless the stack is healthy."""
    folder = _folder(context)
    state = folder.read()
    _print(context, folder, state, as_json=as_json)
    if state is None or not state.is_usable():
        raise typer.Exit(DOWN_EXIT_STATUS)


@app.command(cls=Command)
def token(
    context: typer.Context,
    user: Annotated[str, typer.Option(help="The user whose token it is (claim `sub`).")],
    team: Annotated[
        list[str] | None, typer.Option(help="A team of the user; repeat it for several.")
    ] = None,
    role: Annotated[
        str, typer.Option(help="The role: member, billing_admin or operator.")
    ] = "member",
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Make it the token of this run alone.")
    ] = None,
    seconds: Annotated[
        int, typer.Option(metavar="N", min=1, max=86_400, help="How long it is valid.")
    ] = 3_600,
) -> None:
    """Print a bearer token that the HTTP API of this stack accepts."""
    claims = {"sub": user, "teams": team or [], "role": role}
    if run is not None:
        claims["run_id"] = run
    typer.echo(sign_token(_folder(context).issuer_key, claims, seconds))


def _folder(context: typer.Context) -> StateFolder:
    return StateFolder(choice_of(context).state_path)


def _print(
    context: typer.Context, folder: StateFolder, state: StackState | None, *, as_json: bool
) -> None:
    healthy = state is not None and state.is_usable()
    report = {"healthy": healthy, "state_folder": str(folder.path)}
    if state is not None:
        report["kept"] = state.is_kept
        report |= {
            "endpoint_url": state.emulator.endpoint_url,
            "region": LOCAL_REGION,
            "stack_name": embedded_stack.STACK_NAME,
            "pid": state.emulator.pid,
            "log": str(folder.emulator_log),
            "outputs": dict(state.outputs),
        }
        if state.payment_stand_in is not None:
            report["payment_stand_in"] = {
                "endpoint_url": state.payment_stand_in.endpoint_url,
                "pid": state.payment_stand_in.pid,
                "log": str(folder.payment_stand_in_log),
            }
        if state.slack_stand_in is not None:
            report["slack_stand_in"] = {
                "endpoint_url": state.slack_stand_in.endpoint_url,
                "pid": state.slack_stand_in.pid,
                "log": str(folder.slack_stand_in_log),
            }
    if as_json:
        print_json(report)
        return
    if state is None:
        typer.echo("The local stack is not running.")
        return
    if state.is_kept:
        typer.echo(as_typed(context, f"The local stack is stopped; {KEPT}"))
        return
    health = "up" if healthy else "not healthy"
    typer.echo(f"The local stack is {health} at {state.emulator.endpoint_url}")
    width = max(map(len, state.outputs), default=0)
    for name, value in state.outputs.items():
        typer.echo(f"  {name:{width}}  {value}")
    if state.payment_stand_in is not None:
        typer.echo(f"  payments go to a stand-in at {state.payment_stand_in.endpoint_url}")
        typer.echo(f"  log of the stand-in: {folder.payment_stand_in_log}")
    if state.slack_stand_in is not None:
        typer.echo(f"  notices for Slack go to a stand-in at {state.slack_stand_in.endpoint_url}")
    typer.echo(f"  log of the emulator: {folder.emulator_log}")
