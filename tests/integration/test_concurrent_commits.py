"""Sixteen committers on one account: the sum is exact however their threads interleave."""

import random
import threading
from collections import Counter, defaultdict

import pytest

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.threads import Threads
from agent_credits.billing.directory import Directory
from agent_credits.commit.changes import Recorded
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.entries import Entry, Identity
from agent_credits.values.principals import Principal
from agent_credits.values.side_by_side import SideBySide, in_turn
from tests.dispositions import postponed, rejected
from tests.unit.builders import (
    ACME,
    ANA,
    NOW,
    POLICY,
    body,
    finished,
    grant_change,
    open_account,
    pause,
    remaining_by_grant,
    remaining_on,
    usage,
)

COMMITTERS = 16
EVENTS = 200
DUPLICATED_ONE_IN = 5
BATCH_SIZE = 4
# A returned batch is delivered again; in every round at least one commit succeeds.
REDELIVERIES_MAX = 1_000


@pytest.fixture
def open_rows(rows: DynamoDBRows) -> DynamoDBRows:
    rows.put_policy(POLICY)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
    return rows


def deliver_until_done(
    rows: DynamoDBRows,
    bodies: list[str],
    seen: list[tuple[Identity, Entry, bool]],
    batch_size: int = BATCH_SIZE,
    side_by_side: SideBySide = in_turn,
) -> None:
    debits = Debits(rows, Directory(rows), pause, side_by_side=side_by_side)
    for start in range(0, len(bodies), batch_size):
        deliveries = [Delivery(str(n), b) for n, b in enumerate(bodies[start : start + batch_size])]
        for _ in range(REDELIVERIES_MAX):
            batch = debits.debit(deliveries, now=NOW, time_is_left=lambda: True)
            seen += [
                (o.result.entry.identity, o.result.entry, isinstance(o.result, Recorded))
                for o in batch.outcomes
            ]
            assert rejected(batch) == {}
            deliveries = [d for d in deliveries if d.message_id in postponed(batch)]
            if not deliveries:
                break
        else:
            pytest.fail("an event was never recorded")


def commit_from_many_threads(
    rows: DynamoDBRows, bodies: list[str]
) -> list[tuple[Identity, Entry, bool]]:
    """Share the bodies among the committers and return every outcome that any of them saw."""
    seen: list[list[tuple[Identity, Entry, bool]]] = [[] for _ in range(COMMITTERS)]
    faults: list[BaseException] = []

    def commit_share(number: int) -> None:
        try:
            deliver_until_done(rows, bodies[number::COMMITTERS], seen[number])
        except BaseException as fault:
            faults.append(fault)
            raise

    threads = [threading.Thread(target=commit_share, args=(n,)) for n in range(COMMITTERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    return [outcome for of_thread in seen for outcome in of_thread]


@pytest.mark.usefixtures("short_switch_interval")
@pytest.mark.parametrize("credits", ["1000", "60"], ids=["enough", "too little"])
def test_sixteen_committers_on_one_account_lose_and_repeat_nothing(
    credits: str,  # noqa: A002
    open_rows: DynamoDBRows,
) -> None:
    open_account(open_rows, grant_change("g-1", credits=credits), grant_change("g-2", credits="7"))
    documents = [usage(f"e{n}", "1", run=f"run-{n % 25}") for n in range(EVENTS)]
    documents += documents[::DUPLICATED_ONE_IN]
    random.Random(42).shuffle(documents)

    outcomes = commit_from_many_threads(open_rows, [body(document) for document in documents])

    account = open_rows.read_account(ANA)
    assert account is not None
    entries = [e for page in open_rows.read_pages(ANA) for e in page.entries] + [*account.entries]
    # Each event has one entry, and every committer that sent it received that entry.
    recorded = {e.identity: e for e in entries}
    of_runs = [e for e in entries if e.identity.realm == "RUN"]
    assert len(recorded) == len(entries)
    assert len(of_runs) == EVENTS
    assert all(recorded[identity] == entry for identity, entry, _ in outcomes)
    assert max(Counter(i for i, _, is_new in outcomes if is_new).values()) == 1
    # The sum is exact, and the ledger alone gives the row's balance.
    granted = (int(credits) + 7) * 1_000_000
    drawn = sum(e.drawn_microcredits for e in of_runs)
    assert drawn == min(granted, EVENTS * 1_000_000)
    assert sum(remaining_on(account).values()) == granted - drawn
    assert all(g.remaining_microcredits >= 0 for g in account.grants)
    assert remaining_by_grant(entries) == remaining_on(account)
    # Each failed run failed once.
    failures: dict[str, int] = defaultdict(int)
    for entry in of_runs:
        failures[entry.identity.subject] += entry.fails_run
    short = {e.identity.subject for e in of_runs if e.outcome == "insufficient"}
    assert {run for run, count in failures.items() if count} == short
    assert set(failures.values()) <= {0, 1}


@pytest.mark.usefixtures("short_switch_interval")
def test_draws_are_given_back_exactly_among_sixteen_committers(open_rows: DynamoDBRows) -> None:
    open_account(open_rows, grant_change("g-1", credits="30"), grant_change("g-2", credits="500"))
    documents = [usage(f"e{n}", "1", run=f"run-{n % 10}") for n in range(120)]
    documents += [finished(f"end-{n}", "error", run=f"run-{n}") for n in range(10)]
    random.Random(7).shuffle(documents)

    commit_from_many_threads(open_rows, [body(document) for document in documents])

    account = open_rows.read_account(ANA)
    assert account is not None
    entries = [e for page in open_rows.read_pages(ANA) for e in page.entries] + [*account.entries]
    assert remaining_by_grant(entries) == remaining_on(account)
    # Every run ended with a platform error: what was not given back was waived.
    assert remaining_on(account) == {"g-1": 30_000_000, "g-2": 500_000_000}


@pytest.mark.usefixtures("short_switch_interval")
def test_a_replay_of_everything_from_many_threads_changes_nothing(open_rows: DynamoDBRows) -> None:
    open_account(open_rows)
    bodies = [body(usage(f"e{n}", "0.5")) for n in range(64)]
    commit_from_many_threads(open_rows, bodies)
    before = open_rows.read_account(ANA)

    outcomes = commit_from_many_threads(open_rows, list(reversed(bodies)))

    assert not any(is_new for _, _, is_new in outcomes)
    assert open_rows.read_account(ANA) == before


@pytest.mark.usefixtures("short_switch_interval")
def test_workers_that_commit_many_accounts_side_by_side_lose_and_repeat_nothing(
    rows: DynamoDBRows,
) -> None:
    users = [f"user-{number}" for number in range(12)]
    members = frozenset({"olga", *users})
    rows.put_policy(POLICY)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 1, "members": members}))
    accounts = [Principal("user", user) for user in users]
    for principal in accounts:
        open_account(rows, grant_change("g-1", credits="20", principal=principal))
    # Enough for the pages of all accounts to fill up.
    documents = [
        usage(f"e{n}-{user}", "1", user=user, run=f"run-{n % 3}-{user}")
        for n in range(14)
        for user in users
    ]
    bodies = [body(document) for document in documents]
    seen: list[list[tuple[Identity, Entry, bool]]] = [[], []]
    workers = [
        threading.Thread(target=deliver_until_done, args=(rows, bodies, of_worker, 36, Threads(6)))
        for of_worker in seen
    ]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    recorded = Counter(i for of_worker in seen for i, _, is_new in of_worker if is_new)
    assert len(recorded) == len(documents)
    assert set(recorded.values()) == {1}
    for principal in accounts:
        account = rows.read_account(principal)
        assert account is not None
        pages = list(rows.read_pages(principal))
        entries = [e for page in pages for e in page.entries] + [*account.entries]
        assert len(entries) == len({e.identity for e in entries}) == 1 + 14
        assert remaining_by_grant(entries) == remaining_on(account) == {"g-1": 6_000_000}
