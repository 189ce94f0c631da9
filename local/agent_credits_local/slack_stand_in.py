"""The stand-in for Slack on this machine: its process, and the messages that it was sent.

The function of a local stack posts with the same code as on AWS, to the address of the stand-in. A
local stack never learns the address of Slack itself.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from agent_credits_local import slack_server
from agent_credits_local.emulator import Emulator
from agent_credits_local.slack_server import Answer, Message

# Workspace, app and the webhook's secret, in the form of Slack's own.
WEBHOOK_PATH: Final = f"{slack_server.WEBHOOK_PREFIX}T00000000/B00000000/stand-in"
JSON_HEADERS: Final = {"Content-Type": "application/json"}


class SlackStandIn(Emulator):
    """A started stand-in. It forgets every message when it is stopped."""

    title: ClassVar[str] = "the stand-in for Slack"
    health_path: ClassVar[str] = slack_server.HEALTH_PATH

    @classmethod
    def start_slack(cls, port: int, log: Path) -> Self:
        """Start a detached stand-in; it is not yet healthy when this returns."""
        environment = {"PATH": os.environ.get("PATH", os.defpath)}
        # Isolated and without site-packages: the program needs the standard library alone.
        command = [sys.executable, "-I", "-S", str(slack_server.__file__), str(port)]
        return cls.spawn(command, port, log, environment)

    @property
    def webhook_url(self) -> str:
        return f"{self.endpoint_url}{WEBHOOK_PATH}"

    def messages(self) -> Sequence[Message]:
        """Return what was posted and accepted so far, oldest first."""
        listed: list[Message] = json.loads(self.ask("GET", slack_server.MESSAGES_PATH))
        return listed

    def attachments(self) -> Sequence[dict[str, Any]]:
        """Return the attachment of each message; ours have one each."""
        return [message["payload"]["attachments"][0] for message in self.messages()]

    def answer_next(self, status: int, body: str, *, retry_after: str = "", times: int = 1) -> None:
        """Give this answer to the next posts, whatever they hold."""
        answer = Answer(
            path=WEBHOOK_PATH, status=status, body=body, retry_after=retry_after, times=times
        )
        self.ask("POST", slack_server.ANSWERS_PATH, json.dumps(answer), JSON_HEADERS)
