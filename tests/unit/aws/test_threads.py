"""Calls in threads: all of them have ended when the caller goes on."""

import threading

import pytest

from agent_credits.aws.clients import dynamodb_client
from agent_credits.aws.threads import CALLS_AT_ONCE, COMMITS_AT_ONCE, Threads


def test_calls_are_made_at_the_same_time_and_answer_in_their_order() -> None:
    together = threading.Barrier(4, timeout=10)

    def call(number: int) -> int:
        together.wait()
        return number

    assert Threads(4)([lambda n=n: call(n) for n in range(4)]) == [0, 1, 2, 3]  # type: ignore[misc]


def test_no_more_calls_are_made_at_the_same_time_than_there_are_threads() -> None:
    counting = threading.Lock()
    under_way = most = 0

    def call() -> None:
        nonlocal under_way, most
        with counting:
            under_way += 1
            most = max(most, under_way)
        threading.Event().wait(0.001)
        with counting:
            under_way -= 1

    Threads(3)([call] * 30)

    assert most <= 3


def test_an_error_is_raised_once_every_other_call_has_ended() -> None:
    has_failed = threading.Event()
    ended = []

    def fail() -> None:
        has_failed.set()
        raise ValueError("this one alone")

    def end() -> None:
        assert has_failed.wait(timeout=10)
        threading.Event().wait(0.05)
        ended.append(True)

    with pytest.raises(ValueError, match="this one alone"):
        Threads(3)([fail, end, end])

    assert ended == [True, True]


def test_a_single_call_is_made_by_the_caller_itself() -> None:
    assert Threads(4)([threading.current_thread]) == [threading.current_thread()]


def test_threads_stay_for_the_next_calls() -> None:
    threads = Threads(2)

    for _ in range(5):
        threads([lambda: None] * 2)

    assert len(threads._pool._threads) <= 2


def test_every_call_that_may_be_under_way_has_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    config = dynamodb_client().meta.config

    assert config.max_pool_connections >= COMMITS_AT_ONCE + CALLS_AT_ONCE
