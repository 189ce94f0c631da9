"""The rows that the API reads and writes."""

from collections.abc import Collection
from typing import Protocol

from agent_credits.api.audit import AuditEntry
from agent_credits.billing.teams import Team
from agent_credits.commit.rows import TeamRows
from agent_credits.intake.debits import DebitRows
from agent_credits.sweeps.balance_report_sweep import ReportRows


class AuditRows(TeamRows, Protocol):
    """The rows of teams, and of what was changed of them by whom."""

    def compare_and_set_team_audited(self, team: Team, entry: AuditEntry) -> Team | None:
        """Write the team's row as `compare_and_set_team` does, and the entry: both or neither."""
        ...

    def read_audit(self, team_id: str, numbers: Collection[int]) -> list[AuditEntry]:
        """Return the entries of these numbers that exist, in no order."""
        ...


class ApiRows(DebitRows, AuditRows, ReportRows, Protocol):
    """All of them. Each method raises `RowsUnavailable` on a fault."""
