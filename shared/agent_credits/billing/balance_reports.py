"""A team's balance report: what its accounts hold and burn, how long that lasts, what it spent."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Literal

from msgspec import Struct
from pydantic import AwareDatetime

from agent_credits.billing.limit_standings import CurrentLimit
from agent_credits.billing.payers import pools_of
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.spend_cap import month_of
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import (
    Account,
    pool_balances,
    reserved_balances,
    unburned_microcredits,
)
from agent_credits.ledger.burn import WINDOWS_DAYS, BurnByDay, burned_over, exhausted_on
from agent_credits.ledger.expiry import bring_up_to, resets_at
from agent_credits.ledger.limits import LimitKey, LimitPeriod, LimitScope, LimitStanding
from agent_credits.values.identifiers import Identifier, PoolName, PrincipalText
from agent_credits.values.strict import Strict

# A report lists this many accounts, those that burned most, and its sums cover all of them. People
# have to be able to read it, and it has to fit into a message.
ACCOUNTS_LISTED_MAX = 50
LIMITS_LISTED_MAX = 20


class Burning(Struct, frozen=True):
    """An account and what it burned."""

    account: Account
    burned: BurnByDay


class ReportedPool(Strict):
    """`reserved_microcredits`: what runs in flight hold of the pool, beside what is available."""

    pool: PoolName
    available_microcredits: int
    reserved_microcredits: int = 0


class ReportedAccount(Strict):
    """`burned_microcredits`: one sum for each of `WINDOWS_DAYS`. `exhausted_on`: see `burn`."""

    principal: PrincipalText
    pools: tuple[ReportedPool, ...]
    burned_microcredits: tuple[int, ...]
    exhausted_on: date | None = None
    resets_at: AwareDatetime | None = None

    @property
    def available_microcredits(self) -> int:
        return sum(pool.available_microcredits for pool in self.pools)

    @property
    def reserved_microcredits(self) -> int:
        return sum(pool.reserved_microcredits for pool in self.pools)


class ReportedSpending(Strict):
    """What the team spent on credits in a calendar month of its time zone."""

    month: str
    spent_cents: int
    reserved_cents: int
    spend_cap_cents: int
    currency: str


class ReportedLimit(Strict):
    """A limit of which at least the lowest of its percentages is drawn."""

    scope: LimitScope
    id: Identifier
    period: LimitPeriod
    stops: bool
    limit_microcredits: int
    drawn_microcredits: int
    reserved_microcredits: int = 0
    resets_at: AwareDatetime | None = None

    def standing(self, team_id: str) -> LimitStanding:
        return LimitStanding(
            key=LimitKey(team_id, self.scope, self.id, self.period),
            limit_microcredits=self.limit_microcredits,
            stops=self.stops,
            drawn_microcredits=self.drawn_microcredits,
            held_microcredits=self.reserved_microcredits,
            resets_at=self.resets_at,
        )


class BalanceReport(Strict):
    """`accounts` are the first of `accounts_count`; the sums cover all of them.

    `limits`: likewise the fullest of `limits_count`.

    `day`: burn is counted over the complete UTC days before it.
    """

    kind: Literal["balance_report"] = "balance_report"
    team_id: Identifier
    day: date
    time: AwareDatetime
    accounts: tuple[ReportedAccount, ...]
    accounts_count: int
    available_microcredits: int
    reserved_microcredits: int = 0
    burned_microcredits: tuple[int, ...]
    spending: ReportedSpending
    limits: tuple[ReportedLimit, ...] = ()
    limits_count: int = 0

    @property
    def key(self) -> str:
        """Return what makes it count once: the team and the day."""
        return f"{self.day} {self.team_id}"


def balance_report(
    team: Team,
    policy: BillingPolicy,
    burning: Iterable[Burning],
    day: date,
    now: datetime,
    limits: Iterable[CurrentLimit] = (),
) -> BalanceReport:
    """Return the team's report of `day`; `burning` are the accounts of its payers."""
    warning = [one.standing for one in limits if one.standing and one.warns(now)]
    warning.sort(key=lambda standing: -standing.used_percent)
    kind = team.tenure_at(now).kind
    accounts = [
        _reported(one, pools_of(one.account.principal, policy, kind), day, now) for one in burning
    ]
    accounts.sort(
        key=lambda a: (-a.burned_microcredits[-1], -a.available_microcredits, a.principal)
    )
    month = month_of(now, team.time_zone)
    return BalanceReport(
        team_id=team.team_id,
        day=day,
        time=now,
        accounts=tuple(accounts[:ACCOUNTS_LISTED_MAX]),
        accounts_count=len(accounts),
        available_microcredits=sum(account.available_microcredits for account in accounts),
        reserved_microcredits=sum(account.reserved_microcredits for account in accounts),
        burned_microcredits=_summed([account.burned_microcredits for account in accounts]),
        spending=ReportedSpending(
            month=month,
            spent_cents=team.spending.spent_in(month),
            reserved_cents=team.spending.reserved_in(month),
            spend_cap_cents=team.spend_cap_cents,
            currency=team.currency,
        ),
        limits=tuple(map(_reported_limit, warning[:LIMITS_LISTED_MAX])),
        limits_count=len(warning),
    )


def _reported(burning: Burning, order: Sequence[str], day: date, now: datetime) -> ReportedAccount:
    current = bring_up_to(burning.account, now)
    balances = pool_balances(current, order, now)
    reserved = reserved_balances(current, order, now)
    return ReportedAccount(
        principal=current.principal,
        pools=tuple(
            ReportedPool(
                pool=b.pool,
                available_microcredits=b.available_microcredits,
                reserved_microcredits=r.available_microcredits,
            )
            for b, r in zip(balances, reserved, strict=True)
        ),
        burned_microcredits=tuple(burned_over(burning.burned, days, day) for days in WINDOWS_DAYS),
        exhausted_on=exhausted_on(unburned_microcredits(current, order, now), burning.burned, day),
        resets_at=resets_at(current, now),
    )


def _reported_limit(standing: LimitStanding) -> ReportedLimit:
    return ReportedLimit(
        scope=standing.key.scope,
        id=standing.key.id,
        period=standing.key.period,
        stops=standing.stops,
        limit_microcredits=standing.limit_microcredits,
        drawn_microcredits=standing.drawn_microcredits,
        reserved_microcredits=standing.held_microcredits,
        resets_at=standing.resets_at,
    )


def _summed(windows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip(*windows, strict=True)) or (0,) * len(WINDOWS_DAYS)
