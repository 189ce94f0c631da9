"""The steps that bring a stack to what a file declares.

They are planned from rows and file alone, and what stands in the stack and not in the file is left
alone. A step names every difference that it removes, so that a plan can be read before, or instead
of, being carried out.
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
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import money_text
from agent_credits.values.principals import Principal
from agent_credits_cli.declared_grants import changed_grant, grant_changes
from agent_credits_cli.declared_teams import payers_until_changed, team_after
from agent_credits_cli.errors import CommandError
from agent_credits_cli.stack import OperatorRows, Stack
from agent_credits_cli.tables import tracked
from agent_credits_cli.team_settings import team_differences
from agent_credits_cli.world import DeclaredGrant, DeclaredTeam, Plan, World

Clock = Callable[[], datetime]

# Small enough for entries with the longest ids to fit one row beside as many grants.
CHANGES_PER_COMMIT: Final = 50


@dataclass(frozen=True, slots=True)
class Difference:
    """What of one thing changes; `before` is None where it is not there yet."""

    kind: str
    name: str
    what: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class PutPolicy:
    policy: BillingPolicy

    @property
    def differences(self) -> list[Difference]:
        policy = self.policy
        rules = Difference("policy", policy.version, "rules", None, f"{len(policy.rules)} rules")
        if not policy.packs:
            return [rules]
        packs = ", ".join(
            f"{format_credits(p.microcredits)} for {money_text(p.price_cents, p.currency)}"
            for p in policy.packs
        )
        return [rules, Difference("policy", policy.version, "packs", None, packs)]


@dataclass(frozen=True, slots=True)
class ChangeAccount:
    """Changes of one account, which is opened where it is not there."""

    account: Account
    changes: tuple[PlanChange | GrantChange, ...]

    @property
    def differences(self) -> list[Difference]:
        return [self._difference(change) for change in self.changes]

    def _difference(self, change: PlanChange | GrantChange) -> Difference:
        name = str(self.account.principal)
        if isinstance(change, PlanChange):
            before = self.account.plan
            return Difference(
                "account", name, "plan", _plan_text(before) if before else None, _plan_text(change)
            )
        return Difference("grant", name, change.grant_id, None, _grant_text(change))


@dataclass(frozen=True, slots=True)
class SetTeam:
    declared: DeclaredTeam
    policy_version: str
    before: Team | None
    after: Team

    @property
    def differences(self) -> list[Difference]:
        return [
            Difference("team", self.after.team_id, what, before, after)
            for what, before, after in team_differences(self.before, self.after)
        ]


Step = PutPolicy | ChangeAccount | SetTeam


def plan_steps(world: World, stack: Stack, now: datetime) -> list[Step]:
    """Return the steps in the order in which each finds what it builds on.

    A team comes after its accounts: events of a team that is not there are refused anyhow, those of
    a team whose members have no accounts would be refused without need.
    """
    policy = world.policy
    if stack.policy is not None and stack.policy != policy:
        raise changed_policy(policy.version)
    steps: list[Step] = [] if stack.policy else [PutPolicy(policy)]
    grants: dict[Principal, list[DeclaredGrant]] = {}
    for grant in world.grants:
        grants.setdefault(grant.principal, []).append(grant)
    for principal, team in world.team_of_accounts().items():
        account = stack.accounts.get(principal) or Account(principal)
        changes: tuple[PlanChange | GrantChange, ...] = (
            *_plan_changes(account, team, world.plan_of(team)),
            *grant_changes(account, grants.get(principal, ()), stack.recorded, now),
        )
        if changes:
            steps.append(ChangeAccount(account, changes))
    for team in world.teams:
        before = stack.teams.get(team.team_id)
        for principal in payers_until_changed(world, team, before, since=now):
            if principal not in stack.accounts:
                account = Account(principal)
                changes = tuple(_plan_changes(account, team, world.plan_of(team)))
                steps.append(ChangeAccount(account, changes))
    for team in world.teams:
        before = stack.teams.get(team.team_id)
        after = team_after(before, team, policy.version, now)
        if after != before:
            steps.append(SetTeam(team, policy.version, before, after))
    return steps


def changed_policy(version: str) -> CommandError:
    return CommandError(
        f"policy.version: policy {version} is applied already with other content, and entries name "
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
        # One id per row that was read: an apply that is repeated after a crash changes it once.
        change_id=f"{PLAN_CHANGE_PREFIX}{account.version}:{plan.name}",
        plan_name=plan.name,
        pool=plan.pool,
        microcredits=plan.microcredits,
        anchor=team.anchor,
    )


def _plan_text(plan: PlanSubscription | PlanChange) -> str:
    name = plan.name if isinstance(plan, PlanSubscription) else plan.plan_name
    if plan.microcredits == 0:
        return f"{name}: nothing into {plan.pool}, anchor {plan.anchor}"
    return f"{name}: {format_credits(plan.microcredits)} {plan.pool} a month, anchor {plan.anchor}"


def _grant_text(change: GrantChange) -> str:
    expiry = f", expires {iso(change.expires_at)}" if change.expires_at else ""
    return f"{format_credits(change.microcredits)} {change.pool} ({change.cause}){expiry}"


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
                raise CommandError(f"{account.principal} was changed meanwhile; run apply again")
    return account


def _set_team(rows: OperatorRows, step: SetTeam, clock: Clock, pause: Pause) -> None:
    def changed(before: Team | None) -> Team:
        return team_after(before, step.declared, step.policy_version, clock())

    if step.before is None:
        first = changed(None).model_copy(update={"version": 1})
        if rows.compare_and_set_team(first) is None:
            return
    change_team(rows, step.declared.team_id, changed, pause)
