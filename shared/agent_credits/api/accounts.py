"""`GET /v1/accounts/{principal}`: what an account holds now, as its next commit would find it.

One read of the row answers it; the team that the account pays for and the policy that names the
pools are cached. One more read finds what the team's shared pools hold, and one where limits stand
that the account shares with others.

An account may pay for runs of several teams. A caller is shown only what tells of their own teams.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

from agent_credits.api.callers import Caller, no_account, no_run, trigger_of
from agent_credits.api.cursors import cursor_of, position_of
from agent_credits.api.fields import Answer, Credits, TimeOut
from agent_credits.api.limits import AccountLimitAnswer, account_limit_answer, shown
from agent_credits.api.recorded_runs import RecordedRun
from agent_credits.api.reservations import ReservationState, state_of
from agent_credits.billing.directory import Directory
from agent_credits.billing.limit_standings import limits_of_payer
from agent_credits.billing.payers import may_pay, pays, pools_lent_to, pools_of
from agent_credits.billing.policy import BillingPolicy, TeamKind
from agent_credits.billing.teams import EVERYONE, Team
from agent_credits.commit.beside import Beside
from agent_credits.commit.changes import Past
from agent_credits.commit.decide import beginning
from agent_credits.commit.decision_context import DecisionContext
from agent_credits.commit.low_credits import with_low_credits
from agent_credits.commit.rows import Rows
from agent_credits.events.agent_runs import UserTrigger
from agent_credits.ledger.accounts import (
    Account,
    PlanSubscription,
    pool_balances,
    reserved_balances,
    reserved_by_grant,
    total_microcredits,
)
from agent_credits.ledger.entries import Entry, RunContext, newest_team
from agent_credits.ledger.expiry import bring_up_to, resets_at
from agent_credits.ledger.grants import drawing_order
from agent_credits.ledger.reloads import DeclineCause, Reload
from agent_credits.ledger.reservations import Reservation
from agent_credits.ledger.shared_pools import is_holding, is_shared_grant, lender_of, payers_run
from agent_credits.ledger.thresholds import LowCredits
from agent_credits.values.principals import Principal


class PoolAnswer(Answer):
    pool: str
    available_credits: Credits
    reserved_credits: Credits


class SharedPoolAnswer(Answer):
    """A pool of the team, which runs draw behind the account's own pools.

    It is no part of the account's sums. `reserved_credits`: what runs of this account hold of it.
    """

    pool: str
    available_credits: Credits
    reserved_credits: Credits


class GrantAnswer(Answer):
    id: str
    pool: str
    remaining_credits: Credits
    reserved_credits: Credits
    amount_credits: Credits
    granted_at: TimeOut
    expires_at: TimeOut | None
    cause: str


class PlanAnswer(Answer):
    name: str
    pool: str
    credits: Credits
    resets_at: TimeOut | None


class ReloadAnswer(Answer):
    """The newest reload, while it is under way or its decline holds."""

    reload_id: str
    team_id: str
    state: Literal["requested", "declined"]
    cause: DeclineCause | None
    since: TimeOut
    until: TimeOut | None


class LowAnswer(Answer):
    """The thresholds that the account is below."""

    notified: list[str]
    deferred: list[str]
    percent_of_credits: Credits
    decline: DeclineCause | None


class AccountAnswer(Answer):
    """`pools` are in drawing order, grants too. `version` counts the account's commits."""

    principal: str
    version: int
    as_of: TimeOut
    available_credits: Credits
    reserved_credits: Credits
    reservations_count: int
    pools: list[PoolAnswer]
    shared_pools: list[SharedPoolAnswer]
    grants: list[GrantAnswer]
    plan: PlanAnswer | None
    resets_at: TimeOut | None
    reload: ReloadAnswer | None
    low: LowAnswer | None
    limit_standings: list[AccountLimitAnswer]
    policy_version: str | None


class HeldFor(Answer):
    """The run of a member, and of what is below it, that a team's pools hold credits for."""

    principal: str
    run_id: str


class RunReservation(ReservationState):
    run_id: str
    held_for: HeldFor | None


class ReservationsAnswer(Answer):
    """The live reservations of an account, oldest first, and where the next page begins."""

    principal: str
    version: int
    as_of: TimeOut
    reservations: list[RunReservation]
    next_cursor: str | None


class Accounts:
    def __init__(self, rows: Rows, directory: Directory) -> None:
        self._rows = rows
        self._directory = directory

    def read(self, principal: Principal, caller: Caller, now: datetime) -> AccountAnswer:
        """Return what the account holds. Raises `Refused`."""
        caller.require("read_account")
        row = self.visible(principal, caller, now)
        itself = self._directory.team(principal.id, now) if principal.kind == "team" else None
        kind = itself.tenure_at(now).kind if itself else None
        answer = account_answer(row, self._policy_of(row, caller, now), now, kind)
        team = self._team_paid_for(row, caller, now)
        shared = self._shared_pools(row, team, now) if team else []
        limits = self._limits_of(row, team, caller, now)
        return answer.model_copy(update={"shared_pools": shared, "limit_standings": limits})

    def visible(self, principal: Principal, caller: Caller, now: datetime) -> Account:
        """Return the row of an account that the caller may see. Raises `Refused`."""
        if not self.is_visible(principal, caller, now):
            raise no_account()
        row = self._rows.read_account(principal)
        if row is None:
            raise no_account()
        return row

    def is_visible(self, principal: Principal, caller: Caller, now: datetime) -> bool:
        """Tell whether the caller may see the account, whether or not it exists.

        A member sees their own; a billing admin that of every payer of their teams.
        """
        if caller.sees_all or principal == Principal("user", caller.user_id or ""):
            return True
        if caller.role != "billing_admin":
            return False
        if principal.kind == "team":
            return principal.id in caller.teams
        teams = (self._directory.team(team_id, now) for team_id in sorted(caller.teams))
        return any(team is not None and bills(team, principal, now) for team in teams)

    def visible_part(self, run: RecordedRun, caller: Caller, now: datetime) -> RecordedRun:
        """Return what the caller may see of a run: their own, or on an account that they may see.

        Raises `Refused` if that is nothing, as for a run that does not exist.
        """
        seen = {p: row for p, row in run.accounts.items() if self._sees(p, run, caller, now)}
        entries = tuple(
            found
            for found in run.entries
            if found.principal in seen and shows(found.entry, found.principal, caller)
        )
        if not entries:
            raise no_run()
        return RecordedRun(run.run_id, entries, seen)

    def _sees(self, principal: Principal, run: RecordedRun, caller: Caller, now: datetime) -> bool:
        if caller.role == "run" or not self.is_visible(principal, caller, now):
            contexts = [f.entry.run for f in run.entries if f.principal == principal]
            return any(context is not None and _is_own(context, caller) for context in contexts)
        return True

    def _policy_of(self, row: Account, caller: Caller, now: datetime) -> BillingPolicy | None:
        versions = (entry.run.policy_version for entry in reversed(row.entries) if entry.run)
        version = next(versions, None)
        if version is not None:
            return self._directory.policy(version)
        for team_id in self._teams_of(row, caller):
            team = self._directory.team(team_id, now)
            if team is not None and bills(team, row.principal, now):
                return self._policy_now(team, now)
        return None

    def _policy_now(self, team: Team, now: datetime) -> BillingPolicy:
        return self._directory.policy(team.tenure_at(now).policy_version)

    def _team_paid_for(self, row: Account, caller: Caller, now: datetime) -> Team | None:
        """Return a team of the caller's that the account pays for, that of its newest run first."""
        for team_id in filter(caller.knows_team, self._teams_of(row, caller)):
            team = self._directory.team(team_id, now)
            if team and pays(row.principal, team, self._policy_now(team, now), now):
                return team
        return None

    def _shared_pools(self, row: Account, team: Team, now: datetime) -> list[SharedPoolAnswer]:
        """Return what the team lends to runs of the account, without what others hold of it."""
        pools = pools_lent_to(row.principal, team, self._policy_now(team, now), now)
        lender = self._rows.read_account(Principal("team", team.team_id)) if pools else None
        if lender is None:
            return []
        beside = Beside(shared={lender.principal: lender})
        current, _ = beginning(row, Past(), now, beside)
        balances = pool_balances(current, pools, now)
        reserved = reserved_balances(current, pools, now)
        return [
            SharedPoolAnswer(
                pool=b.pool,
                available_credits=b.available_microcredits,
                reserved_credits=r.available_microcredits,
            )
            for b, r in zip(balances, reserved, strict=True)
        ]

    def _limits_of(
        self, row: Account, team: Team | None, caller: Caller, now: datetime
    ) -> list[AccountLimitAnswer]:
        """Return the limits of the team, and of other teams for whose runs the account counts."""
        team_ids = [team.team_id] if team else []
        counted = sorted({count.key.team_id for count in row.limit_counts})
        team_ids += [team_id for team_id in counted if caller.knows_team(team_id)]
        answers: list[AccountLimitAnswer] = []
        for team_id in dict.fromkeys(team_ids):
            declaring = self._directory.team(team_id, now)
            if declaring is not None and declaring.limits:
                policy = self._policy_now(declaring, now)
                found = limits_of_payer(self._rows, declaring, policy, row, now)
                shown_of_team, _ = shown(found)
                answers += [account_limit_answer(x, team_id, row, now) for x in shown_of_team]
        return answers

    def _teams_of(self, row: Account, caller: Caller) -> Iterator[str]:
        if row.principal.kind == "team":
            yield row.principal.id
        named = newest_team(row.entries)
        if named is not None:
            yield named
        yield from sorted(caller.teams)


def live_reservations(
    row: Account, caller: Caller, cursor: str | None, limit: int, now: datetime
) -> ReservationsAnswer:
    """Return the live reservations after the cursor. Raises `Refused`."""
    live = [held for held in row.reservations if held.is_live(now)]
    live = [held for held in live if _may_know(_teams_named(held), row.principal, caller)]
    start = 0
    if cursor is not None:
        after = position_of(cursor)
        # The one that a page ended with may have ended meanwhile; then the list begins again.
        places = [place for place, held in enumerate(live) if held.run_id == after]
        start = places[0] + 1 if places else 0
    page = live[start : start + limit]
    more = len(live) > start + limit
    return ReservationsAnswer(
        principal=str(row.principal),
        version=row.version,
        as_of=now,
        reservations=[
            RunReservation(
                **dict(state_of(held, now)), run_id=held.run_id, held_for=_held_for(held)
            )
            for held in page
        ],
        next_cursor=cursor_of(page[-1].run_id) if more else None,
    )


def _held_for(held: Reservation) -> HeldFor | None:
    if not is_holding(held.run_id):
        return None
    payer, run_id = payers_run(held.run_id)
    return HeldFor(principal=str(payer), run_id=run_id)


def account_answer(
    row: Account, policy: BillingPolicy | None, now: datetime, kind: TeamKind | None
) -> AccountAnswer:
    """Return the account as its next commit would bring it up to `now`; nothing is written.

    `kind`: of the team whose account it is, if it is that of a team.
    """
    current = bring_up_to(row, now)
    # A refill that is due may also have lifted the account above its thresholds.
    since = current.entries[len(row.entries) :]
    current = with_low_credits(current, (), since, DecisionContext(row, Past(), now))
    held = sorted({grant.pool for grant in current.grants})
    pools = pools_of(row.principal, policy, kind) if policy else tuple(held)
    balances = pool_balances(current, pools, now)
    reserved = reserved_balances(current, pools, now)
    of_grants = reserved_by_grant(current, now)
    undrawn = [pool for pool in held if pool not in pools]
    refill = resets_at(current, now)
    return AccountAnswer(
        principal=str(row.principal),
        version=row.version,
        as_of=now,
        available_credits=total_microcredits(balances),
        reserved_credits=total_microcredits(reserved),
        reservations_count=len(current.reservations),
        pools=[
            PoolAnswer(
                pool=b.pool,
                available_credits=b.available_microcredits,
                reserved_credits=r.available_microcredits,
            )
            for b, r in zip(balances, reserved, strict=True)
        ],
        shared_pools=[],
        grants=[
            GrantAnswer(
                id=grant.id,
                pool=grant.pool,
                remaining_credits=grant.remaining_microcredits,
                reserved_credits=of_grants.get(grant.id, 0),
                amount_credits=grant.amount_microcredits,
                granted_at=grant.granted_at,
                expires_at=grant.expires_at,
                cause=grant.cause,
            )
            for grant in drawing_order(current.grants, (*pools, *undrawn))
        ],
        plan=_plan_answer(current.plan, refill),
        resets_at=refill,
        reload=reload_answer(current.reload),
        low=_low_answer(current.low),
        limit_standings=[],
        policy_version=policy.version if policy else None,
    )


def reload_answer(reload: Reload | None) -> ReloadAnswer | None:
    if reload is None:
        return None
    return ReloadAnswer(
        reload_id=reload.id,
        team_id=reload.team_id,
        state=reload.state,
        cause=reload.cause,
        since=reload.since,
        until=reload.until,
    )


def _plan_answer(plan: PlanSubscription | None, refill: datetime | None) -> PlanAnswer | None:
    if plan is None:
        return None
    return PlanAnswer(name=plan.name, pool=plan.pool, credits=plan.microcredits, resets_at=refill)


def _low_answer(low: LowCredits | None) -> LowAnswer | None:
    if low is None:
        return None
    return LowAnswer(
        notified=[str(threshold) for threshold in low.notified],
        deferred=[str(threshold) for threshold in low.deferred],
        percent_of_credits=low.base_microcredits,
        decline=low.decline,
    )


def shows(entry: Entry, principal: Principal, caller: Caller) -> bool:
    """Tell whether an entry of an account that the caller sees concerns the caller.

    A user may have left another team, whose runs are on the same account and no business of the
    admin of this one.
    """
    if entry.run is not None:
        return _may_know([entry.run.team_id], principal, caller)
    lent = (m.grant_id for m in entry.reservation.moves if is_shared_grant(m.grant_id))
    return _may_know((lender_of(grant_id)[0].id for grant_id in lent), principal, caller)


def _teams_named(held: Reservation) -> Iterator[str]:
    """Yield the teams that a reservation tells of: by its limits, and by whose pools it holds."""
    yield from (key.team_id for key in held.limits)
    for part in held.parts:
        if is_shared_grant(part.grant_id):
            yield lender_of(part.grant_id)[0].id


def _may_know(team_ids: Iterable[str], principal: Principal, caller: Caller) -> bool:
    """Tell whether what names these teams may be shown to who sees the account."""
    is_own = principal == Principal("user", caller.user_id or "")
    return is_own or all(caller.knows_team(team_id) for team_id in team_ids)


def _is_own(context: RunContext, caller: Caller) -> bool:
    """Tell whether the caller, or the run that the caller is, was what triggered the run."""
    if context.team_id not in caller.teams:
        return False
    trigger = trigger_of(context.trigger_kind, context.trigger_id)
    if caller.trigger is not None:
        return trigger == caller.trigger
    return isinstance(trigger, UserTrigger) and trigger.user_id == caller.user_id


def bills(team: Team, principal: Principal, now: datetime) -> bool:
    """Tell whether the principal pays for the team's runs: as the team, its owner or a member."""
    if principal.kind == "team":
        return principal.id == team.team_id
    if team.members == EVERYONE:
        # Every user of the platform may start its runs, which makes none of them its payer.
        tenure = team.tenure_at(now)
        return tenure.kind == "self_serve" and principal.id == tenure.owner
    return may_pay(principal, team, now)
