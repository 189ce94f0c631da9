"""`GET /v1/teams/{team_id}`: a team's settings, what it spent, and who changed what."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from agent_credits.api.audit import AUDIT_SHOWN_MAX, AuditEntry
from agent_credits.api.callers import Caller, no_team
from agent_credits.api.fields import Answer, Credits, TimeOut
from agent_credits.api.limits import (
    CurrentLimitAnswer,
    DeclaredLimitAnswer,
    current_answer,
    declared_answer,
    shown,
)
from agent_credits.api.rows import ApiRows, AuditRows
from agent_credits.billing.limit_standings import (
    CurrentLimits,
    accounts_that_count,
    current_limits,
)
from agent_credits.billing.policy import BillingPolicy, TeamKind
from agent_credits.billing.spend_cap import month_of
from agent_credits.billing.teams import AutoReload, Team


class AutoReloadAnswer(Answer):
    enabled: bool
    pool: str
    threshold_credits: Credits
    pack_credits: Credits
    reloads_max: int
    window_minutes: int


class PaymentAnswer(Answer):
    """How the team pays. `name` is the payment method's id at the payment provider."""

    provider: Literal["stripe", "invoice"]
    name: str
    suspended: bool


class PackAnswer(Answer):
    credits: Credits
    price_cents: int
    currency: str


class SpendingAnswer(Answer):
    """Money of a calendar month of the team's time zone, in minor units."""

    month: str
    currency: str
    spend_cap_cents: int
    spent_cents: int
    reserved_cents: int
    head_room_cents: int


class PurchaseListed(Answer):
    purchase_id: str
    principal: str
    price_cents: int
    currency: str
    state: Literal["pending", "settled", "declined"]
    at: TimeOut


class AuditAnswer(Answer):
    number: int
    time: TimeOut
    who: str
    action: str
    request_id: str
    changes: list[dict[str, Any]]


class TenureAnswer(Answer):
    since: TimeOut
    kind: TeamKind
    owner: str
    policy_version: str
    state: Literal["past", "current", "pending"]


class TeamAnswer(Answer):
    """`settings_version` is what `If-Match` compares. `members_count` is null where all may start
    runs. `limits` are those declared, as `PATCH` takes them; `limit_standings` is where they stand,
    and where that of each project or member does that used any. `audit`: the newest changes through
    the API, newest first.
    """

    team_id: str
    version: int
    settings_version: int
    as_of: TimeOut
    plan: str
    time_zone: str
    members_count: int | None
    tenures: list[TenureAnswer]
    alerts_low: list[str]
    limits: list[DeclaredLimitAnswer]
    limit_standings: list[CurrentLimitAnswer]
    limit_standings_left_out: int
    auto_reload: AutoReloadAnswer | None
    payment: PaymentAnswer | None
    packs: list[PackAnswer]
    spending: SpendingAnswer
    purchases: list[PurchaseListed]
    audit: list[AuditAnswer]


class Teams:
    def __init__(self, rows: ApiRows) -> None:
        self._rows = rows

    def read(self, team_id: str, caller: Caller, now: datetime) -> TeamAnswer:
        """Return the team as its row is now. Raises `Refused`."""
        team, policy = self.visible(team_id, caller)
        limits = self._limits_of(team, now)
        return team_answer(team, policy, newest_changes(self._rows, team), limits, now)

    def _limits_of(self, team: Team, now: datetime) -> CurrentLimits:
        """Return where the team's limits stand, by the rows of all accounts that may count them."""
        version = team.tenure_at(now).policy_version
        policy = self._rows.read_policy(version) if team.limits else None
        if policy is None:
            return CurrentLimits()
        accounts = self._rows.read_accounts_of(accounts_that_count(team, policy, now))
        return current_limits(self._rows, team, policy, accounts.values(), now)

    def visible(self, team_id: str, caller: Caller) -> tuple[Team, BillingPolicy | None]:
        """Return the row of one of the caller's teams, and the policy of its settings."""
        caller.require_team(team_id)
        team = self._rows.read_team(team_id)
        if team is None:
            raise no_team()
        return team, self._rows.read_policy(team.settings_policy_version)


def newest_changes(rows: AuditRows, team: Team) -> list[AuditEntry]:
    """Return the last changes of the team that say who made them, newest first."""
    numbers = range(max(team.audits - AUDIT_SHOWN_MAX, 0) + 1, team.audits + 1)
    found = rows.read_audit(team.team_id, numbers) if numbers else []
    return sorted(found, key=lambda entry: -entry.number)


def team_answer(
    team: Team,
    policy: BillingPolicy | None,
    audit: Sequence[AuditEntry],
    limits: CurrentLimits,
    now: datetime,
) -> TeamAnswer:
    standings, left_out = shown(limits.limits)
    month, spending = month_of(now, team.time_zone), team.spending
    packs = policy.packs if policy else ()
    return TeamAnswer(
        team_id=team.team_id,
        version=team.version,
        settings_version=team.settings_version,
        as_of=now,
        plan=team.plan,
        time_zone=team.time_zone,
        members_count=None if isinstance(team.members, str) else len(team.members),
        tenures=[
            TenureAnswer(
                since=tenure.since,
                kind=tenure.kind,
                owner=tenure.owner,
                policy_version=tenure.policy_version,
                state="current"
                if tenure is team.tenure_at(now)
                else "pending"
                if tenure.since > now
                else "past",
            )
            for tenure in team.tenures
        ],
        alerts_low=[str(threshold) for threshold in team.alerts.low],
        limits=[declared_answer(limit) for limit in team.limits],
        limit_standings=[current_answer(limit) for limit in standings],
        limit_standings_left_out=limits.left_out + left_out,
        auto_reload=auto_reload_answer(team.auto_reload),
        payment=_payment_answer(team),
        packs=[
            PackAnswer(credits=p.microcredits, price_cents=p.price_cents, currency=p.currency)
            for p in packs
            if p.currency == team.currency
        ],
        spending=SpendingAnswer(
            month=month,
            currency=team.currency,
            spend_cap_cents=team.spend_cap_cents,
            spent_cents=spending.spent_in(month),
            reserved_cents=spending.reserved_in(month),
            head_room_cents=spending.head_room(team.spend_cap_cents, month),
        ),
        purchases=[
            *(
                PurchaseListed(
                    purchase_id=held.purchase_id,
                    principal=held.principal,
                    price_cents=held.price_cents,
                    currency=held.currency,
                    state="pending",
                    at=held.reserved_at,
                )
                for held in reversed(spending.reservations)
            ),
            *(
                PurchaseListed(
                    purchase_id=ended.purchase_id,
                    principal=ended.principal,
                    price_cents=ended.price_cents,
                    currency=ended.currency,
                    state=ended.outcome,
                    at=ended.ended_at,
                )
                for ended in reversed(spending.recent)
            ),
        ],
        audit=[audit_answer(entry) for entry in audit],
    )


def auto_reload_answer(settings: AutoReload | None) -> AutoReloadAnswer | None:
    if settings is None:
        return None
    return AutoReloadAnswer(
        enabled=settings.enabled,
        pool=settings.pool,
        threshold_credits=settings.threshold_microcredits,
        pack_credits=settings.pack_microcredits,
        reloads_max=settings.reloads_max,
        window_minutes=settings.window_minutes,
    )


def _payment_answer(team: Team) -> PaymentAnswer | None:
    method = team.payment
    if method is None:
        return None
    return PaymentAnswer(
        provider=method.provider,
        name=method.name,
        suspended=team.spending.suspended_payment_method == method.name,
    )


def audit_answer(entry: AuditEntry) -> AuditAnswer:
    return AuditAnswer(
        number=entry.number,
        time=entry.time,
        who=entry.who,
        action=entry.action,
        request_id=entry.request_id,
        changes=[change.model_dump(mode="json") for change in entry.changes],
    )
