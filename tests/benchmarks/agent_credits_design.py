"""This project, as its function debit_runs puts it together."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent_credits.aws.backoff import back_off
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.items import account_item
from agent_credits.aws.threads import Threads
from agent_credits.billing.directory import Directory
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry
from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Principal
from tests.benchmarks.design import GRANTED_MICROCREDITS, Done, drop_tables
from tests.benchmarks.workloads import RUN_EVENTS, TEAM_LIMIT, Workload, with_limits
from tests.dispositions import postponed, rejected
from tests.integration.stack_tables import StackTables, create_tables
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    NOW,
    body,
    grant_change,
    open_account,
    parsed,
    pause,
    usage,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# A message that lost its races comes again, as from the queue.
DELIVERIES_MAX = 100
ITEMS_PER_PUT = 25


class AgentCredits:
    name = "agent-credits"
    title = "Agent Credits"

    def tables(self, suffix: str) -> dict[str, str]:
        return _names(suffix)._asdict()

    def create(self, store: "DynamoDBClient", suffix: str, workload: Workload) -> None:
        names = create_tables(store, suffix)
        rows = DynamoDBRows(store, names.accounts, names.ledger)
        rows.put_policy(workload.policy)
        rows.compare_and_set_team(workload.team)
        items_of_accounts = map(account_item, accounts_well_into_their_lives(workload))
        while items := list(islice(items_of_accounts, ITEMS_PER_PUT)):
            puts = [{"PutRequest": {"Item": item}} for item in items]
            left = store.batch_write_item(RequestItems={names.accounts: puts})["UnprocessedItems"]
            assert not left

    def drop(self, store: "DynamoDBClient", suffix: str) -> None:
        drop_tables(store, self.tables(suffix))

    def worker(self, store: "DynamoDBClient", suffix: str, workload: Workload) -> "DebitRuns":
        names = _names(suffix)
        rows = DynamoDBRows(store, names.accounts, names.ledger)
        return DebitRuns(rows, workload.team.team_id)


class AgentCreditsSpanned(AgentCredits):
    """With a limit that spans the accounts of the team, so that each commit is a transaction."""

    name = "agent-credits-spanned"
    title = "Agent Credits, under a limit of the team"

    def create(self, store: "DynamoDBClient", suffix: str, workload: Workload) -> None:
        super().create(store, suffix, with_limits(workload, TEAM_LIMIT))


class AgentCreditsInTurn(AgentCredits):
    """As it would be if a batch committed one account after another."""

    name = "agent-credits-in-turn"
    title = "Agent Credits, one account after another"

    def worker(self, store: "DynamoDBClient", suffix: str, workload: Workload) -> "DebitRunsInTurn":
        return DebitRunsInTurn(super().worker(store, suffix, workload))


class DebitRuns:
    def __init__(self, rows: DynamoDBRows, team_id: str) -> None:
        self._directory = Directory(rows)
        self._debits = Debits(rows, self._directory, back_off, side_by_side=Threads())
        self._team_id = team_id

    def learn_settings(self) -> None:
        self._directory.bill(parsed(usage("no-event", team=self._team_id)), NOW)

    def debit(self, bodies: Sequence[str]) -> Done:
        waiting = [Delivery(str(number), body) for number, body in enumerate(bodies)]
        events = races_lost = commits = 0
        for _ in range(DELIVERIES_MAX):
            batch = self._debits.debit(waiting, now=NOW, time_is_left=lambda: True)
            names = Counter(outcome.name for outcome in batch.outcomes)
            assert names.keys() <= {"accepted", "debited", "finished", "already_recorded"}
            assert not rejected(batch)
            events += names.total() - names["already_recorded"]
            races_lost += batch.retries
            commits += len({(outcome.principal, outcome.version) for outcome in batch.outcomes})
            waiting = [d for d in waiting if d.message_id in postponed(batch)]
            if not waiting:
                return Done(events, races_lost, commits)
        raise AssertionError(f"{len(waiting)} events lost every race")


def rows_of(workload: Workload) -> MemoryRows:
    """Return the workload's team and accounts in memory."""
    rows = MemoryRows()
    rows.policies[workload.policy.version] = workload.policy
    rows.teams[workload.team.team_id] = workload.team
    for account in accounts_well_into_their_lives(workload):
        rows.accounts[account.principal] = account
    return rows


class DebitRunsInTurn:
    """Is given the events of one account after those of another, as if each came alone."""

    def __init__(self, worker: DebitRuns) -> None:
        self._worker = worker
        self.learn_settings = worker.learn_settings

    def debit(self, bodies: Sequence[str]) -> Done:
        by_user: dict[str, list[str]] = {}
        for each in bodies:
            by_user.setdefault(json.loads(each)["data"]["trigger"]["user_id"], []).append(each)
        done = [self._worker.debit(of_user) for of_user in by_user.values()]
        return Done(sum(d.events for d in done), sum(d.races_lost for d in done))


def accounts_well_into_their_lives(workload: Workload) -> Iterator[Account]:
    """Yield the workload's accounts as the last batch before it has left them."""
    aged = [_aged_account(workload, events) for events in workload.events_on_page]
    for principal, account in zip(workload.principals, cycle(aged), strict=False):
        yield replace(
            account,
            principal=principal,
            entries=tuple(_entry_of(principal, entry) for entry in account.entries),
        )


def _aged_account(workload: Workload, events: int) -> Account:
    """Return an account of three grants, the first soon used up, and so many events on its page."""
    principal = workload.principals[0]
    rows = MemoryRows()
    rows.policies[workload.policy.version] = workload.policy
    rows.teams[workload.team.team_id] = workload.team
    half = format_credits(GRANTED_MICROCREDITS // 2)
    open_account(
        rows,
        grant_change("order-1001", "trial", "1", principal=principal),
        grant_change("order-1002", "add_on", half, principal=principal),
        grant_change("order-1003", "add_on", half, principal=principal),
    )
    # What opened the account is on a page long full.
    rows.accounts[principal] = replace(
        rows.accounts[principal], page_number=2, entries=(), page_is_full=False
    )
    deliveries = [
        Delivery(
            str(number),
            body(
                usage(
                    f"{number:08x}-0000-4000-8000-000000000000",
                    run=f"{number // RUN_EVENTS:08x}-0000-4000-8000-000000000000",
                    team=workload.team.team_id,
                    user=principal.id,
                )
            ),
        )
        for number in range(events)
    ]
    debits = Debits(rows, Directory(rows), pause)
    batch = debits.debit(deliveries, now=NOW, time_is_left=lambda: True)
    assert [outcome.name for outcome in batch.outcomes] == ["debited"] * events
    return rows.accounts[principal]


def _entry_of(principal: Principal, entry: Entry) -> Entry:
    """Return the entry as another account's, with identifiers of its own and of the same length."""
    run_id = f"{entry.identity.subject[:-12]}{principal.id[-12:]:0>12}"
    event_id = f"{entry.identity.id[:-12]}{principal.id[-12:]:0>12}"
    return replace(entry, identity=replace(entry.identity, subject=run_id, id=event_id))


def _names(suffix: str) -> StackTables:
    return StackTables(f"AccountsTable-{suffix}", f"LedgerTable-{suffix}")
