"""Balance reports: every day one for each team, put as an observation.

A visit reads the team's accounts, and the part of their ledgers that is new since the last report.
If that is more than one visit should read, it counts a part, stores the counts on rows of their
own, and the next visit continues. The report is put when all is counted, once per team and day.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import date, datetime
from typing import Protocol

from agent_credits.billing.balance_reports import BalanceReport, Burning, balance_report
from agent_credits.billing.limit_standings import LimitRows, current_limits
from agent_credits.billing.payers import payers
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.burn import BurnByDay, burn_of, first_day
from agent_credits.ledger.burn_counts import BurnCount, count_pages
from agent_credits.ledger.entries import PAGES_MAX, Page
from agent_credits.notices.rows import ObservationRows
from agent_credits.sweeps.rows import Stretch, Unreadable
from agent_credits.sweeps.sweep import Visited
from agent_credits.values.principals import Principal

# A visit counts this many entries before the next one continues: two seconds at the slowest.
ENTRIES_PER_VISIT = 20_000


class ReportRows(ObservationRows, LimitRows, Protocol):
    """What reports are made from, and the stored counts that they start from."""

    def read_teams(self, after: str | None, rows_max: int) -> Stretch[Team]: ...

    def read_team_at(self, key: str) -> Team | Unreadable | None: ...

    def read_policy(self, version: str) -> BillingPolicy | None: ...

    def read_accounts_of(
        self, principals: Collection[Principal]
    ) -> Mapping[Principal, Account]: ...

    def read_burn_counts(
        self, principals: Collection[Principal]
    ) -> Mapping[Principal, BurnCount]: ...

    def put_burn_count(self, count: BurnCount) -> None:
        """Overwrite the stored count. Every count stays true, so an older one only costs reads."""
        ...

    def read_pages(
        self, principal: Principal, first: int = 1, last: int = PAGES_MAX
    ) -> Iterator[Page]: ...


class BalanceReportSweep:
    """Implements `Sweep` over teams."""

    def __init__(self, rows: ReportRows, entries_max: int = ENTRIES_PER_VISIT) -> None:
        self._rows = rows
        self._entries_max = entries_max

    def read_stretch(self, after: str | None, rows_max: int) -> Stretch[Team]:
        return self._rows.read_teams(after, rows_max)

    def read_row(self, key: str) -> Team | Unreadable | None:
        return self._rows.read_team_at(key)

    def visit(self, row: Team | Unreadable, day: date, now: datetime) -> Visited:
        policy = (
            None
            if isinstance(row, Unreadable)
            else self._rows.read_policy(row.tenure_at(now).policy_version)
        )
        if isinstance(row, Unreadable) or policy is None:
            # Without its row or its policy, a report cannot be made.
            return Visited(counts=Counter(TeamsNotReported=1), is_left_out=True)
        report = self.report(row, policy, day, now)
        if report is None:
            return Visited(is_done=False)
        is_new = self._rows.put_observation(report, now)
        return Visited(counts=Counter(BalanceReports=int(is_new)))

    def report(
        self, team: Team, policy: BillingPolicy, day: date, now: datetime
    ) -> BalanceReport | None:
        """Return the team's report, or None if there is more to count; a part of it is by now."""
        burning = self._burning(payers(team, policy, now), day)
        if burning is None:
            return None
        accounts = [one.account for one in burning]
        limits = current_limits(self._rows, team, policy, accounts, now).limits
        return balance_report(team, policy, burning, day, now, limits)

    def _burning(self, principals: list[Principal], day: date) -> list[Burning] | None:
        """Return the accounts and what they burned; None if there is more to count."""
        # Counts are read before accounts. A parallel visit may store a count that is newer than a
        # row read earlier, and such a count would include the row's own page.
        counts = self._rows.read_burn_counts(principals)
        accounts = self._rows.read_accounts_of(principals)
        since, entries_left, burning = first_day(day), self._entries_max, list[Burning]()
        for account in accounts.values():
            count = counts.get(account.principal, BurnCount(account.principal))
            if count.page_number < account.page_number - 1:
                if entries_left <= 0:
                    return None
                count, entries = self._count(account, count, since, entries_left)
                entries_left -= entries
            if count.page_number < account.page_number - 1:
                return None
            burned = BurnByDay(count.by_day)
            burned.update(burn_of(account.entries, since))
            burning.append(Burning(account, burned))
        return burning

    def _count(
        self, account: Account, count: BurnCount, since: date, entries_max: int
    ) -> tuple[BurnCount, int]:
        pages = self._rows.read_pages(
            account.principal, count.page_number + 1, account.page_number - 1
        )
        counted, entries = count_pages(count, pages, since, entries_max)
        self._rows.put_burn_count(counted)
        return counted, entries
