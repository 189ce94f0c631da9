"""Commits that move rows beside the account's own: limits that span accounts, pools of a team.

They follow the write protocol for each account, and differ in the fourth step alone: all rows that
the commit moves are written in one transaction, each under its own version. Nothing is half done,
whenever a worker stops. A lost race returns the rows that have moved, like that of a single row.

Accounts that share a row would lose races against each other. So a worker commits those of a batch
in one transaction: each is decided with what the accounts before it move. An account that turns out
to move no other row is written by itself.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from agent_credits.commit.beside import NOTHING_BESIDE, Beside, NamesBeside, moves_other_rows
from agent_credits.commit.changes import Change, Recorded, RunChange
from agent_credits.commit.decide import (
    Decision,
    beginning,
    lacks_credits,
    names_beside,
    settled_lender,
)
from agent_credits.commit.decision_context import DecisionContext
from agent_credits.commit.limits import room_of
from agent_credits.commit.read_ahead import Ahead, flushes_ahead, not_on_page, read_ahead
from agent_credits.commit.rows import LostTogether, Rows
from agent_credits.commit.write_protocol import (
    ATTEMPTS_MAX,
    CHANGES_PER_COMMIT_MAX,
    Committed,
    Pause,
    Rebill,
    commit,
    decide_with_ledger,
    decide_with_past,
    must_be_newest,
)
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.limits import LimitStanding
from agent_credits.values.errors import (
    AccountMissing,
    AccountTooLarge,
    AgentCreditsError,
    Contended,
    InvariantViolated,
    MoreRowsNeeded,
    RowsUnavailable,
    require,
)
from agent_credits.values.principals import Principal

if TYPE_CHECKING:
    from agent_credits.ledger.limits import LimitKey, LimitRow

# DynamoDB's bound on the rows of a transaction.
ROWS_TOGETHER_MAX: Final = 100
# So many rows stay below the 4 MB of a transaction even where each is at its ceiling. Half as many
# came to two thirds of the events a second, with a hundred events a batch.
ACCOUNTS_TOGETHER_MAX: Final = 50
# The rows of one account may be at fault. If so many accounts meet a fault alone as well, it is the
# service's: the others would wait for it one after another, and come back together instead.
FAULTS_ALONE_MAX: Final = 2
# A decision names rows that it lacks at most once for its changes and once for what they end, and
# both again once they are billed again.
_ROUNDS_MAX: Final = 6

Outcome = Committed | AgentCreditsError


def commit_changes(
    rows: Rows,
    principal: Principal,
    changes: Sequence[Change],
    *,
    now: datetime,
    pause: Pause,
    before_failing: Rebill | None = None,
) -> Committed:
    """Commit changes of one account, with whatever rows they move. Raises what `commit` raises."""
    if not moves_other_rows(changes):
        try:
            return commit(
                rows, principal, changes, now=now, pause=pause, before_failing=before_failing
            )
        except MoreRowsNeeded:
            # An end of a reservation that counts under a limit of several accounts.
            pass
    found = commit_together(
        rows, {principal: changes}, now=now, pause=pause, before_failing=before_failing
    )
    outcome = found[principal]
    if isinstance(outcome, AgentCreditsError):
        raise outcome
    return outcome


class Foreseen(Struct, frozen=True):
    """What a commit would decide now, and with what.

    `account`: as the first change finds it, with the grants that its teams lend.
    """

    decision: Decision
    account: Account
    context: DecisionContext

    def limits_of(self, change: RunChange) -> tuple[LimitStanding, ...]:
        """Return where each limit of the run stands before, in the order in which they refuse."""
        return room_of(self.account, change, self.context).standings


def foresee(rows: Rows, row: Account, changes: Sequence[Change], now: datetime) -> Foreseen:
    """Return what a commit of these changes would decide now. Nothing is written."""
    receipts = rows.read_receipts(not_on_page(row, changes))
    beside = Beside()
    for _ in range(_ROUNDS_MAX):
        decision, past = decide_with_past(rows, row, changes, receipts, now, beside)
        if not decision.lacks:
            return Foreseen(decision, *beginning(row, past, now, beside))
        beside = beside.with_moved(_read_beside(rows, decision.lacks))
    raise InvariantViolated("a decision names all rows that it needs")


def commit_together(
    rows: Rows,
    changes_of: Mapping[Principal, Sequence[Change]],
    *,
    now: datetime,
    pause: Pause,
    before_failing: Rebill | None = None,
    attempts_max: int = ATTEMPTS_MAX,
) -> dict[Principal, Outcome]:
    """Commit the changes of each account, or return the error that concerns it; see `commit`."""
    require(0 < len(changes_of) <= ACCOUNTS_TOGETHER_MAX, "a commit moves bounded accounts")
    for changes in changes_of.values():
        require(0 < len(changes) <= CHANGES_PER_COMMIT_MAX, "a commit holds a bounded batch")
    group = _Group(rows, changes_of, now, before_failing)
    for number in range(attempts_max):
        try:
            lost_race = group.attempt(number)
            if lost_race and group.pending and number + 1 < attempts_max:
                pause(number + 1)
        except Contended as out_of_time:
            group.outcomes.update(dict.fromkeys(group.pending, out_of_time))
            return group.outcomes
        except AgentCreditsError as error:
            group.isolate(error)
            return group.outcomes
        if not group.pending:
            return group.outcomes
    for principal in group.pending:
        contended = Contended(f"{principal}: lost {attempts_max} races in a row", attempts_max)
        group.outcomes[principal] = contended
    return group.outcomes


class _Staged(Struct, frozen=True):
    """An account that is decided and not written yet, and the row that it was decided from."""

    row: Account
    decision: Decision


class _Group:
    """Accounts that are committed together: what is known of their rows, and their outcomes."""

    def __init__(
        self,
        rows: Rows,
        changes_of: Mapping[Principal, Sequence[Change]],
        now: datetime,
        before_failing: Rebill | None,
    ) -> None:
        self._rows = rows
        self._now = now
        self._before_failing = before_failing
        self._rebilled: set[Principal] = set()
        # What an earlier attempt read and no lost race has shown to be stale.
        self._ahead: dict[Principal, Ahead] = {}
        self._newer: dict[Principal, Account] = {}
        self._limits: dict[LimitKey, LimitRow | None] = {}
        self._shared: dict[Principal, Account | None] = {}
        self.pending = dict(changes_of)
        self.outcomes: dict[Principal, Outcome] = {}

    def attempt(self, number: int) -> bool:
        """Read, decide and write once. Returns whether a race was lost."""
        self._read()
        staged = self._decide_all(number)
        alone = {p: found for p, found in staged.items() if not found.decision.moves}
        together = {p: found for p, found in staged.items() if p not in alone}
        # A limit may have refused what is written alone because of what the others move. So that is
        # written first; if it is not, the refusal would rest on nothing.
        if together and not self._write_together(together, number):
            return True
        lost_race = False
        for principal, found in alone.items():
            lost_race |= self._write_alone(principal, found, number)
        return lost_race

    def _read(self) -> None:
        """Read the rows, then the receipts, of the accounts that are not known."""
        unread = {p: c for p, c in self.pending.items() if p not in self._ahead}
        if unread:
            # A team's row is never older than a payer's, or what the payer reserved of it meanwhile
            # would end on the payer's row alone.
            self._shared.clear()
            self._ahead.update(read_ahead(self._rows, unread, self._newer))
            self._newer.clear()
        for principal in [p for p in self.pending if p not in self._ahead]:
            self._settle(principal, AccountMissing(f"{principal} has no account"))
        names = NOTHING_BESIDE
        for principal, changes in self.pending.items():
            names = names.joined(names_beside(self._ahead[principal].row, changes))
        self._read_beside(names)

    def _read_beside(self, names: NamesBeside) -> None:
        """Read the rows named that are not known."""
        found = _read_beside(self._rows, Beside(self._limits, self._shared).lacks(names))
        self._limits.update(found.limits)
        self._shared.update(found.shared)

    def _decide_all(self, number: int) -> dict[Principal, _Staged]:
        """Decide each account with what those before it move."""
        staged: dict[Principal, _Staged] = {}
        moved = Beside()
        for principal in [*self.pending]:
            try:
                decision = self._decide(principal, moved)
            except InvariantViolated as error:
                # Either what it was decided with is stale, or what the accounts before it move was.
                # It is a bug only if it happens with what stands.
                if not moved and not self._is_stale(principal) and not self._beside_is_stale():
                    self._settle(principal, error)
                continue
            except AgentCreditsError as error:
                self._settle(principal, error)
                continue
            if decision.changes_account:
                staged[principal] = _Staged(self._ahead[principal].row, decision)
                moved = moved.with_moved(decision.moves)
            elif not must_be_newest(decision, is_warm=False) or not self._is_stale(principal):
                self._settle(principal, _committed(decision, number))
        return staged

    def _decide(self, principal: Principal, moved: Beside) -> Decision:
        """Decide, with all rows that the decision turns out to need."""
        ahead = self._ahead[principal]
        receipts = {i: receipt for i, receipt in ahead.receipts.items() if receipt}
        names = NOTHING_BESIDE
        for _ in range(_ROUNDS_MAX):
            changes = self.pending[principal]
            names = names.joined(names_beside(ahead.row, changes))
            pages = {team: row.entries for team, row in self._shared.items() if row is not None}
            known = Beside(self._limits, self._shared, pages).with_moved(moved)
            beside = known.named(names)
            decision = decide_with_ledger(
                self._rows, ahead.row, changes, receipts, self._now, beside
            )
            if decision.lacks:
                self._read_beside(decision.lacks)
                names = names.joined(decision.lacks)
            elif self._bills_again(principal, decision):
                self._rebilled.add(principal)
                assert self._before_failing is not None
                self.pending[principal] = self._before_failing(changes, self._now)
            else:
                return decision
        raise InvariantViolated("a decision names all rows that it needs")

    def _bills_again(self, principal: Principal, decision: Decision) -> bool:
        may = self._before_failing is not None and principal not in self._rebilled
        return may and lacks_credits(decision)

    def _is_stale(self, principal: Principal) -> bool:
        """Read the row again; if it has moved, the next attempt starts from it."""
        newer = self._rows.read_account(principal)
        if newer is None or newer.version == self._ahead[principal].row.version:
            return False
        self._start_from(newer)
        return True

    def _beside_is_stale(self) -> bool:
        """Read the rows beside again; if any has moved, the next decision starts from it."""
        before = Beside(self._limits, self._shared)
        now_there = _read_beside(self._rows, NamesBeside(self._limits.keys(), self._shared.keys()))
        self._limits, self._shared = dict(now_there.limits), dict(now_there.shared)
        return (now_there.limits, now_there.shared) != (before.limits, before.shared)

    def _start_from(self, newer: Account) -> None:
        self._ahead.pop(newer.principal, None)
        self._newer[newer.principal] = newer

    def _write_alone(self, principal: Principal, found: _Staged, number: int) -> bool:
        self._flush(principal, found.row)
        try:
            newer = self._rows.compare_and_set(found.decision.account)
        except AgentCreditsError as error:
            self._settle(principal, error)
            return False
        if newer is not None:
            self._start_from(newer)
            return True
        self._settle(principal, _committed(found.decision, number))
        return False

    def _write_together(self, staged: Mapping[Principal, _Staged], number: int) -> bool:
        """Write what was decided in one transaction. Returns whether it was written."""
        moved = Beside()
        for found in staged.values():
            moved = moved.with_moved(found.decision.moves)
        limits = [
            replace(row, version=row.version + 1)
            for row in moved.limits.values()
            if row is not None
        ]
        try:
            teams = [self._settled_lender(team, staged) for team in moved.shared.values() if team]
            if len(staged) + len(teams) + len(limits) > ROWS_TOGETHER_MAX:
                raise AccountTooLarge(f"a commit moves at most {ROWS_TOGETHER_MAX} rows")
            for principal, found in staged.items():
                self._flush(principal, found.row)
            accounts = [*(found.decision.account for found in staged.values()), *teams]
            lost = self._rows.compare_and_set_together(accounts, limits)
        except InvariantViolated as error:
            # As in `_decide_all`: the team's row may know more of a payer than the row that the
            # payer was decided from.
            stale = [principal for principal in staged if self._is_stale(principal)]
            if not self._beside_is_stale() and not stale:
                self._one_by_one([*staged], error)
            return False
        except AgentCreditsError as error:
            self._one_by_one([*staged], error)
            return False
        if lost is not None:
            self._start_after(lost)
            return False
        self._limits.update({row.key: row for row in limits})
        self._shared.update({team.principal: team for team in teams})
        for principal, found in staged.items():
            self._settle(principal, _committed(found.decision, number))
        return True

    def _settled_lender(self, moved: Account, staged: Mapping[Principal, _Staged]) -> Account:
        """Return a team's account as it is to be written, with its full page flushed before."""
        row = self._shared[moved.principal]
        assert row is not None
        if row.page_is_full:
            self._rows.put_page(row.page)
        borrowers = [
            change
            for principal, found in staged.items()
            for change, result in zip(self.pending[principal], found.decision.results, strict=True)
            if isinstance(change, RunChange)
            and isinstance(result, Recorded)
            and change.billing.lender == moved.principal
        ]
        return settled_lender(row, moved, borrowers, self._now)

    def isolate(self, error: AgentCreditsError) -> None:
        """Let the fault of one account, or of what it needs, cost the others nothing."""
        self._one_by_one([*self.pending], error)

    def _one_by_one(self, principals: Sequence[Principal], error: AgentCreditsError) -> None:
        if len(principals) == 1:
            self._settle(principals[0], error)
            return
        faults = 0
        for principal in principals:
            if faults == FAULTS_ALONE_MAX:
                self._settle(principal, error)
                continue
            alone = {principal: self.pending[principal]}
            outcome = commit_together(
                self._rows,
                alone,
                now=self._now,
                pause=_do_not_wait,
                before_failing=self._before_failing,
            )[principal]
            self._settle(principal, outcome)
            faults += isinstance(outcome, RowsUnavailable)
        # What they moved is read again.
        self._limits.clear()
        self._shared.clear()

    def _start_after(self, lost: LostTogether) -> None:
        if lost.conflicts:
            self._ahead.clear()
            self._limits.clear()
            self._shared.clear()
        for account in lost.accounts:
            if account.principal in self.pending:
                self._start_from(account)
            else:
                self._shared[account.principal] = account
        self._limits.update({row.key: row for row in lost.limits})

    def _flush(self, principal: Principal, row: Account) -> None:
        wanted = not_on_page(row, self.pending[principal])
        if row.page_is_full and not flushes_ahead(row, wanted):
            self._rows.put_page(row.page)

    def _settle(self, principal: Principal, outcome: Outcome) -> None:
        self.outcomes[principal] = outcome
        self.pending.pop(principal)


def _read_beside(rows: Rows, names: NamesBeside) -> Beside:
    limits = rows.read_limits(names.limits) if names.limits else {}
    teams = rows.read_accounts_of(names.shared) if names.shared else {}
    return Beside(
        # In one order, so that a history is the same each time it is told.
        {key: limits.get(key) for key in sorted(names.limits, key=str)},
        {team: teams.get(team) for team in sorted(names.shared, key=str)},
        {team: row.entries for team, row in teams.items()},
    )


def _do_not_wait(_: int) -> None:
    """Go on at once: the group has waited already."""


def _committed(decision: Decision, races_lost: int) -> Committed:
    return Committed(
        decision.account, decision.results, races_lost, decision.errored_runs_forgotten
    )
