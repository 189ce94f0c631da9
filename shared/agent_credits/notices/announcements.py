"""What is announced of a commit: its notices, and the reload that it requested.

Both are derived only from the row's old and new image, never from the code path that wrote it, so
what was committed is what is announced. To add a type of notice, add a function to the tuple of its
kind of row. What is announced although no account changed is an observation, on a row of its own.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import assert_never

from msgspec import Struct

from agent_credits.billing.balance_reports import BalanceReport
from agent_credits.billing.limits import raised
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.limits import LimitCount, LimitRow
from agent_credits.ledger.reloads import ReloadRequest
from agent_credits.notices.auto_reload import (
    credits_restored,
    reload_declined,
    reload_frozen,
    reload_succeeded,
)
from agent_credits.notices.balance_report import balance_report_notice
from agent_credits.notices.credits_expiring import credits_expiring
from agent_credits.notices.credits_low import credits_low
from agent_credits.notices.drift_found import drift_found
from agent_credits.notices.insufficient_credits import insufficient_credits
from agent_credits.notices.limits import (
    limit_of_account_warning,
    limit_of_accounts_warning,
    limits_raised,
)
from agent_credits.notices.model_provider_errors import model_provider_error
from agent_credits.notices.notice import Notice
from agent_credits.notices.observations import (
    CreditsExpiring,
    DriftFound,
    ModelProviderError,
    Observation,
)
from agent_credits.notices.overdrawn import run_overdrawn
from agent_credits.notices.spend_cap import reload_suspended, spend_cap_warning


class AccountRecord(Struct, frozen=True):
    """One record of an account's change stream; a new row has no `old`."""

    old: Account | None
    new: Account

    @property
    def new_entries(self) -> tuple[Entry, ...]:
        """Return what the commit recorded: a page only grows, and page n+1 starts empty."""
        if self.old is None or self.old.page_number != self.new.page_number:
            return self.new.entries
        return self.new.entries[len(self.old.entries) :]


class TeamRecord(Struct, frozen=True):
    """One record of a team's change stream, and when the row was written, which it does not say."""

    old: Team | None
    new: Team
    written_at: datetime


class LimitRecord(Struct, frozen=True):
    """One record of the change stream of a limit's row, and when the row was written."""

    old: LimitRow | None
    new: LimitRow
    written_at: datetime


class Observed(Struct, frozen=True):
    """One record of the change stream: a new observation, which never changes."""

    observation: Observation


StreamRecord = AccountRecord | TeamRecord | LimitRecord | Observed


class NoticeSettings(Struct, frozen=True):
    """The deployment's settings of notices; `problem_type_base_url` may be empty."""

    problem_type_base_url: str


def _failed_runs(commit: AccountRecord, settings: NoticeSettings) -> Iterator[Notice]:
    for entry in commit.new_entries:
        if entry.fails_run:
            yield insufficient_credits(commit.new, entry, settings.problem_type_base_url)


def _overdrawn_runs(commit: AccountRecord, _: NoticeSettings) -> Iterator[Notice]:
    for entry in commit.new_entries:
        if entry.reservation.overruns:
            yield run_overdrawn(commit.new, entry)


def _reloads(commit: AccountRecord, _: NoticeSettings) -> Iterator[Notice]:
    for entry in commit.new_entries:
        match entry.type:
            case "reload.granted":
                yield reload_succeeded(commit.new, entry)
            case "reload.declined" if entry.decline == "too_many_reloads":
                yield reload_frozen(commit.new, entry)
            case "reload.declined":
                yield reload_declined(commit.new, entry)
            case _:
                pass


def _low_credits(commit: AccountRecord, _: NoticeSettings) -> Iterator[Notice]:
    low = commit.new.low
    if low is not None and low.notified_at_version == commit.new.version:
        yield credits_low(commit.new, low)


def _restored(commit: AccountRecord, _: NoticeSettings) -> Iterator[Notice]:
    old, new = commit.old, commit.new
    if old is None:
        return
    # Credits must have come as well. Without them, either the thresholds were changed, or a worker
    # of an older version, which does not know the field, wrote the row.
    credits_came = any(entry.brings_credits for entry in commit.new_entries)
    was_low = old.low is not None and bool(old.low.notified)
    if (old.is_exhausted and not new.is_exhausted) or (
        was_low and new.low is None and credits_came
    ):
        yield credits_restored(old, new)


def _limits_of_account(commit: AccountRecord, _: NoticeSettings) -> Iterator[Notice]:
    counts_before = commit.old.limit_counts if commit.old else ()
    before = {count.key: count for count in counts_before}
    for count in commit.new.limit_counts:
        if _reaches_more(before.get(count.key), count):
            yield limit_of_account_warning(commit.new, count)


def _limits_of_accounts(change: LimitRecord, _: NoticeSettings) -> Iterator[Notice]:
    if _reaches_more(change.old, change.new):
        yield limit_of_accounts_warning(change.new, change.written_at)


def _reaches_more(before: LimitCount | LimitRow | None, now: LimitCount | LimitRow) -> bool:
    """Return whether a percentage was reached that was not announced yet in this period."""
    if before is None or before.ends_at != now.ends_at:
        return now.notified_percent > 0
    if before.limit_microcredits == now.limit_microcredits:
        return now.notified_percent > before.notified_percent
    # Of another amount, what was drawn before is another percentage.
    return now.notified_percent * now.limit_microcredits > before.drawn_microcredits * 100


def _cap_warnings(change: TeamRecord, _: NoticeSettings) -> Iterator[Notice]:
    before, now = change.old.spending if change.old else None, change.new.spending
    warned_before = before.warned_percents if before and before.month == now.month else ()
    crossed = [percent for percent in now.warned_percents if percent not in warned_before]
    # One purchase may cross several levels. The highest says it all.
    if crossed:
        yield spend_cap_warning(change.new, max(crossed))


def _suspensions(change: TeamRecord, _: NoticeSettings) -> Iterator[Notice]:
    before = change.old.spending.suspended_payment_method if change.old else None
    if change.new.spending.suspended_payment_method not in (None, before):
        yield reload_suspended(change.new)


def _raised_limits(change: TeamRecord, _: NoticeSettings) -> Iterator[Notice]:
    before = {limit.place: limit for limit in (change.old.limits if change.old else ())}
    pairs = (
        # A new limit of one project or member replaces the one of each.
        (before.get(limit.place) or before.get((limit.scope, None, limit.period)), limit)
        for limit in change.new.limits
    )
    at = change.written_at
    found = [(old, new) for old, new in pairs if old is not None and raised(old, new, at)]
    if found:
        yield limits_raised(change.new, found, at)


OF_ACCOUNTS: tuple[Callable[[AccountRecord, NoticeSettings], Iterator[Notice]], ...] = (
    _failed_runs,
    _overdrawn_runs,
    _reloads,
    _low_credits,
    _restored,
    _limits_of_account,
)
OF_TEAMS: tuple[Callable[[TeamRecord, NoticeSettings], Iterator[Notice]], ...] = (
    _cap_warnings,
    _suspensions,
    _raised_limits,
)
OF_LIMITS: tuple[Callable[[LimitRecord, NoticeSettings], Iterator[Notice]], ...] = (
    _limits_of_accounts,
)


def notices_of(change: StreamRecord, settings: NoticeSettings) -> list[Notice]:
    """Return the notices of one record of the change stream."""
    match change:
        case AccountRecord():
            return [notice for derive in OF_ACCOUNTS for notice in derive(change, settings)]
        case TeamRecord():
            return [notice for derive in OF_TEAMS for notice in derive(change, settings)]
        case LimitRecord():
            return [notice for derive in OF_LIMITS for notice in derive(change, settings)]
        case Observed(observation):
            return [notice_of(observation)]
        case _:
            assert_never(change)


def notice_of(observation: Observation) -> Notice:
    """Return the notice of an observation."""
    match observation:
        case ModelProviderError():
            return model_provider_error(observation)
        case DriftFound():
            return drift_found(observation)
        case BalanceReport():
            return balance_report_notice(observation)
        case CreditsExpiring():
            return credits_expiring(observation)
        case _:
            assert_never(observation)


def reload_requests(record: AccountRecord) -> list[ReloadRequest]:
    """Return the requests to send to the reloads' queue: for a new reload, and to follow one up.

    A declined reload may have left a payment whose outcome is unknown, or another worker may just
    be making one. It is asked about once more, apart from the team's other reloads.
    """
    principal = record.new.principal
    follow_ups = [
        ReloadRequest(entry.reload.reload_id, entry.reload.team_id, principal, follows_up=True)
        for entry in record.new_entries
        if entry.type == "reload.declined" and entry.reload is not None and _had_request(entry)
    ]
    reload = record.new.reload
    if reload is None or reload.state != "requested":
        return follow_ups
    if record.old is not None and record.old.reload and record.old.reload.id == reload.id:
        return follow_ups
    return [*follow_ups, ReloadRequest(reload.id, reload.team_id, principal)]


def _had_request(entry: Entry) -> bool:
    # A reload that is frozen by the commit itself was never requested.
    return entry.decline != "too_many_reloads"
