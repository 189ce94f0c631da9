"""Copies of the function that reserve on one account at the same time get exact answers."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from agent_credits.api.callers import Caller
from agent_credits.api.problems import Refused
from agent_credits.api.recording import Decided, Recorder
from agent_credits.api.reservations import Reservations, ReserveBody
from agent_credits.aws.backoff import TimeBudget
from agent_credits.billing.directory import Directory
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.accounts import Account, available_microcredits, reserved_microcredits
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.verification import verify_row
from agent_credits.values.credits import format_credits
from agent_credits.values.errors import Contended
from agent_credits.values.principals import Principal
from tests.api_world import ApiWorld, reservation
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    NOW,
    POOLS,
    body,
    grant_change,
    history,
    open_account,
    parsed,
    requested,
    settle,
)

CLIENTS = 50
PLATFORM = Caller("platform", "iam:tests")
# No test waits for a machine: a request may try for as long as it takes.
LONG = 600.0
ATTEMPTS = 100_000


class SharedRows(MemoryRows):
    """One compare-and-set at a time, as DynamoDB promises it; it counts those that were lost."""

    def __init__(self) -> None:
        super().__init__()
        settle(self)
        self._writing = threading.Lock()
        self._has_read = threading.local()
        # Nobody writes before everybody has read, so all but one lose their first race.
        self.readers: threading.Barrier | None = None
        self.lost = 0

    def read_account(self, principal: Principal) -> Account | None:
        row = super().read_account(principal)
        if self.readers is not None and not getattr(self._has_read, "row", False):
            self._has_read.row = True
            self.readers.wait()
        return row

    def compare_and_set(self, account: Account) -> Account | None:
        with self._writing:
            newer = super().compare_and_set(account)
            self.lost += newer is not None
            return newer


def with_account(credits_of_ana: str) -> SharedRows:
    rows = SharedRows()
    open_account(rows, grant_change("g-1", credits=credits_of_ana))
    return rows


def debits_of(rows: SharedRows) -> Debits:
    budget = TimeBudget(LONG)
    budget.begin()
    return Debits(rows, Directory(rows), budget, attempts_max=ATTEMPTS)


def copy_of_function(rows: SharedRows) -> Reservations:
    """Return what a copy reserves with; what is around it serves one request at a time."""
    return Reservations(rows, Recorder(debits_of(rows), ""))


def reserve(copy: Reservations, run_id: str) -> int:
    body = ReserveBody.model_validate(reservation(run_id))
    try:
        return copy.reserve(body, None, PLATFORM, NOW, lambda: True).status
    except Refused as refused:
        return refused.problem.type.status


def record(recorder: Recorder, document: dict[str, Any]) -> str:
    answers, _ = recorder.record({"0": parsed(document)}, NOW, lambda: True)
    answered = answers["0"]
    assert isinstance(answered, Decided)
    return answered.entry.outcome


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make the calls at the same time, each in a thread of its own."""
    start, answers = threading.Barrier(len(calls)), list[Any]([None] * len(calls))

    def make(number: int, call: Callable[[], Any]) -> None:
        start.wait()
        answers[number] = call()

    threads = [threading.Thread(target=make, args=numbered) for numbered in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def check_ledger(rows: SharedRows) -> None:
    assert verify_row(rows, rows.accounts[ANA], {}, Checkpoint(ANA, NOW.date())).findings == ()


@pytest.mark.usefixtures("short_switch_interval")
def test_fifty_clients_of_one_account_get_fifty_exact_answers_and_no_503() -> None:
    rows = with_account("500")
    rows.readers = threading.Barrier(CLIENTS)
    calls = [partial(reserve, copy_of_function(rows), f"run-{number}") for number in range(CLIENTS)]

    answers = Counter(together(calls))

    # Of 500 credits, 75 each fit six times, whoever comes first.
    assert answers == {201: 6, 403: 44}
    account = rows.accounts[ANA]
    assert format_credits(reserved_microcredits(account, POOLS, NOW)) == "450"
    assert format_credits(available_microcredits(account, POOLS, NOW)) == "50"
    assert rows.lost >= CLIENTS - 1
    check_ledger(rows)


@pytest.mark.usefixtures("short_switch_interval")
def test_api_and_queue_at_once_sell_what_is_there_and_count_each_event_once() -> None:
    rows = with_account("500")
    rows.readers = threading.Barrier(40)
    wanted = {"credits": "75", "reserve": "estimate"}
    events = [requested(f"e{n}", run=f"run-{n}", **wanted) for n in range(20)]
    by_api = [partial(record, Recorder(debits_of(rows), ""), event) for event in events]
    by_queue = [
        partial(
            debits_of(rows).debit,
            [Delivery("m", body(event))],
            now=NOW,
            time_is_left=lambda: True,
        )
        for event in events
    ]

    answers = together([*by_api, *by_queue])

    assert Counter(answers[:20]) == {"accepted": 6, "insufficient": 14}
    assert [batch.failed_message_ids for batch in answers[20:]] == [[]] * 20
    recorded = [e.identity.id for e in history(rows, ANA) if e.identity.realm == "RUN"]
    assert sorted(recorded) == sorted(f"e{n}" for n in range(20))
    check_ledger(rows)


def test_a_request_gives_up_when_its_time_is_over_and_changes_nothing() -> None:
    class AlwaysLost(SharedRows):
        def compare_and_set(self, account: Account) -> Account | None:
            if self.is_raced:
                return self.accounts[account.principal]
            return super().compare_and_set(account)

        is_raced = False

    rows = AlwaysLost()
    open_account(rows, grant_change("g-1", credits="100"))
    rows.is_raced = True
    seconds = iter(range(100))
    slept: list[float] = []
    budget = TimeBudget(2.0, clock=lambda: float(next(seconds)), sleep=slept.append)
    world = ApiWorld(rows)
    world.api = world.worker(budget, ATTEMPTS)
    budget.begin()

    got = world.call("POST", "/v1/reservations", reservation())

    assert (got.status, got.json["error"]) == (503, "undecided")
    assert len(slept) == 1
    assert len(history(rows, ANA)) == 1


def test_a_pause_is_random_bounded_and_never_longer_than_the_time_that_is_left() -> None:
    slept: list[float] = []
    budget = TimeBudget(1.0, clock=lambda: 0.0, sleep=slept.append)
    budget.begin()
    for lost in range(1, 40):
        budget(lost)

    assert 0 <= min(slept) < max(slept) <= 0.16
    assert len(set(slept)) > 30


def test_each_request_has_the_whole_time() -> None:
    now = [0.0]
    budget = TimeBudget(1.0, clock=lambda: now[0], sleep=lambda _: None)
    budget.begin()
    now[0] = 5.0
    with pytest.raises(Contended):
        budget(1)

    budget.begin()

    budget(1)
