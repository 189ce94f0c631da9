"""A notice as a subscribed queue gets it: a CloudEvent in an envelope with subject and attributes.

The envelope is what raw delivery leaves out. It alone carries the subject that an e-mail has, which
says in one line what happened, and the severity, which is an attribute and not part of the event.
"""

import json
from typing import Any, Literal, get_args

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Json, ValidationError

from agent_credits.notices.notice import Severity
from agent_credits.values.errors import AgentCreditsError


class NotAnEnvelope(AgentCreditsError):
    """The message is no notice of the topic; it will never be one. Set it aside."""


class _Attribute(BaseModel):
    Type: str
    Value: str


class _CloudEvent(BaseModel):
    """What a reader leans on; everything else is passed on as it came."""

    model_config = ConfigDict(extra="allow")

    specversion: Literal["1.0"]
    id: str
    type: str
    subject: str
    time: str
    data: dict[str, Any]


class _Envelope(BaseModel):
    Subject: str = ""
    Message: Json[_CloudEvent]
    MessageAttributes: dict[str, _Attribute] = {}


class Published(Struct, frozen=True):
    """A notice as it came: the subject of its e-mail, its severity, and the CloudEvent."""

    subject: str
    severity: Severity
    notice: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.notice["id"])

    @property
    def type(self) -> str:
        return str(self.notice["type"])

    @property
    def team_id(self) -> str:
        """The team that it concerns; empty for a notice that names none."""
        return str(self.notice["data"].get("team_id") or "")


def read_envelope(body: str) -> Published:
    """Read the body of a message that SNS sent to a queue. Raises `NotAnEnvelope`."""
    try:
        envelope = _Envelope.model_validate_json(body)
    except ValidationError as error:
        problems = {".".join(map(str, problem["loc"])) or "body" for problem in error.errors()}
        # Where it is wrong, and not what stands there.
        raise NotAnEnvelope(f"not understood: {', '.join(sorted(problems))}") from None
    attribute = envelope.MessageAttributes.get("severity")
    return Published(
        envelope.Subject or envelope.Message.type,
        _severity(attribute.Value if attribute else ""),
        json.loads(json.loads(body)["Message"]),
    )


def _severity(text: str) -> Severity:
    """What names no severity known here is news and no more."""
    return next((known for known in get_args(Severity) if known == text), "info")
