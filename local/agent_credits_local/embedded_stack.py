"""The embedded stack: an emulator of AWS on this machine, and the template deployed to it by SAM.

Stand-ins for Stripe and for Slack run beside it, so that reloads are paid and notices posted by the
same code as on AWS. Nothing here passes on the caller's credentials, profile or region, so what is
meant for the embedded stack cannot reach an account.
"""

import os
import shutil
from collections.abc import Mapping
from typing import Final, NamedTuple

from rich.console import Console

from agent_credits_cli.errors import CommandError
from agent_credits_cli.target import deployed_outputs
from agent_credits_local.api_urls import reachable
from agent_credits_local.checkout import Checkout, this_checkout
from agent_credits_local.deployment import Deployment
from agent_credits_local.emulator import HOST, Emulator, free_port, is_port_free
from agent_credits_local.payment_stand_in import STAND_IN_KEY, PaymentStandIn
from agent_credits_local.progress import step
from agent_credits_local.saved_state import changes_so_far, forget_positions, forget_saved, is_saved
from agent_credits_local.session import LOCAL_CLIENT_CONFIG, local_session
from agent_credits_local.slack_stand_in import SlackStandIn
from agent_credits_local.stack_state import StackState, StateFolder
from agent_credits_local.token_issuer import publish_keys

STACK_NAME: Final = "agent-credits"
PORT_DEFAULT: Final = 4566


class Stopped(NamedTuple):
    """What `down` did: whether anything ran, and whether it was kept for the next `up`.

    `changes_lost`: committed changes whose notices and reloads nobody will get.
    """

    was_running: bool = False
    is_kept: bool = False
    changes_lost: int = 0


def up(
    folder: StateFolder,
    checkout: Checkout,
    *,
    port: int | None = None,
    on_any_port: str = "agent-credits local up --port 0",
    fresh: bool = False,
    console: Console,
) -> StackState:
    """Bring the stack up and up to date, with what it held when it was stopped.

    `fresh` discards all of that first. Port 0 is any free one; None is that of the stack, or else
    the default. `on_any_port` is the command that does the same on a free port; an error suggests
    it if this one is taken.
    """
    checkout.require_tools()
    with folder.locked():
        state = folder.read()
        if state is not None and not fresh:
            _require_port_of(state, port)
        if state is not None and (fresh or not (state.is_kept or state.is_usable())):
            if state.outputs and not fresh:
                console.print(
                    "The local stack was not stopped by `local down`: all it held is lost."
                )
            _discard(folder, state)
            state = None
        if state is None:
            folder.forget()
            with step("MiniStack", console):
                state = _start_emulator(folder, checkout, _port_to_use(port, on_any_port))
            state = _start_stand_ins(folder, checkout, state, console)
        elif state.is_kept:
            state = _start_kept(folder, checkout, state, console)
        return _bring_up_to_date(folder, checkout, state, console)


def down(folder: StateFolder) -> Stopped:
    """Stop what `up` started and nothing else, so that `up` can start it again as it was."""
    with folder.locked():
        state = folder.read()
        if state is None:
            return Stopped()
        if state.is_kept:
            return Stopped(is_kept=True)
        if not state.is_usable():
            return Stopped(_discard(folder, state))
        changes = changes_so_far(state.emulator.endpoint_url, STACK_NAME)
        # First, because a function that it still runs may be paying.
        state.emulator.stop_gently()
        if not is_saved(folder.kept):
            _discard(folder, state)
            return Stopped(was_running=True)
        lost = max(changes - forget_positions(folder.kept), 0)
        folder.write(state.model_copy(update={"is_kept": True}))
        for stand_in in state.started[1:]:
            stand_in.stop_gently()
        return Stopped(was_running=True, is_kept=True, changes_lost=lost)


def discard(folder: StateFolder) -> bool:
    """Stop what `up` started and keep nothing; return whether anything was running."""
    with folder.locked():
        state = folder.read()
        return state is not None and _discard(folder, state)


def _discard(folder: StateFolder, state: StackState) -> bool:
    were_running = [emulator.stop() for emulator in state.started]
    folder.forget()
    return any(were_running)


def _require_port_of(state: StackState, port: int | None) -> None:
    """The addresses of the stack's queues hold its port, so it cannot move with its state."""
    if port in (None, 0, state.emulator.port):
        return
    if state.is_kept:
        raise CommandError(
            f"what the local stack holds belongs to port {state.emulator.port};"
            " to start empty on another one, add `--fresh`"
        )
    if state.is_usable():
        raise CommandError(
            f"the local stack already runs on port {state.emulator.port};"
            " to start empty on another one, add `--fresh`"
        )


def _start_kept(
    folder: StateFolder, checkout: Checkout, state: StackState, console: Console
) -> StackState:
    port = state.emulator.port
    if not is_port_free(port):
        raise CommandError(
            f"port {port} is taken by another process, and what the local stack holds belongs to"
            f" it; stop that process, or start empty with `agent-credits local up --fresh --port 0`"
        )
    # What the stopped one unpacked, which the next one unpacks again.
    shutil.rmtree(folder.temporary, ignore_errors=True)
    with step("MiniStack, with what it held", console):
        # From here on a crash loses it: what is saved is older than what runs.
        running = state.model_copy(update={"is_kept": False})
        running = _start_emulator(folder, checkout, port, running)
        forget_saved(folder.kept)
    return _start_stand_ins(folder, checkout, running, console)


def _port_to_use(port: int | None, on_any_port: str) -> int:
    if port == 0:
        return free_port()
    wanted = PORT_DEFAULT if port is None else port
    if not is_port_free(wanted):
        raise CommandError(
            f"port {wanted} is taken by another process; stop that process, or use any free port:"
            f" `{on_any_port}`"
        )
    return wanted


def start_again(folder: StateFolder, state: StackState) -> StackState:
    """Start the emulator of a stack that keeps its state, after it was stopped, on its port."""
    with folder.locked():
        return _start_emulator(folder, this_checkout(), state.emulator.port, state)


def _start_emulator(
    folder: StateFolder,
    checkout: Checkout,
    port: int,
    before: StackState | None = None,
) -> StackState:
    folder.temporary.mkdir(parents=True, exist_ok=True)
    settings = {
        "PATH": os.environ.get("PATH", os.defpath),
        "GATEWAY_PORT": str(port),
        "BIND_HOST": HOST,
        # The host in the URLs of its queues.
        "MINISTACK_HOST": HOST,
        "TMPDIR": str(folder.temporary),
        # With Docker, it would remove the containers of every MiniStack it finds there.
        "DOCKER_HOST": f"unix://{folder.temporary}/no-docker",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(folder.kept),
    }
    emulator = Emulator.spawn(checkout.ministack_command, port, folder.emulator_log, settings)
    state = StackState(emulator=emulator)
    if before is not None:
        state = before.model_copy(update={"emulator": emulator})
    # Written before anything can fail, so that `down` always finds what was started.
    folder.write(state)
    emulator.wait_until_healthy(folder.emulator_log)
    # Every time: the emulator does not keep what its S3 holds.
    s3 = local_session().client(
        "s3", endpoint_url=emulator.endpoint_url, config=LOCAL_CLIENT_CONFIG
    )
    publish_keys(s3, folder.issuer_key)
    return state


def _start_stand_ins(
    folder: StateFolder, checkout: Checkout, state: StackState, console: Console
) -> StackState:
    """Start them on the ports that they had, which the deployed functions know, if these are free.

    On other ports the stack is not up to date any more, and is deployed again.
    """
    payment, slack = state.payment_stand_in, state.slack_stand_in
    ports = [stand_in.port for stand_in in (payment, slack) if stand_in is not None]
    # One that outlived its stack would answer on the port of the new one.
    for stand_in in (payment, slack):
        if stand_in is not None:
            stand_in.stop()
    if len(ports) < 2 or not all(map(is_port_free, ports)):
        ports = [free_port(), free_port()]
        state = state.model_copy(update={"fingerprint": None})
    with step("localstripe", console):
        payment = PaymentStandIn.start_localstripe(
            checkout.localstripe_python,
            checkout.localstripe_program,
            ports[0],
            folder.payment_stand_in_log,
            folder.payments,
        )
        state = state.model_copy(update={"payment_stand_in": payment})
        folder.write(state)
        payment.wait_until_healthy(folder.payment_stand_in_log)
    with step("stand-in for Slack", console):
        slack = SlackStandIn.start_slack(ports[1], folder.slack_stand_in_log)
        state = state.model_copy(update={"slack_stand_in": slack})
        folder.write(state)
        slack.wait_until_healthy(folder.slack_stand_in_log)
    return state


def _bring_up_to_date(
    folder: StateFolder, checkout: Checkout, state: StackState, console: Console
) -> StackState:
    fingerprint = checkout.fingerprint()
    if state.fingerprint == fingerprint:
        return state
    payment, slack = state.payment_stand_in, state.slack_stand_in
    if payment is None or slack is None:
        raise ValueError("the stand-ins are started before anything is deployed")
    # A deployment that stops half-way leaves a stack of no known version.
    folder.write(state.model_copy(update={"fingerprint": None}))
    deployment = Deployment(
        folder,
        checkout,
        state.emulator.endpoint_url,
        payment.endpoint_url,
        slack.endpoint_url,
        console,
    )
    deployment.build()
    deployment.deploy(STACK_NAME)
    outputs = reachable(
        deployed_outputs(
            local_session(), LOCAL_CLIENT_CONFIG, state.emulator.endpoint_url, STACK_NAME
        ),
        state.emulator.endpoint_url,
    )
    secrets = {
        outputs["StripeSecretArn"]: STAND_IN_KEY,
        outputs["SlackSecretArn"]: slack.webhook_url,
    }
    _put_secrets(state.emulator.endpoint_url, secrets)
    deployed = state.model_copy(update={"fingerprint": fingerprint, "outputs": outputs})
    folder.write(deployed)
    return deployed


def _put_secrets(endpoint_url: str, secrets: Mapping[str, str]) -> None:
    """Put the stand-ins' key and address where an operator would put those of Stripe and Slack."""
    client = local_session().client(
        "secretsmanager", endpoint_url=endpoint_url, config=LOCAL_CLIENT_CONFIG
    )
    for secret_arn, secret in secrets.items():
        client.put_secret_value(SecretId=secret_arn, SecretString=secret)
