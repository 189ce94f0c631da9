"""Continuous reconciliation: each day, every account is held against its ledger.

Read-only on accounts, pages and receipts. What it remembers of an account is a checkpoint, so that
each day reads what is new, and every thirty days all of it again, in case an old page was changed.
A contradiction is observed, once a day until it is mended, and no checkpoint is put behind it: what
came after would only be measured against it.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import newest_team
from agent_credits.notices.observations import DriftedGrant, DriftFinding, DriftFound
from agent_credits.notices.rows import ObservationRows
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.reconciliation import Finding
from agent_credits.sweeps.rows import AccountsRows, CheckpointRows, LedgerRows, Stretch, Unreadable
from agent_credits.sweeps.sweep import Visited
from agent_credits.sweeps.verification import Verification, verify_row
from agent_credits.values.errors import RowNotUnderstood
from agent_credits.values.principals import Principal

if TYPE_CHECKING:
    from agent_credits.billing.policy import BillingPolicy

# What one visit replays before the next one goes on: seconds at the slowest.
ENTRIES_PER_VISIT = 1_000
REPLAY_AGAIN_AFTER = timedelta(days=30)
# A notice names so many contradictions, and the number of all.
FINDINGS_TOLD_MAX = 10


class ReconciliationRows(AccountsRows, LedgerRows, CheckpointRows, ObservationRows, Protocol):
    """What reconciling reads, and the two kinds of rows that it puts."""

    def read_account(self, principal: Principal) -> Account | None: ...


class ReconciliationSweep:
    """Implements `Sweep`; policies never change, and are read once."""

    def __init__(self, rows: ReconciliationRows, entries_max: int = ENTRIES_PER_VISIT) -> None:
        self._rows = rows
        self._entries_max = entries_max
        self._policies: dict[str, BillingPolicy] = {}

    def read_stretch(self, after: str | None, rows_max: int) -> Stretch[Account]:
        return self._rows.read_accounts(after, rows_max)

    def read_row(self, key: str) -> Account | Unreadable | None:
        return self._rows.read_account_at(key)

    def visit(self, row: Account | Unreadable, day: date, now: datetime) -> Visited:
        if isinstance(row, Unreadable):
            finding = _unreadable(row.principal, "row", row.reason)
            return self._drifted([finding], None, day, now)
        team_id = newest_team(row.entries)
        try:
            verification, since = self._verify(row, day)
        except RowNotUnderstood as error:
            return self._drifted(
                [_unreadable(row.principal, "ledger", str(error))], team_id, day, now
            )
        if verification.findings:
            return self._drifted(verification.findings, team_id, day, now)
        if verification.checkpoint.page_number > since.page_number:
            self._rows.put_checkpoint(verification.checkpoint)
        if not verification.is_complete:
            return Visited(is_done=False)
        return Visited(counts=Counter(AccountsReconciled=1))

    def _verify(self, row: Account, day: date) -> tuple[Verification, Checkpoint]:
        since = self._beginning(row.principal, day)
        if since.page_number >= row.page_number:
            # Another visit got further after the row was read here. Rows never go back: one that is
            # read now is at least as new as the one which that checkpoint was put behind.
            row = self._rows.read_account(row.principal) or row
        verification = verify_row(self._rows, row, self._policies, since, self._entries_max)
        return verification, since

    def _beginning(self, principal: Principal, day: date) -> Checkpoint:
        try:
            there = self._rows.read_checkpoint(principal)
        except RowNotUnderstood:
            # Another version put it. It only spares work, so the work is done.
            there = None
        if there is None or day - there.began_on >= REPLAY_AGAIN_AFTER:
            return Checkpoint(principal, began_on=day)
        return there

    def _drifted(
        self, findings: Sequence[Finding], team_id: str | None, day: date, now: datetime
    ) -> Visited:
        principal = findings[0].principal
        observation = DriftFound(
            principal=principal,
            team_id=principal.id if principal.kind == "team" else team_id,
            day=day,
            time=now,
            findings=tuple(_told(finding) for finding in findings[:FINDINGS_TOLD_MAX]),
            findings_count=len(findings),
        )
        self._rows.put_observation(observation, now)
        return Visited(counts=Counter(AccountsDrifted=1))


def _unreadable(principal: Principal, place: str, reason: str) -> Finding:
    return Finding(principal, place, f"this version cannot read {reason}")


def _told(finding: Finding) -> DriftFinding:
    if (drift := finding.drift) is None:
        return DriftFinding(place=finding.place, text=finding.text)
    grant = DriftedGrant(
        grant_id=drift.grant_id,
        pool=drift.pool,
        expected_microcredits=drift.expected_microcredits,
        found_microcredits=drift.found_microcredits,
    )
    return DriftFinding(place=finding.place, text=finding.text, grant=grant)
