"""A notice as a subscribed queue receives it: a CloudEvent in SNS's envelope.

Raw delivery would leave the envelope out. Only the envelope has the subject of the e-mail, which
says in one line what happened, and the severity, which is an attribute and not part of the event.
"""

import json
from typing import Any, Literal, get_args

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Json, ValidationError

from agent_credits.notices.notice import Severity
from agent_credits.values.errors import AgentCreditsError


class NotAnEnvelope(AgentCreditsError):
    """The message is not a notice of the topic. Let it reach the dead-letter queue."""


class _Attribute(BaseModel):
    Type: str
    Value: str


class _CloudEvent(BaseModel):
    """The members that a reader needs; all others are passed on unchanged."""

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
    """A notice as it was received: the subject of its e-mail, its severity, and the CloudEvent."""

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
        """The team that the notice concerns; empty where it names none."""
        return str(self.notice["data"].get("team_id") or "")


def read_envelope(body: str) -> Published:
    """Read the body of a message that SNS sent to a queue. Raises `NotAnEnvelope`."""
    try:
        envelope = _Envelope.model_validate_json(body)
    except ValidationError as error:
        problems = {".".join(map(str, problem["loc"])) or "body" for problem in error.errors()}
        # The fields alone: their values may be customers' data.
        raise NotAnEnvelope(f"invalid: {', '.join(sorted(problems))}") from None
    attribute = envelope.MessageAttributes.get("severity")
    return Published(
        envelope.Subject or envelope.Message.type,
        severity_of(attribute.Value if attribute else ""),
        json.loads(json.loads(body)["Message"]),
    )


def severity_of(text: str) -> Severity:
    """Read a severity; one that is not known here counts as `info`."""
    return next((known for known in get_args(Severity) if known == text), "info")
