"""`agent-credits apply`: brings a stack to what a file declares, and shows what that changes.

Applying is repeatable: a second run finds nothing to change, and a run that was broken off is
completed by the next.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Protocol, TypeVar, assert_never

import typer

from agent_credits.aws.backoff import back_off
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team
from agent_credits.commit.changes import Conflicting, GrantChange
from agent_credits.commit.rows import Rows, TeamRows
from agent_credits.commit.team_changes import change_team
from agent_credits.commit.write_protocol import Pause, commit
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Identity, grant_identity
from agent_credits.values.errors import AccountTooLarge, Contended, RowsUnavailable
from agent_credits.values.principals import Principal
from agent_credits_cli.account import rows_of
from agent_credits_cli.errors import CommandError
from agent_credits_cli.steps import (
    ChangeAccount,
    PutPolicy,
    SetTeam,
    Stack,
    Step,
    changed_grant,
    changed_policy,
    payers_until_changed,
    plan_steps,
    team_after,
)
from agent_credits_cli.tables import AsJson, out, print_json, progress, table
from agent_credits_cli.target import connect
from agent_credits_cli.world import World, load_world

Thing = TypeVar("Thing")
Clock = Callable[[], datetime]

# So many accounts take long enough to want to see how far it is.
PROGRESS_FROM: Final = 100

# Small enough for entries with the longest ids to fit one row beside as many grants.
CHANGES_PER_COMMIT: Final = 50


class OperatorRows(Rows, TeamRows, Protocol):
    """What applying needs of the rows. Those in memory of the tests are the other implementation.

    Each method raises `RowsUnavailable` on a fault.
    """

    def put_policy(self, policy: BillingPolicy) -> BillingPolicy: ...


def apply(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Policy, plans, teams and grants, in TOML.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring policy, teams, accounts and grants to what FILE declares.

    What the file does not name is left alone. Another owner, kind or policy of a team counts from
    a few minutes later on; everything else counts at once.
    """
    world = load_world(file)
    target = connect(context)
    rows = rows_of(target)
    try:
        steps = plan_steps(world, read_stack(rows, world), utc_now())
        if not dry_run:
            carry_out(rows, steps, clock=utc_now, pause=back_off)
    except (RowsUnavailable, Contended, AccountTooLarge) as error:
        raise CommandError(
            f"{target.name}: {error}; run apply again, it goes on from there"
        ) from error
    _print(steps, target.name, dry_run=dry_run, as_json=as_json)


def read_stack(rows: OperatorRows, world: World) -> Stack:
    """Read what the file names: each row first, then the receipts of its grants."""
    accounts: dict[Principal, Account] = {}
    recorded: dict[Identity, Entry] = {}
    grant_ids: dict[Principal, list[str]] = {}
    for grant in world.grants:
        grant_ids.setdefault(grant.principal, []).append(grant.id)
    teams = {team.team_id: rows.read_team(team.team_id) for team in world.teams}
    principals = list(world.team_of_accounts())
    for team in world.teams:
        principals += payers_until_changed(world, team, teams[team.team_id])
    for principal in _with_progress(principals, "reading accounts"):
        account = rows.read_account(principal)
        if account is not None:
            accounts[principal] = account
            recorded.update(recorded_grants(rows, account, grant_ids.get(principal, ())))
    return Stack(
        policy=rows.read_policy(world.policy.version),
        teams={team_id: team for team_id, team in teams.items() if team},
        accounts=accounts,
        recorded=recorded,
    )


def recorded_grants(
    rows: Rows, account: Account, grant_ids: Iterable[str]
) -> Mapping[Identity, Entry]:
    """Return the entries under these ids, from the account's open page and from the ledger."""
    wanted = {grant_identity(account.principal, grant_id) for grant_id in grant_ids}
    on_page = {entry.identity: entry for entry in account.entries if entry.identity in wanted}
    receipts = rows.read_receipts(wanted - on_page.keys())
    return {identity: receipt.entry for identity, receipt in receipts.items()} | on_page


def utc_now() -> datetime:
    return datetime.now(UTC)


def carry_out(rows: OperatorRows, steps: Sequence[Step], *, clock: Clock, pause: Pause) -> None:
    """Carry the steps out, each by the time at which it is its turn.

    Opening thousands of accounts takes minutes. A tenure that was dated before that could begin
    before every worker knows it, and one event would be billed to two accounts.
    """
    for step in _with_progress(steps, "applying"):
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


def _with_progress(things: Sequence[Thing], title: str) -> Iterator[Thing]:
    if len(things) < PROGRESS_FROM:
        yield from things
        return
    with progress() as bar:
        yield from bar.track(things, description=title)


def _print(steps: Sequence[Step], target_name: str, *, dry_run: bool, as_json: bool) -> None:
    differences = [difference for step in steps for difference in step.differences]
    if as_json:
        print_json({"dry_run": dry_run, "changes": [asdict(d) for d in differences]})
        return
    if not differences:
        out().print(f"{target_name}: nothing to change", soft_wrap=True)
        return
    changes = table("kind", "name", "what", "before", "after")
    for d in differences:
        changes.add_row(d.kind, d.name, d.what, d.before or "-", d.after)
    out().print(changes)
    made = "would be made" if dry_run else "made"
    out().print(f"{target_name}: changes {made}: {len(differences)}", soft_wrap=True)
