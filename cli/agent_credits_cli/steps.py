"""What has to change so that a stack holds what a file declares: pure, from rows and file alone.

What stands in the stack and not in the file is left alone. A step names every difference that it
removes, so that a plan can be read before, or instead of, being carried out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.spend_cap import PaymentMethod, Spending, with_cap
from agent_credits.billing.teams import (
    EVERYONE,
    FORMER_MEMBERS_MAX,
    TENURE_NOTICE,
    TENURES_MAX,
    AutoReload,
    Team,
    Tenure,
)
from agent_credits.commit.changes import GrantChange, PlanChange
from agent_credits.ledger.accounts import Account, PlanSubscription
from agent_credits.ledger.entries import Entry, Identity
from agent_credits.ledger.grants import GRANTS_MAX, PLAN_CHANGE_PREFIX, Grant
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import money_text
from agent_credits.values.principals import Principal
from agent_credits_cli.errors import CommandError
from agent_credits_cli.world import DeclaredGrant, DeclaredTeam, Plan, World

# A tenure that starts within this may have billed an event already: workers take events from a
# little ahead of their clock and know the settings for a while, which is half of the notice, and
# the rest is for clocks that differ. Such a tenure stays, or a repeat would find another payer.
TENURE_BINDS_WITHIN: Final = TENURE_NOTICE * 3 / 4

# What a team that is not there yet shows of its money.
_NO_MONEY: Final = ("0 cents a month", "off", "none")

# Between planning a grant and recording it passes less than this.
SECONDS_TO_RECORD_MAX: Final = 3_600

MEMBERS_NAMED_MAX: Final = 5


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
            for what, before, after in _team_differences(self.before, self.after)
        ]


Step = PutPolicy | ChangeAccount | SetTeam


@dataclass(frozen=True, slots=True)
class Stack:
    """What the stack holds of what the file names. `recorded`: its grants that were made."""

    policy: BillingPolicy | None
    teams: Mapping[str, Team]
    accounts: Mapping[Principal, Account]
    recorded: Mapping[Identity, Entry]


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


def payers_until_changed(
    world: World, team: DeclaredTeam, before: Team | None, since: datetime | None = None
) -> list[Principal]:
    """Return who also pays from `since` on, until the declared kind of team begins.

    A user who joins in the same file already runs agents by then. Without an account, what they use
    would be rejected, at once and whenever it comes again.
    """
    if before is None or team.takes_everyone:
        return []
    tenures = before.tenures
    if since is not None:
        tenures = (before.tenure_at(since), *(t for t in tenures if t.since > since))
    others = sorted({tenure.kind for tenure in tenures} - {team.kind})
    as_others = [team.model_copy(update={"kind": kind}) for kind in others]
    declared = world.team_of_accounts()
    return [p for other in as_others for p in world.payers_of(other) if p not in declared]


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


def grant_changes(
    account: Account,
    grants: Sequence[DeclaredGrant],
    recorded: Mapping[Identity, Entry],
    now: datetime,
) -> list[GrantChange]:
    """Return the grants that were not made yet. Raises `CommandError` for one that never can be."""
    changes = []
    for grant in grants:
        change = grant_change(grant, now)
        entry = recorded.get(change.identity)
        if entry is None:
            _check_outlives(change, now)
            changes.append(change)
        elif entry.payload_hash != change.payload_hash or not _expires_alike(entry.grant, grant):
            raise changed_grant(change)
    if changes and len(account.grants) + len(changes) > GRANTS_MAX:
        raise CommandError(
            f"{account.principal} would hold more than {GRANTS_MAX} grants; merge some of them, or "
            "wait until older ones are used up"
        )
    return changes


def changed_grant(change: GrantChange) -> CommandError:
    return CommandError(
        f"grant {change.grant_id} of {change.principal} is recorded already with another pool, "
        "amount, cause or expiry, and what is recorded never changes; give the new grant another id"
    )


def grant_change(grant: DeclaredGrant, now: datetime) -> GrantChange:
    expires_at = grant.expires_at
    if grant.expires_in_days is not None:
        expires_at = now.replace(microsecond=0) + timedelta(days=grant.expires_in_days)
    return GrantChange(
        principal=grant.principal,
        grant_id=grant.id,
        pool=grant.pool,
        microcredits=grant.microcredits,
        expires_at=expires_at,
        cause=grant.cause,
    )


def _check_outlives(change: GrantChange, now: datetime) -> None:
    if change.expires_at is not None and change.expires_at <= now:
        raise CommandError(
            f"grant {change.grant_id} of {change.principal} expired at {iso(change.expires_at)}, "
            "before it was made; give it a later expires_at, or remove it"
        )


def _expires_alike(made: Grant | None, declared: DeclaredGrant) -> bool:
    """Tell whether the grant was made with the declared expiry, which its hash leaves out."""
    if made is None or made.expires_at is None:
        return declared.expires_at is None and declared.expires_in_days is None
    if declared.expires_in_days is None:
        return declared.expires_at is not None and _seconds_apart(made, declared.expires_at) < 1
    # Days count from when it was made, give or take what recording it took.
    expected = made.granted_at + timedelta(days=declared.expires_in_days)
    return _seconds_apart(made, expected) < SECONDS_TO_RECORD_MAX


def _seconds_apart(made: Grant, expected: datetime) -> float:
    assert made.expires_at is not None, "only a grant that expires is compared"
    return abs((made.expires_at - expected).total_seconds())


def team_after(
    before: Team | None, declared: DeclaredTeam, policy_version: str, now: datetime
) -> Team:
    """Return the team as declared, still with the version of what it is to replace.

    Members join at once; who pays, and who is a member no longer, changes after a notice. What is
    spent and reserved is not declared: it stays as it stands on the row that is read for this very
    change.
    """
    has_changed = before is None or _money_settings(before) != _money_settings(declared)
    settings_version = before.settings_version if before else 0
    return Team(
        team_id=declared.team_id,
        version=before.version if before else 0,
        plan=declared.plan,
        time_zone=declared.time_zone,
        members=declared.member_set,
        former_members=_former_members(before, declared, now) if before else (),
        alerts=declared.alerts,
        settings_version=settings_version + 1 if has_changed else settings_version,
        auto_reload=declared.auto_reload,
        payment=declared.payment,
        spend_cap_cents=declared.spend_cap_cents,
        spending=_spending_after(before, declared) if before else Spending(),
        tenures=_tenures_after(before, declared, policy_version, now),
    )


def _former_members(
    before: Team, declared: DeclaredTeam, now: datetime
) -> tuple[tuple[str, datetime], ...]:
    """Return until when events of those who left count: newest last, the oldest forgotten."""
    members = declared.member_set
    if isinstance(members, str):
        return before.former_members
    # As for a tenure: by then, every worker knows of it.
    until = now.replace(microsecond=0) + TENURE_NOTICE
    who_left = {EVERYONE} if isinstance(before.members, str) else before.members - members
    left = ((who, until) for who in sorted(who_left))
    kept = ((who, at) for who, at in before.former_members if who not in members)
    return (*kept, *left)[-FORMER_MEMBERS_MAX:]


def _money_settings(
    team: Team | DeclaredTeam,
) -> tuple[AutoReload | None, PaymentMethod | None, int, str]:
    # The zone is where the spend cap's month begins and ends.
    return team.auto_reload, team.payment, team.spend_cap_cents, team.time_zone


def _spending_after(before: Team, declared: DeclaredTeam) -> Spending:
    spending = before.spending
    if before.spend_cap_cents != declared.spend_cap_cents:
        spending = with_cap(spending, declared.spend_cap_cents)
    if before.payment != declared.payment:
        # A method that was declined too often stays suspended by its name, another one is free.
        spending = spending.model_copy(
            update={"declines_in_a_row": 0, "declined_payment_method": None}
        )
    return spending


def _tenures_after(
    before: Team | None, declared: DeclaredTeam, policy_version: str, now: datetime
) -> tuple[Tenure, ...]:
    wanted = Tenure(
        since=now.replace(microsecond=0),
        kind=declared.kind,
        owner=declared.owner,
        policy_version=policy_version,
    )
    if before is None:
        # The first tenure reaches back for ever, whenever it starts.
        return (wanted,)
    first, *later = before.tenures
    kept = (first, *(tenure for tenure in later if tenure.since <= now + TENURE_BINDS_WITHIN))
    for tenures in (before.tenures, kept):
        if _bills_alike(tenures[-1], wanted):
            return tenures
    if len(kept) >= TENURES_MAX:
        raise CommandError(
            f"team {before.team_id} has changed owner, kind or policy {TENURES_MAX} times, which "
            "is as much as a team remembers; declare it under a new team_id"
        )
    return (*kept, wanted.model_copy(update={"since": wanted.since + TENURE_NOTICE}))


def _bills_alike(one: Tenure, other: Tenure) -> bool:
    return one.model_copy(update={"since": other.since}) == other


def _team_differences(before: Team | None, after: Team) -> Iterator[tuple[str, str | None, str]]:
    new = after.tenures[-1]
    if before is None:
        settings = (
            f"{new.kind}, plan {after.plan}, owner {new.owner}, {_members_text(after.members)}"
        )
        yield "settings", None, f"{settings}, {after.time_zone}, policy {new.policy_version}"
        yield from _money_differences(None, after)
        if after.alerts != Alerts():
            yield "alerts", None, alerts_text(after.alerts)
        return
    if before.plan != after.plan:
        yield "plan", before.plan, after.plan
    if before.time_zone != after.time_zone:
        yield "time zone", before.time_zone, after.time_zone
    if before.members != after.members:
        yield "members", _members_text(before.members), _changed_members(before, after)
    yield from _money_differences(before, after)
    if before.alerts != after.alerts:
        yield "alerts", alerts_text(before.alerts), alerts_text(after.alerts)
    old = before.tenures[-1]
    starts = "" if new in before.tenures else f", from {iso(new.since)}"
    for what, was, becomes in (
        ("kind", old.kind, new.kind),
        ("owner", old.owner, new.owner),
        ("policy", old.policy_version, new.policy_version),
    ):
        if was != becomes:
            yield what, was, becomes + starts


def _money_differences(before: Team | None, after: Team) -> Iterator[tuple[str, str | None, str]]:
    for what, was, becomes in zip(
        ("spend cap", "auto-reload", "payment"),
        _money_texts(before) if before else _NO_MONEY,
        _money_texts(after),
        strict=True,
    ):
        if was != becomes:
            yield what, was if before else None, becomes


def _money_texts(team: Team) -> tuple[str, str, str]:
    return (
        f"{team.spend_cap_cents} cents a month",
        auto_reload_text(team.auto_reload),
        payment_text(team.payment),
    )


def auto_reload_text(settings: AutoReload | None) -> str:
    """Return the settings in a phrase: 400 add_on below 100, at most 5 in 60 minutes."""
    if settings is None:
        return "off"
    text = (
        f"{format_credits(settings.pack_microcredits)} {settings.pool} "
        f"below {format_credits(settings.threshold_microcredits)}, "
        f"at most {settings.reloads_max} in {settings.window_minutes} minutes"
    )
    return text if settings.enabled else f"off ({text})"


def alerts_text(alerts: Alerts) -> str:
    """Return the thresholds in a phrase: low below 30%, 10%."""
    return f"low below {', '.join(map(str, alerts.low))}" if alerts.low else "off"


def payment_text(method: PaymentMethod | None) -> str:
    if method is None:
        return "none"
    if method.provider == "invoice":
        return "invoice"
    return f"{method.provider} {method.name} of {method.customer}"


def _changed_members(before: Team, after: Team) -> str:
    if isinstance(before.members, str) or isinstance(after.members, str):
        return _members_text(after.members)
    changes = [f"+{member}" for member in sorted(after.members - before.members)]
    changes += [f"-{member}" for member in sorted(before.members - after.members)]
    named = " ".join(changes[:MEMBERS_NAMED_MAX])
    more = " ..." if len(changes) > MEMBERS_NAMED_MAX else ""
    return f"{_members_text(after.members)} ({named}{more})"


def _members_text(members: frozenset[str] | str) -> str:
    if isinstance(members, str):
        return "everyone"
    return "1 member" if len(members) == 1 else f"{len(members)} members"


def _plan_text(plan: PlanSubscription | PlanChange) -> str:
    name = plan.name if isinstance(plan, PlanSubscription) else plan.plan_name
    if plan.microcredits == 0:
        return f"{name}: nothing into {plan.pool}, anchor {plan.anchor}"
    return f"{name}: {format_credits(plan.microcredits)} {plan.pool} a month, anchor {plan.anchor}"


def _grant_text(change: GrantChange) -> str:
    expiry = f", expires {iso(change.expires_at)}" if change.expires_at else ""
    return f"{format_credits(change.microcredits)} {change.pool} ({change.cause}){expiry}"
