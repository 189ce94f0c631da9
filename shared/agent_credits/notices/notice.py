"""A notice: a CloudEvent about an account, published to SNS for machines and for people."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import Struct

from agent_credits.values.principals import Principal

Severity = Literal["critical", "warning", "info"]
# What subscribers filter by; tests/unit/notices/every_notice.py has an example of each.
NoticeType = Literal[
    "agent_run.overdrawn",
    "auto_reload.frozen",
    "auto_reload.declined",
    "auto_reload.succeeded",
    "auto_reload.suspended",
    "credits_expiring",
    "balance_report",
    "credits_low",
    "credits_restored",
    "drift_found",
    "insufficient_credits",
    "limit.raised",
    "limit.warning",
    "notices.test",
    "provider_error",
    "provider_overloaded",
    "provider_quota_exhausted",
    "provider_rate_limited",
    "spend_cap.warning",
]

# A notice's id is derived from what the notice is about. Publishing one again after a crash gives
# the same id, so a consumer can drop the repeat.
_NAMESPACE = uuid.UUID("7f1cbd0a-6d0f-5c0c-9f43-0f2a3a4b6c11")

# SNS takes subjects of less than 100 characters.
SUBJECT_LENGTH_MAX = 99


# Where people read notices. Only a test of a channel is for one of them alone.
Channel = Literal["slack", "email"]


class Notice(Struct, frozen=True):
    """`key` differs from that of every other notice of this type on this principal, forever."""

    type: NoticeType
    severity: Severity
    principal: Principal
    team_id: str
    key: str
    subject: str
    time: datetime
    retryable: bool
    data: dict[str, Any]
    email_subject: str
    email_text: str
    # Set only by a test of the channel.
    channel: Channel | None = None

    @property
    def id(self) -> str:
        return str(uuid.uuid5(_NAMESPACE, json.dumps([self.type, str(self.principal), self.key])))

    @property
    def attributes(self) -> dict[str, str]:
        """What subscribers filter by. SNS rejects an attribute whose value is empty."""
        attributes = {
            "type": self.type,
            "severity": self.severity,
            "team_id": self.team_id,
            "principal": str(self.principal),
            "retryable": str(self.retryable).lower(),
            "channel": self.channel or "",
        }
        return {name: value for name, value in attributes.items() if value}

    @property
    def log_fields(self) -> dict[str, str]:
        return {
            "notice_id": self.id,
            "notice_type": self.type,
            "team_id": self.team_id,
            "principal": str(self.principal),
            "notice_subject": self.subject,
        }

    def to_cloudevent(self) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": f"/agent-credits/accounts/{self.principal}",
            "type": self.type,
            "subject": self.subject,
            "time": iso(self.time),
            "datacontenttype": "application/json",
            "data": self.data,
        }


def iso(instant: datetime) -> str:
    """Return the instant as machines read it, RFC 3339 in UTC: 2026-12-01T00:00:00Z."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
