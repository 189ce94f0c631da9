"""Copies of the function that reserve on one account at the same time get exact answers."""

import random
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
from tests.api_world import ApiWorld, reservation
from tests.benchmarks.api_latency import ATTEMPTS_MAX, CONTENTION_SECONDS, SlowRows
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
from tests.virtual_time import VirtualTime

CLIENTS = 50
PLATFORM = Caller("platform", "iam:tests")


def with_account(credits_of_ana: str) -> tuple[VirtualTime, SlowRows]:
    """Return rows in which a call takes time, so that those who work side by side lose races."""
    time = VirtualTime()
    rows = SlowRows(time)
    open_account(rows, grant_change("g-1", credits=credits_of_ana))
    rows.is_far = True
    return time, rows


def debits_of(rows: SlowRows, time: VirtualTime) -> Debits:
    budget = TimeBudget(CONTENTION_SECONDS, time.clock, time.sleep)
    budget.begin()
    return Debits(rows, Directory(rows), budget, attempts_max=ATTEMPTS_MAX)


def reserve(rows: SlowRows, time: VirtualTime, run_id: str) -> int:
    copy = Reservations(rows, Recorder(debits_of(rows, time), ""))
    body = ReserveBody.model_validate(reservation(run_id))
    try:
        return copy.reserve(body, None, PLATFORM, NOW, lambda: True).status
    except Refused as refused:
        return refused.problem.type.status


def record(rows: SlowRows, time: VirtualTime, document: dict[str, Any]) -> str:
    recorder = Recorder(debits_of(rows, time), "")
    answers, _ = recorder.record({"0": parsed(document)}, NOW, lambda: True)
    answered = answers["0"]
    assert isinstance(answered, Decided)
    return answered.entry.outcome


def together(time: VirtualTime, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make the calls from the same moment on, side by side."""
    answers = list[Any]([None] * len(calls))

    def make(number: int, call: Callable[[], Any]) -> None:
        answers[number] = call()

    time.run([partial(make, *numbered) for numbered in enumerate(calls)])
    return answers


def check_ledger(rows: SlowRows) -> None:
    rows.is_far = False
    assert verify_row(rows, rows.accounts[ANA], {}, Checkpoint(ANA, NOW.date())).findings == ()


def test_fifty_clients_of_one_account_get_fifty_exact_answers_and_no_503() -> None:
    time, rows = with_account("500")
    calls = [partial(reserve, rows, time, f"run-{number}") for number in range(CLIENTS)]

    answers = Counter(together(time, calls))

    # Of 500 credits, 75 each fit six times, whoever comes first.
    assert answers == {201: 6, 403: 44}
    account = rows.accounts[ANA]
    assert format_credits(reserved_microcredits(account, POOLS, NOW)) == "450"
    assert format_credits(available_microcredits(account, POOLS, NOW)) == "50"
    assert rows.lost >= CLIENTS - 1
    check_ledger(rows)


@pytest.mark.parametrize("seed", range(10))
def test_api_and_queue_at_once_sell_what_is_there_and_count_each_event_once(seed: int) -> None:
    random.seed(seed)
    time, rows = with_account("500")
    wanted = {"credits": "75", "reserve": "estimate"}
    events = [requested(f"e{n}", run=f"run-{n}", **wanted) for n in range(20)]
    by_api = [partial(record, rows, time, event) for event in events]
    by_queue = [
        partial(
            debits_of(rows, time).debit,
            [Delivery("m", body(event))],
            now=NOW,
            time_is_left=lambda: True,
        )
        for event in events
    ]

    answers = together(time, [*by_api, *by_queue])

    assert Counter(answers[:20]) == {"accepted": 6, "insufficient": 14}
    assert [batch.failed_message_ids for batch in answers[20:]] == [[]] * 20
    recorded = [e.identity.id for e in history(rows, ANA) if e.identity.realm == "RUN"]
    assert sorted(recorded) == sorted(f"e{n}" for n in range(20))
    check_ledger(rows)


def test_a_request_gives_up_when_its_time_is_over_and_changes_nothing() -> None:
    class AlwaysLost(MemoryRows):
        def compare_and_set(self, account: Account) -> Account | None:
            if self.is_raced:
                return self.accounts[account.principal]
            return super().compare_and_set(account)

        is_raced = False

    rows = AlwaysLost()
    settle(rows)
    open_account(rows, grant_change("g-1", credits="100"))
    rows.is_raced = True
    seconds = iter(range(100))
    slept: list[float] = []
    budget = TimeBudget(2.0, clock=lambda: float(next(seconds)), sleep=slept.append)
    world = ApiWorld(rows)
    world.api = world.worker(budget, ATTEMPTS_MAX)
    budget.begin()

    got = world.call("POST", "/v1/reservations", reservation())

    assert (got.status, got.json["error"]) == (503, "undecided")
    assert len(slept) == 1
    assert len(history(rows, ANA)) == 1


def test_a_pause_is_random_bounded_and_shorter_the_longer_a_request_has_waited() -> None:
    now, slept = [0.0], list[float]()
    budget = TimeBudget(1.0, clock=lambda: now[0], sleep=slept.append)
    budget.begin()
    for lost in range(1, 60):
        budget(lost)
    now[0] = 0.9
    for _ in range(60):
        budget(50)

    early, late = slept[:59], slept[59:]
    assert min(slept) >= 0
    assert 0.008 < max(early) <= 0.08
    assert max(late) <= 0.008
    assert len(set(slept)) > 100


def test_each_request_has_the_whole_time() -> None:
    now = [0.0]
    budget = TimeBudget(1.0, clock=lambda: now[0], sleep=lambda _: None)
    budget.begin()
    now[0] = 5.0
    with pytest.raises(Contended):
        budget(1)

    budget.begin()

    budget(1)
