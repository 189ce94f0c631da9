"""Where a team's limits stand at a time, for people and programs to read.

What is drawn under a limit is counted on the row of the account that pays, or, where its runs are
billed to several accounts, on a row of the limit's own. Nothing here decides: a commit counts on
the rows that it writes.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Final, Protocol

from msgspec import Struct

from agent_credits.billing.limits import (
    PERIODS,
    SCOPES,
    TeamLimit,
    declared_for,
    scopes_that_span_accounts,
)
from agent_credits.billing.payers import payers, pays
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import EVERYONE, Team
from agent_credits.ledger.accounts import Account, held_under
from agent_credits.ledger.expiry import bring_up_to
from agent_credits.ledger.limits import (
    LimitCount,
    LimitKey,
    LimitRow,
    LimitStanding,
    count_of,
    highest_reached,
    period_ends_at,
)
from agent_credits.values.principals import Principal

# Ten calls. Of more limits with rows of their own, those that drew least are left out.
LIMIT_ROWS_READ_MAX: Final = 1_000


class LimitRows(Protocol):
    """The rows of limits that span accounts. Raises `RowsUnavailable` on a fault."""

    def read_limits(self, keys: Collection[LimitKey]) -> Mapping[LimitKey, LimitRow]:
        """Return the rows that exist."""
        ...


class CurrentLimit(Struct, frozen=True):
    """A limit that a team declares, and where it stands at a time.

    `standing` is None if each project, member or run that the limit holds for has one of its own.
    """

    declared: TeamLimit
    standing: LimitStanding | None = None

    @property
    def id(self) -> str | None:
        return self.standing.key.id if self.standing else self.declared.id

    def is_lifted(self, now: datetime) -> bool:
        return self.declared.raise_until is not None and now < self.declared.raise_until

    @property
    def is_passed(self) -> bool:
        """Return whether more is drawn and reserved than the limit allows."""
        standing = self.standing
        return standing is not None and _taken(standing) > standing.limit_microcredits

    def warns(self, now: datetime) -> bool:
        """Return whether at least the lowest of its percentages is drawn."""
        if self.standing is None or self.is_lifted(now):
            return False
        drawn, limit = self.standing.drawn_microcredits, self.standing.limit_microcredits
        return highest_reached(self.declared.warn_at or (100,), drawn, limit) > 0


class CurrentLimits(Struct, frozen=True):
    """Limits, the widest scope first. `left_out`: how many more there are than are read at once."""

    limits: tuple[CurrentLimit, ...] = ()
    left_out: int = 0


def accounts_that_count(team: Team, policy: BillingPolicy, now: datetime) -> list[Principal]:
    """Return whose rows name what counts under the team's limits.

    A user who left may have drawn under a limit that others draw under too.
    """
    paying = payers(team, policy, now)
    if not scopes_that_span_accounts(team.tenure_at(now).kind, policy):
        return paying
    left = [Principal("user", who) for who, _ in team.former_members if who != EVERYONE]
    return list(dict.fromkeys((*paying, *left)))


def current_limits(
    rows: LimitRows,
    team: Team,
    policy: BillingPolicy,
    accounts: Iterable[Account],
    now: datetime,
    of_member: str | None = None,
) -> CurrentLimits:
    """Return where each limit of the team stands at `now`, counted by these accounts.

    A limit that holds for each project or member is followed by those that count something, the
    fullest first; so is that of the member named, whether it counts anything or not.
    """
    if not team.limits:
        return CurrentLimits()
    by_principal = {account.principal: bring_up_to(account, now) for account in accounts}
    spanning = scopes_that_span_accounts(team.tenure_at(now).kind, policy)
    found: list[CurrentLimit] = []
    spanned: dict[LimitKey, TeamLimit] = {}
    for key in _keys(team, by_principal.values(), now, of_member):
        declared = declared_for(team.limits, key)
        if declared is None:
            continue
        account = by_principal.get(payer_under(key, team, policy, now))
        count = count_of(account.limit_counts, key) if account else None
        # A limit that began to span accounts does so until its period is over.
        began = count is not None and count.spans_accounts and count.is_current(now)
        if key.scope in spanning or began:
            spanned[key] = declared
            continue
        held = sum(held_under(account, key).values()) if account else 0
        found.append(CurrentLimit(declared, _standing(declared, key, team, count, held, now)))
    read = list(spanned)[:LIMIT_ROWS_READ_MAX]
    there = rows.read_limits(read) if read else {}
    for key in read:
        row = there.get(key)
        held = row.held_microcredits(now) if row else 0
        standing = _standing(spanned[key], key, team, row, held, now)
        found.append(CurrentLimit(spanned[key], standing))
    of_each = (CurrentLimit(limit) for limit in team.limits if _holds_for_each(limit))
    return CurrentLimits(tuple(sorted((*found, *of_each), key=_order)), len(spanned) - len(read))


def limits_of_payer(
    rows: LimitRows, team: Team, policy: BillingPolicy, account: Account, now: datetime
) -> list[CurrentLimit]:
    """Return the team's limits that runs billed to this account count under, now or before.

    A limit's row also holds what other accounts drew. What counts on their rows alone is left out.
    """
    who = account.principal
    of_member = who.id if who.kind == "user" else None
    found = current_limits(rows, team, policy, [account], now, of_member).limits
    return [limit for limit in found if _concerns(limit, account, team, policy, now)]


def _concerns(
    limit: CurrentLimit, account: Account, team: Team, policy: BillingPolicy, now: datetime
) -> bool:
    who, kind = account.principal, team.tenure_at(now).kind
    is_payer = pays(who, team, policy, now)
    if limit.standing is None:
        declared = limit.declared
        if declared.scope == "member" and policy.rule_for(kind, "user").payer == "user":
            # Of a limit of each member, the member's own standing is shown.
            is_own = declared.id == who.id or (declared.id is None and declared.period == "run")
            return is_payer and is_own
        return is_payer
    key = limit.standing.key
    count = count_of(account.limit_counts, key)
    if count is not None and count.spans_accounts:
        return True
    # An account that no longer pays keeps its count, but it is not what is counted now.
    spans = key.scope in scopes_that_span_accounts(kind, policy)
    is_counted_here = spans or payer_under(key, team, policy, now) == who
    return is_counted_here and (is_payer or count is not None)


def _keys(
    team: Team, accounts: Collection[Account], now: datetime, of_member: str | None
) -> list[LimitKey]:
    """Return what is declared by name, then what else counts something, most of it first."""
    keys = {
        LimitKey(team.team_id, limit.scope, limit.id or team.team_id, limit.period)
        for limit in team.limits
        if not _holds_for_each(limit)
    }
    if of_member is not None:
        keys |= {
            LimitKey(team.team_id, "member", of_member, limit.period)
            for limit in team.limits
            if limit.scope == "member" and limit.id is None and limit.period != "run"
        }
    drawn: dict[LimitKey, int] = {}
    for account in accounts:
        held = {key for reservation in account.reservations for key in reservation.limits}
        for count in account.limit_counts:
            if count.key.team_id != team.team_id or count.key in keys:
                continue
            if count.is_current(now):
                drawn[count.key] = drawn.get(count.key, 0) + count.drawn_microcredits
            elif count.key in held:
                drawn.setdefault(count.key, 0)
    return [*sorted(keys), *sorted(drawn, key=lambda key: (-drawn[key], key))]


def _holds_for_each(limit: TeamLimit) -> bool:
    """Return whether what it limits is not one thing: each run, each project or each member."""
    return limit.period == "run" or (limit.scope != "team" and limit.id is None)


def payer_under(key: LimitKey, team: Team, policy: BillingPolicy, now: datetime) -> Principal:
    """Return whose row counts a limit that spans no accounts: a member's, or that of all runs."""
    tenure = team.tenure_at(now)
    match policy.rule_for(tenure.kind, "user").payer:
        case "user":
            return Principal("user", key.id)
        case "owner":
            return Principal("user", tenure.owner)
        case "team":
            return Principal("team", team.team_id)


def _standing(
    declared: TeamLimit,
    key: LimitKey,
    team: Team,
    counted: LimitCount | LimitRow | None,
    held_microcredits: int,
    now: datetime,
) -> LimitStanding:
    """Return where a limit stands by its count, or by its row if it has one."""
    is_current = counted is not None and now < counted.ends_at
    return LimitStanding(
        key=key,
        limit_microcredits=declared.microcredits,
        stops=declared.action == "stop",
        drawn_microcredits=counted.drawn_microcredits if counted and is_current else 0,
        held_microcredits=held_microcredits,
        resets_at=(
            counted.ends_at
            if counted and is_current
            else period_ends_at(key.period, team.time_zone, now)
        ),
    )


def _taken(standing: LimitStanding) -> int:
    return standing.drawn_microcredits + standing.held_microcredits


def _order(limit: CurrentLimit) -> tuple[int, int, int, int, str]:
    """Order by scope and period; the limit of each before those of one, the fullest first."""
    declared, standing = limit.declared, limit.standing
    place = SCOPES.index(declared.scope), PERIODS.index(declared.period)
    if standing is None:
        return (*place, 0, 0, declared.id or "")
    limit_microcredits = max(declared.microcredits, 1)
    return (*place, 1, -_taken(standing) * 1_000_000 // limit_microcredits, standing.key.id)
