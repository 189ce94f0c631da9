"""The embedded stack: an emulator of AWS on this machine, and the template deployed to it by SAM.

Stand-ins for Stripe and for Slack run beside it, so that reloads are paid and notices posted by the
same code as on AWS. Nothing here passes on the caller's credentials, profile or region, so what is
meant for the embedded stack cannot reach an account.
"""

import os
import shutil
from collections.abc import Mapping
from typing import Final

from rich.console import Console

from agent_credits_cli.errors import CommandError
from agent_credits_cli.target import deployed_outputs
from agent_credits_local.checkout import Checkout, this_checkout
from agent_credits_local.deployment import Deployment
from agent_credits_local.emulator import HOST, Emulator, free_port, is_port_free
from agent_credits_local.payment_stand_in import STAND_IN_KEY, PaymentStandIn
from agent_credits_local.progress import step
from agent_credits_local.session import LOCAL_CLIENT_CONFIG, local_session
from agent_credits_local.slack_stand_in import SlackStandIn
from agent_credits_local.stack_state import StackState, StateFolder

STACK_NAME: Final = "agent-credits"
PORT_DEFAULT: Final = 4566


def up(
    folder: StateFolder,
    checkout: Checkout,
    *,
    port: int | None = None,
    on_any_port: str = "agent-credits local up --port 0",
    fresh: bool = False,
    keeps_state: bool = False,
    console: Console,
) -> StackState:
    """Bring the stack up and up to date; `fresh` discards all its state first.

    Port 0 is any free one; None is that of the running stack, or else the default. `on_any_port` is
    the command that does the same on a free port; an error suggests it if this one is taken. An
    emulator that keeps its state can be stopped gently and started again with all it held.
    """
    checkout.require_tools()
    with folder.locked():
        state = folder.read()
        if state is not None and (fresh or not state.is_usable()):
            _discard(folder, state)
            state = None
        if state is None:
            with step("MiniStack", console):
                wanted = _port_to_use(port, on_any_port)
                state = _start_emulator(folder, checkout, wanted, keeps_state)
            state = _start_payment_stand_in(folder, checkout, state, console)
            state = _start_slack_stand_in(folder, state, console)
        elif port not in (None, 0, state.emulator.port):
            raise CommandError(
                f"the local stack already runs on port {state.emulator.port};"
                " to move it, stop it first with `agent-credits local down`"
            )
        return _bring_up_to_date(folder, checkout, state, console)


def down(folder: StateFolder) -> bool:
    """Stop what `up` started and nothing else; return whether anything was running."""
    with folder.locked():
        state = folder.read()
        return state is not None and _discard(folder, state)


def _discard(folder: StateFolder, state: StackState) -> bool:
    were_running = [emulator.stop() for emulator in state.started]
    folder.stack_file.unlink()
    shutil.rmtree(folder.temporary, ignore_errors=True)
    return any(were_running)


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
        return _start_emulator(folder, this_checkout(), state.emulator.port, True, state)


def _start_emulator(
    folder: StateFolder,
    checkout: Checkout,
    port: int,
    keeps_state: bool,
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
        "PERSIST_STATE": str(int(keeps_state)),
        "STATE_DIR": str(folder.temporary / "state"),
    }
    emulator = Emulator.spawn(checkout.ministack_command, port, folder.emulator_log, settings)
    state = StackState(emulator=emulator)
    if before is not None:
        state = before.model_copy(update={"emulator": emulator})
    # Written before anything can fail, so that `down` always finds what was started.
    folder.write(state)
    emulator.wait_until_healthy(folder.emulator_log)
    return state


def _start_payment_stand_in(
    folder: StateFolder, checkout: Checkout, state: StackState, console: Console
) -> StackState:
    with step("localstripe", console):
        stand_in = PaymentStandIn.start_localstripe(
            checkout.localstripe_python,
            checkout.localstripe_program,
            free_port(),
            folder.payment_stand_in_log,
        )
        state = state.model_copy(update={"payment_stand_in": stand_in})
        folder.write(state)
        stand_in.wait_until_healthy(folder.payment_stand_in_log)
    return state


def _start_slack_stand_in(folder: StateFolder, state: StackState, console: Console) -> StackState:
    with step("stand-in for Slack", console):
        stand_in = SlackStandIn.start_slack(free_port(), folder.slack_stand_in_log)
        state = state.model_copy(update={"slack_stand_in": stand_in})
        folder.write(state)
        stand_in.wait_until_healthy(folder.slack_stand_in_log)
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
    outputs = deployed_outputs(
        local_session(), LOCAL_CLIENT_CONFIG, state.emulator.endpoint_url, STACK_NAME
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
