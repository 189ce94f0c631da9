"""Continuous reconciliation: every day, each account is compared with its ledger.

Each limit that spans accounts is compared with what these count under it. It only reads accounts,
limits, pages and receipts. A checkpoint per account lets it read only what is new;
every 30 days it reads everything again, in case an old page was changed. A contradiction is
announced once a day until it is fixed, and no checkpoint is stored after it, because a later replay
would then start from the contradiction.

What an account drew of its team's pools since its checkpoint is compared with what the team's
ledger says it gave; see `not_given`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import newest_team, pool_identities
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.notices.observations import DriftedGrant, DriftedLimit, DriftFinding, DriftFound
from agent_credits.notices.rows import ObservationRows
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.limit_rows import LimitRows, verify_limit, without_row
from agent_credits.sweeps.reconciliation import Finding
from agent_credits.sweeps.rows import (
    AccountsAndLimitsRows,
    CheckpointRows,
    LedgerRows,
    Stretch,
    Unreadable,
)
from agent_credits.sweeps.shared_draws import SharedDraws, contradictions, shared_draws
from agent_credits.sweeps.sweep import Visited
from agent_credits.sweeps.verification import Verification, verify_row
from agent_credits.values.errors import RowNotUnderstood
from agent_credits.values.principals import Principal

if TYPE_CHECKING:
    from agent_credits.billing.policy import BillingPolicy

# A visit replays this many entries before the next one continues: seconds at the slowest.
ENTRIES_PER_VISIT = 1_000
REPLAY_AGAIN_AFTER = timedelta(days=30)
# A notice lists this many contradictions, and counts all of them.
FINDINGS_LISTED_MAX = 10


class ReconciliationRows(
    AccountsAndLimitsRows, LedgerRows, LimitRows, CheckpointRows, ObservationRows, Protocol
):
    """The rows that reconciliation reads, and the two kinds that it puts."""

    def read_account(self, principal: Principal) -> Account | None: ...


class ReconciliationSweep:
    """Implements `Sweep`. Policies never change, so each is read once."""

    def __init__(self, rows: ReconciliationRows, entries_max: int = ENTRIES_PER_VISIT) -> None:
        self._rows = rows
        self._entries_max = entries_max
        self._policies: dict[str, BillingPolicy] = {}

    def read_stretch(self, after: str | None, rows_max: int) -> Stretch[Account | LimitRow]:
        return self._rows.read_accounts_and_limits(after, rows_max)

    def read_row(self, key: str) -> Account | LimitRow | Unreadable | None:
        return self._rows.read_account_or_limit_at(key)

    def visit(self, row: Account | LimitRow | Unreadable, day: date, now: datetime) -> Visited:
        if isinstance(row, Unreadable):
            finding = _unreadable(row.principal, "row", row.reason)
            return self._drifted([finding], None, day, now)
        if isinstance(row, LimitRow):
            return self._visit_limit(row.key, day, now)
        team_id = newest_team(row.entries)
        try:
            row, since = self._newest(row, day)
            verification = verify_row(self._rows, row, self._policies, since, self._entries_max)
            findings = verification.findings or tuple(
                not_given(self._rows, row, verification, since)
            )
        except RowNotUnderstood as error:
            return self._drifted(
                [_unreadable(row.principal, "ledger", str(error))], team_id, day, now
            )
        if findings:
            return self._drifted(findings, team_id, day, now)
        if verification.checkpoint.page_number > since.page_number:
            self._rows.put_checkpoint(verification.checkpoint)
        if not verification.is_complete:
            return Visited(is_done=False)
        if missing := self._limits_without_row(row):
            return self._drifted(missing, team_id, day, now)
        return Visited(counts=Counter(AccountsReconciled=1))

    def _limits_without_row(self, account: Account) -> list[Finding]:
        try:
            return [*without_row(self._rows, account)]
        except RowNotUnderstood:
            # The visit of that limit's row says so.
            return []

    def _visit_limit(self, key: LimitKey, day: date, now: datetime) -> Visited:
        try:
            findings = verify_limit(self._rows, key, now)
        except RowNotUnderstood:
            # The visit of that account's row says so.
            findings = None
        if findings is None:
            return Visited(counts=Counter(LimitsNotCompared=1))
        if findings:
            return self._drifted(findings, key.team_id, day, now, key)
        return Visited(counts=Counter(LimitsReconciled=1))

    def _newest(self, row: Account, day: date) -> tuple[Account, Checkpoint]:
        """Return the row, and the checkpoint from which its ledger is replayed."""
        since = self._beginning(row.principal, day)
        if since.page_number >= row.page_number:
            # Another visit stored a checkpoint after the row was read here. Versions only grow, so
            # a row that is read now is at least as new as the row behind that checkpoint.
            row = self._rows.read_account(row.principal) or row
        return row, since

    def _beginning(self, principal: Principal, day: date) -> Checkpoint:
        try:
            there = self._rows.read_checkpoint(principal)
        except RowNotUnderstood:
            # Another version put it. A checkpoint only saves work, so the work is repeated.
            there = None
        if there is None or day - there.began_on >= REPLAY_AGAIN_AFTER:
            return Checkpoint(principal, began_on=day)
        return there

    def _drifted(
        self,
        findings: Sequence[Finding],
        team_id: str | None,
        day: date,
        now: datetime,
        limit: LimitKey | None = None,
    ) -> Visited:
        principal = findings[0].principal
        observation = DriftFound(
            principal=principal,
            team_id=principal.id if principal.kind == "team" else team_id,
            day=day,
            time=now,
            findings=tuple(_drift_finding(f) for f in findings[:FINDINGS_LISTED_MAX]),
            findings_count=len(findings),
            limit=(
                DriftedLimit(scope=limit.scope, id=limit.id, period=limit.period) if limit else None
            ),
        )
        self._rows.put_observation(observation, now)
        return Visited(counts=Counter(AccountsDrifted=1))


def not_given(
    rows: ReconciliationRows, row: Account, verification: Verification, since: Checkpoint
) -> Iterator[Finding]:
    """Yield what this account drew of its teams' pools, but they did not give, or the reverse.

    A team's entries name the version of the payer's commit. Every commit records an entry, so those
    that were replayed are of as many commits at most, and all that teams recorded of these is read
    by its identity: at most two receipts for each replayed entry, and none for an account that drew
    nothing of a team. Of a ledger too long for one visit, only the last visit compares.
    """
    lenders = sorted({key.lender for key in verification.shared if key.payer == row.principal})
    if not verification.is_complete or not lenders:
        return
    versions = range(max(row.version - verification.sums.entries, 0) + 1, row.version + 1)
    both = SharedDraws(verification.shared)
    for lender in lenders:
        both.update(_given(rows, lender, row.principal, versions))
    # Of a second in which the checkpoint's page ended, some entries may be before it.
    start = since.recorded_at
    whole = {k: left for k, left in both.items() if start is None or k.recorded_at > start}
    yield from contradictions(SharedDraws(whole))


def _given(
    rows: ReconciliationRows, lender: Principal, payer: Principal, versions: range
) -> SharedDraws:
    """Return what the lender recorded of these commits of a payer whose row was read before."""
    team = rows.read_account(lender)
    wanted = {i for version in versions for i in pool_identities(lender, payer, version)}
    on_page = [entry for entry in team.entries if entry.identity in wanted] if team else []
    receipts = rows.read_receipts(wanted - {entry.identity for entry in on_page})
    flushed = [receipt.entry for receipt in receipts.values()]
    return shared_draws(lender, [*on_page, *flushed])


def _unreadable(principal: Principal, place: str, reason: str) -> Finding:
    return Finding(principal, place, f"this version cannot read {reason}")


def _drift_finding(finding: Finding) -> DriftFinding:
    if (drift := finding.drift) is None:
        return DriftFinding(place=finding.place, text=finding.text)
    grant = DriftedGrant(
        grant_id=drift.grant_id,
        pool=drift.pool,
        expected_microcredits=drift.expected_microcredits,
        found_microcredits=drift.found_microcredits,
    )
    return DriftFinding(place=finding.place, text=finding.text, grant=grant)
