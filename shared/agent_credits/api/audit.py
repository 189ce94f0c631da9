"""Who changed what of a team through the API: an entry of its own for each change.

The entry is written in one transaction with the team's row that it changes, so neither exists
without the other. Its number is the row's count of such changes, so no entry can be missing in
between, and none is ever written again.
"""

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import AwareDatetime

from agent_credits.values.identifiers import Identifier
from agent_credits.values.strict import Strict

# As many as `agent-credits team` and the API show at once.
AUDIT_SHOWN_MAX: Final = 20

AuditAction = Literal["settings.changed", "purchase.made"]


class AuditChange(Strict):
    """One setting, before and after, as the API shows it; of a purchase, what was bought."""

    field: str
    before: Any = None
    after: Any = None


class AuditEntry(Strict):
    """`who`: `user:<id>` by a token, or `iam:<ARN>`. `request_id` finds the gateway's log."""

    team_id: Identifier
    number: int
    time: AwareDatetime
    who: str
    action: AuditAction
    request_id: str
    changes: tuple[AuditChange, ...]


class Auditor:
    """Who changes something now, and by which request."""

    def __init__(self, who: str, request_id: str, now: datetime) -> None:
        self.who = who
        self.request_id = request_id
        self.now = now

    def entry(
        self, team_id: str, number: int, action: AuditAction, changes: tuple[AuditChange, ...]
    ) -> AuditEntry:
        return AuditEntry(
            team_id=team_id,
            number=number,
            time=self.now.replace(microsecond=0),
            who=self.who,
            action=action,
            request_id=self.request_id,
            changes=changes,
        )
