"""Paid and trial credits that expire soon: a daily sweep looks for them in every account.

Purchases, reloads and contracts are paid for, and nobody should lose a trial without notice. A
plan's refill is meant to expire at the end of its period, and any other gift was not paid for.
Credits that are used up or have expired are not announced. Each account and day of expiry is one
notice, however many grants and sweeps there are.
"""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Final, Protocol

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import newest_team
from agent_credits.ledger.grants import TRIAL_POOL, Grant, GrantCause
from agent_credits.notices.observations import CreditsExpiring, ExpiringGrant
from agent_credits.notices.rows import ObservationRows
from agent_credits.sweeps.rows import AccountsRows, LedgerRows, Stretch, Unreadable
from agent_credits.sweeps.sweep import Visited

PAID: Final[frozenset[GrantCause]] = frozenset({"purchase", "reload", "contract"})


class ExpiringCreditsRows(AccountsRows, LedgerRows, ObservationRows, Protocol):
    """The rows that this sweep reads and puts."""


class ExpiringCreditsSweep:
    """Implements `Sweep`. It announces what expires within `notice_period`."""

    def __init__(self, rows: ExpiringCreditsRows, notice_period: timedelta) -> None:
        self._rows = rows
        self._notice_period = notice_period

    def read_stretch(self, after: str | None, rows_max: int) -> Stretch[Account]:
        return self._rows.read_accounts(after, rows_max)

    def read_row(self, key: str) -> Account | Unreadable | None:
        return self._rows.read_account_at(key)

    def visit(self, row: Account | Unreadable, _: date, now: datetime) -> Visited:
        if isinstance(row, Unreadable):
            # Reconciliation reports such a row. Its grants are unknown.
            return Visited(counts=Counter(AccountsUnreadable=1), is_left_out=True)
        by_day = expiring_by_day(row, now, self._notice_period)
        team_id = self._team_to_notify(row) if by_day else None
        put: Counter[str] = Counter()
        for day, grants in by_day.items():
            observation = CreditsExpiring(
                principal=row.principal,
                team_id=team_id,
                expires_on=day,
                time=now,
                grants=tuple(_expiring_grant(grant) for grant in grants),
            )
            if self._rows.put_observation(observation, now):
                put["ExpiriesObserved"] += 1
        return Visited(counts=put)

    def _team_to_notify(self, row: Account) -> str | None:
        """Return the team of the newest entry on the last two pages, if one names a team.

        A user's account belongs to no team, and an unused one names none.
        """
        if row.principal.kind == "team":
            return row.principal.id
        last = row.page_number - 1
        pages = self._rows.read_pages(row.principal, max(last, 1), last)
        before = [entry for page in pages for entry in page.entries]
        return newest_team((*before, *row.entries))


def expiring_by_day(
    row: Account, now: datetime, notice_period: timedelta
) -> dict[date, tuple[Grant, ...]]:
    """Return the grants to announce: they still hold credits and expire soon, by their day in UTC.

    A grant that expires now has expired. One that expires exactly `notice_period` from now is
    included.
    """
    by_day: dict[date, tuple[Grant, ...]] = {}
    for grant in sorted(row.grants, key=lambda g: (str(g.expires_at), g.id)):
        if grant.expires_at is None or not _is_announced(grant):
            continue
        is_soon = now < grant.expires_at <= now + notice_period
        if is_soon and grant.remaining_microcredits > 0:
            day = grant.expires_at.astimezone(UTC).date()
            by_day[day] = (*by_day.get(day, ()), grant)
    return by_day


def _is_announced(grant: Grant) -> bool:
    return grant.cause in PAID or grant.pool == TRIAL_POOL


def _expiring_grant(grant: Grant) -> ExpiringGrant:
    assert grant.expires_at is not None, "an expiring grant has an expiry"
    return ExpiringGrant(
        grant_id=grant.id,
        pool=grant.pool,
        cause=grant.cause,
        remaining_microcredits=grant.remaining_microcredits,
        expires_at=grant.expires_at,
    )
