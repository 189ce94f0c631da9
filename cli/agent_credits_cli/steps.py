"""The steps that make a stack what a file declares.

They are planned from the rows and the file alone, and what the file does not name stays as it is. A
step lists every difference that it makes, so that a plan can be read before it is carried out, or
instead.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, assert_never

from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team
from agent_credits.commit.changes import Conflicting, GrantChange, PlanChange
from agent_credits.commit.rows import Rows
from agent_credits.commit.team_changes import change_team
from agent_credits.commit.write_protocol import Pause, commit
from agent_credits.ledger.accounts import Account, PlanSubscription
from agent_credits.ledger.grants import PLAN_CHANGE_PREFIX
from agent_credits.values.display import (
    amount_text,
    count_text,
    credits_text,
    money_text,
    time_text,
)
from agent_credits.values.periods import next_period_starts_at
from agent_credits.values.principals import Principal
from agent_credits_cli.declared_grants import changed_grant, grant_changes
from agent_credits_cli.declared_teams import leaving_members, payers_until_changed, team_after
from agent_credits_cli.errors import CommandError
from agent_credits_cli.holdings import holdings_at
from agent_credits_cli.stack import OperatorRows, Stack
from agent_credits_cli.tables import tracked
from agent_credits_cli.team_settings import team_differences
from agent_credits_cli.world import DeclaredGrant, DeclaredTeam, Plan, World

Clock = Callable[[], datetime]

# Few enough that entries with the longest ids fit one row, together with as many grants.
CHANGES_PER_COMMIT: Final = 50

LEAVING_NAMED_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Difference:
    """One change of one thing; `before` is None if the thing does not exist yet."""

    kind: str
    name: str
    what: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class PutPolicy:
    policy: BillingPolicy

    @property
    def warnings(self) -> list[str]:
        return []

    @property
    def differences(self) -> list[Difference]:
        policy = self.policy
        rules = Difference(
            "policy", policy.version, "rules", None, count_text(len(policy.rules), "rule")
        )
        if not policy.packs:
            return [rules]
        packs = ", ".join(
            f"{credits_text(p.microcredits)} for {money_text(p.price_cents, p.currency)}"
            for p in policy.packs
        )
        return [rules, Difference("policy", policy.version, "packs", None, packs)]


@dataclass(frozen=True, slots=True)
class ChangeAccount:
    """Changes of one account, which is opened if it does not exist.

    `plan_counts_from`: when a new plan refills first, if an earlier one has refilled this period.
    """

    account: Account
    changes: tuple[PlanChange | GrantChange, ...]
    plan_counts_from: datetime | None = None

    @property
    def warnings(self) -> list[str]:
        return []

    @property
    def differences(self) -> list[Difference]:
        return [self._difference(change) for change in self.changes]

    def _difference(self, change: PlanChange | GrantChange) -> Difference:
        name = str(self.account.principal)
        if isinstance(change, PlanChange):
            before = _plan_text(self.account.plan) if self.account.plan else None
            starts = self.plan_counts_from
            after = _plan_text(change) + (f", from {time_text(starts)}" if starts else "")
            return Difference("account", name, "plan", before, after)
        return Difference("grant", name, change.grant_id, None, _grant_text(change))


@dataclass(frozen=True, slots=True)
class Leaving:
    """A member who leaves a team; `held_microcredits` is None if they have no account."""

    principal: Principal
    held_microcredits: int | None
    events_count_until: datetime


@dataclass(frozen=True, slots=True)
class SetTeam:
    declared: DeclaredTeam
    world: World
    before: Team | None
    after: Team
    leaving: tuple[Leaving, ...] = ()

    @property
    def warnings(self) -> list[str]:
        named = [self._warning(member) for member in self.leaving[:LEAVING_NAMED_MAX]]
        more = len(self.leaving) - len(named)
        if more:
            named.append(
                f"{count_text(more, 'more member')} of team {self.after.team_id} leave too"
            )
        return named

    def _warning(self, member: Leaving) -> str:
        held = member.held_microcredits
        still = f" and still holds {credits_text(held)}" if held is not None else ""
        return (
            f"{member.principal} leaves team {self.after.team_id}{still}; events of their runs in "
            f"the team count until {time_text(member.events_count_until)}"
        )

    @property
    def differences(self) -> list[Difference]:
        return [
            Difference("team", self.after.team_id, what, before, after)
            for what, before, after in team_differences(self.before, self.after)
        ]


Step = PutPolicy | ChangeAccount | SetTeam


def plan_steps(world: World, stack: Stack, now: datetime) -> list[Step]:
    """Return the steps, each after those that it depends on.

    A team comes after its accounts. Until a team exists its events are rejected anyway, but events
    of a team whose members have no accounts yet would be rejected needlessly.
    """
    for version, policy in stack.policies.items():
        if policy != world.policies[version]:
            raise changed_policy(version)
    steps: list[Step] = [
        PutPolicy(p) for p in world.policies.values() if p.version not in stack.policies
    ]
    grants: dict[Principal, list[DeclaredGrant]] = {}
    for grant in world.grants:
        grants.setdefault(grant.principal, []).append(grant)
    lenders = world.lenders()
    for principal, team in _teams_of_payers(world, stack, now).items():
        account = stack.accounts.get(principal) or Account(principal)
        plan = None if principal in lenders else world.plan_of(team)
        changes: tuple[PlanChange | GrantChange, ...] = (
            *(_plan_changes(account, team, plan) if plan else ()),
            *grant_changes(account, grants.get(principal, ()), stack.recorded, now),
        )
        if changes:
            steps.append(ChangeAccount(account, changes, _plan_counts_from(account, team, now)))
    for team in world.teams:
        before = stack.teams.get(team.team_id)
        after = team_after(before, team, world, now)
        if after != before:
            leaving = tuple(_leaving(stack, before, team, after, now))
            steps.append(SetTeam(team, world, before, after, leaving))
    return steps


def _teams_of_payers(world: World, stack: Stack, now: datetime) -> dict[Principal, DeclaredTeam]:
    """Return whose accounts are brought to the file, or opened until their team changes."""
    teams = world.team_of_accounts()
    for team in world.teams:
        before = stack.teams.get(team.team_id)
        for principal in payers_until_changed(world, team, before, since=now):
            if principal not in stack.accounts:
                teams.setdefault(principal, team)
    return teams


def _plan_counts_from(account: Account, team: DeclaredTeam, now: datetime) -> datetime | None:
    if account.plan is None or account.plan.refilled_from is None:
        return None
    return next_period_starts_at(team.anchor, now)


def _leaving(
    stack: Stack, before: Team | None, declared: DeclaredTeam, after: Team, now: datetime
) -> Iterator[Leaving]:
    count_until = dict(after.former_members)
    for principal in leaving_members(before, declared):
        account = stack.accounts.get(principal)
        # Of all pools: what a run of another team would draw counts, too.
        held = _unburned(account, now) if account else None
        # Of thousands who leave at once, the team keeps only some, and warns of those.
        if principal.id in count_until:
            yield Leaving(principal, held, count_until[principal.id])


def _unburned(account: Account, now: datetime) -> int:
    holdings = holdings_at(account, None, now)
    return holdings.available_microcredits + holdings.reserved_microcredits


def changed_policy(version: str) -> CommandError:
    return CommandError(
        f"policy.version: policy {version} is already applied with other content, and entries name "
        "it; give the changed policy a new version"
    )


def _plan_changes(account: Account, team: DeclaredTeam, plan: Plan) -> Iterator[PlanChange]:
    current = account.plan
    if current is not None and current.refilled_from is not None and current.anchor != team.anchor:
        raise CommandError(
            f"teams.anchor: {account.principal} refills from {current.anchor}, and another anchor "
            f"would refill a period twice; write anchor = {current.anchor} for {team.team_id}"
        )
    wanted = (plan.name, plan.pool, plan.microcredits, team.anchor)
    if current and wanted == (current.name, current.pool, current.microcredits, current.anchor):
        return
    yield PlanChange(
        principal=account.principal,
        # The id includes the row's version, so an apply repeated after a crash changes it once.
        change_id=f"{PLAN_CHANGE_PREFIX}{account.version}:{plan.name}",
        plan_name=plan.name,
        pool=plan.pool,
        microcredits=plan.microcredits,
        anchor=team.anchor,
    )


def _plan_text(plan: PlanSubscription | PlanChange) -> str:
    name = plan.name if isinstance(plan, PlanSubscription) else plan.plan_name
    if plan.microcredits == 0:
        return f"{name}: no credits, anchor {plan.anchor}"
    amount = amount_text(plan.microcredits)
    return f"{name}: {amount} {plan.pool} a month, anchor {plan.anchor}"


def _grant_text(change: GrantChange) -> str:
    expiry = f", expires {time_text(change.expires_at)}" if change.expires_at else ""
    return f"{amount_text(change.microcredits)} {change.pool} ({change.cause}){expiry}"


def utc_now() -> datetime:
    return datetime.now(UTC)


def carry_out(rows: OperatorRows, steps: Sequence[Step], *, clock: Clock, pause: Pause) -> None:
    """Carry the steps out, each by the time at which it is its turn.

    Opening thousands of accounts takes minutes. A tenure that was dated before that could begin
    before every worker knows it, and one event would be billed to two accounts.
    """
    for step in tracked(steps, "applying"):
        match step:
            case PutPolicy(policy):
                if rows.put_policy(policy) != policy:
                    raise changed_policy(policy.version)
            case ChangeAccount():
                change_account(rows, step, now=clock(), pause=pause)
            case SetTeam():
                _set_team(rows, step, clock, pause)
            case _:
                assert_never(step)


def change_account(rows: Rows, step: ChangeAccount, *, now: datetime, pause: Pause) -> Account:
    account = step.account
    for start in range(0, len(step.changes), CHANGES_PER_COMMIT):
        changes = step.changes[start : start + CHANGES_PER_COMMIT]
        committed = commit(
            rows, account.principal, changes, now=now, pause=pause, opens_account=True
        )
        account = committed.account
        for change, result in zip(changes, committed.results, strict=True):
            if isinstance(result, Conflicting):
                if isinstance(change, GrantChange):
                    raise changed_grant(change)
                raise CommandError(f"{account.principal} changed in the meantime; run apply again")
    return account


def _set_team(rows: OperatorRows, step: SetTeam, clock: Clock, pause: Pause) -> None:
    def changed(before: Team | None) -> Team:
        return team_after(before, step.declared, step.world, clock())

    if step.before is None:
        first = changed(None).model_copy(update={"version": 1})
        if rows.compare_and_set_team(first) is None:
            return
    change_team(rows, step.declared.team_id, changed, pause)
