"""The workloads hold what they say, and are the same for every design."""

from collections import Counter

from agent_credits.events.agent_runs import parse_message
from tests.benchmarks.agent_credits_design import accounts_well_into_their_lives
from tests.benchmarks.workloads import (
    BATCH_MESSAGES_MAX,
    Batch,
    azure_trace,
    hot_account,
    in_groups,
    uniform,
)


def identities(batches: tuple[Batch, ...]) -> list[object]:
    messages = [parse_message(body) for batch in batches for body in batch]
    return [event.identity for message in messages for event in message.events]


def test_a_workload_is_the_same_each_time_and_another_with_another_seed() -> None:
    assert hot_account(5, 2, warm_up=1).batches == hot_account(5, 2, warm_up=1).batches
    assert hot_account(5, 2, warm_up=1) != hot_account(5, 2, warm_up=1, seed=2)


def test_no_event_comes_twice() -> None:
    workloads = (hot_account(100, 5, warm_up=1), uniform(3, warm_up=1), azure_trace(500, warm_up=1))
    for workload in workloads:
        seen = identities(workload.batches)

        assert len(seen) == len(set(seen)) >= 400


def test_what_is_counted_leaves_the_warm_up_out() -> None:
    workload = hot_account(7, 4, warm_up=2)

    assert len(workload.batches) == 6
    assert workload.counted_events == 4 * 7


def test_groups_go_round_all_accounts_before_any_comes_again() -> None:
    workload = in_groups(20, 4, groups_per_batch=10, group=3, warm_up=0)

    users = [
        Counter(parse_message(body).events[0].data.trigger.user_id for body in batch)
        for batch in workload.batches
    ]
    assert all(set(of_batch.values()) == {3} for of_batch in users)
    assert users[0].keys().isdisjoint(users[1])
    assert users[0].keys() == users[2].keys()


def test_the_trace_is_batched_as_it_arrived() -> None:
    workload = azure_trace(500, warm_up=0)

    sizes = [len(batch) for batch in workload.batches]
    assert sum(sizes) == 500
    assert 1 <= min(sizes) < max(sizes) <= BATCH_MESSAGES_MAX


def test_accounts_are_found_with_the_pages_that_the_workload_asks_for() -> None:
    workload = in_groups(3, 1, groups_per_batch=3, group=10, warm_up=0)

    accounts = list(accounts_well_into_their_lives(workload))

    assert [account.principal for account in accounts] == list(workload.principals)
    assert [len(account.entries) for account in accounts] == [10, 10, 10]
    assert all(account.page_is_full for account in accounts)
    entries = [entry.identity for account in accounts for entry in account.entries]
    assert len(set(entries)) == 30
