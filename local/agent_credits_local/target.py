"""The embedded stack as a target of commands.

It has dummy keys, an explicit endpoint and none of the caller's configuration, so a command meant
for it cannot reach an account.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_credits_cli.errors import CommandError
from agent_credits_cli.target import StackOutputs, Target
from agent_credits_local.api_urls import reachable
from agent_credits_local.embedded_stack import STACK_NAME
from agent_credits_local.payment_stand_in import PaymentStandIn
from agent_credits_local.session import LOCAL_CLIENT_CONFIG, local_session
from agent_credits_local.slack_stand_in import SlackStandIn
from agent_credits_local.stack_state import StateFolder


@dataclass(frozen=True)
class LocalTarget(Target):
    """A target whose reloads are paid, and whose notices are posted, on this machine."""

    payment_stand_in: PaymentStandIn
    slack_stand_in: SlackStandIn

    def posted_to_slack(self) -> Sequence[Mapping[str, Any]]:
        return self.slack_stand_in.attachments()

    def reachable(self, outputs: Mapping[str, str]) -> Mapping[str, str]:
        assert self.endpoint_url is not None, "the emulator is at an address of its own"
        return reachable(outputs, self.endpoint_url)


def connect_to_local(folder: StateFolder) -> LocalTarget:
    state = folder.read()
    if state is None or not state.is_usable():
        raise CommandError("the local stack is not running; start it with `agent-credits local up`")
    assert state.payment_stand_in is not None, "a usable stack pays at a stand-in"
    assert state.slack_stand_in is not None, "a usable stack posts to a stand-in"
    name = "the local stack"
    return LocalTarget(
        name=name,
        stack_name=STACK_NAME,
        session=local_session(),
        config=LOCAL_CLIENT_CONFIG,
        endpoint_url=state.emulator.endpoint_url,
        outputs=StackOutputs.of(state.outputs, name),
        payment_stand_in=state.payment_stand_in,
        slack_stand_in=state.slack_stand_in,
    )
