"""What a run is requested with, and the events and bodies that are made from it."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypedDict

RESERVE_ID: Final = "reservation"
SETTLE_ID: Final = "reservation:settle"

# An id of these characters is a segment of a path as it is. The API takes more, but not every proxy
# and not every signature leaves `:` and `@` in a path alone.
_PLAIN_ID: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]+", re.ASCII)

Status = Literal["ok", "error", "cancelled"]


class UserTrigger(TypedDict):
    kind: Literal["user"]
    user_id: str


class TeamApiKeyTrigger(TypedDict):
    kind: Literal["team_api_key"]
    key_id: str


class ScheduleTrigger(TypedDict):
    kind: Literal["schedule"]
    schedule_id: str


Trigger = UserTrigger | TeamApiKeyTrigger | ScheduleTrigger


@dataclass(frozen=True, slots=True)
class RunRequest:
    """`request_id`: under which it is asked for. One that was refused stays refused."""

    run_id: str
    source: str
    team_id: str
    trigger: Trigger
    credits: str | None
    ttl_seconds: int
    parent_run_id: str | None = None
    project_id: str | None = None
    started_at: datetime | None = None
    request_id: str = RESERVE_ID

    def to_reserve(self) -> dict[str, Any]:
        """Return the body that reserves. It must be the same each time the run is started."""
        body = {
            "run_id": self.run_id,
            **self.to_change(),
            "credits": self.credits,
            "ttl_seconds": self.ttl_seconds,
            "parent_run_id": self.parent_run_id,
        }
        return _without_none(body)

    def to_change(self) -> dict[str, Any]:
        """Return what every later call says of the run, so that nothing has to be looked up."""
        return {"source": self.source, **self._data()}

    def event(
        self, kind: Literal["usage", "finished"], event_id: str, at: datetime, **data: str
    ) -> dict[str, Any]:
        """Return an event of the run. Its time is never before the run began."""
        time = max(at, self.started_at) if self.started_at else at
        return {
            "specversion": "1.0",
            "id": event_id,
            "source": self.source,
            "type": f"agent_run.{kind}",
            "subject": self.run_id,
            "time": _rfc3339(time),
            "data": {**self._data(), **data},
        }

    def _data(self) -> dict[str, Any]:
        started_at = _rfc3339(self.started_at) if self.started_at else None
        return _without_none(
            {
                "team_id": self.team_id,
                "trigger": dict(self.trigger),
                "project_id": self.project_id,
                "started_at": started_at,
            }
        )


def segment_of(text: str) -> str:
    """Return an id as a segment of a path."""
    if _PLAIN_ID.fullmatch(text):
        return text
    return "~" + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _rfc3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
