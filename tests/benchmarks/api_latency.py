"""How long a reservation takes when 1, 10 and 50 clients reserve on one account at the same time.

`python -m tests.benchmarks.api_latency` runs copies of the API's function in virtual time: a call
to the store takes 5 ms, as one to DynamoDB does, and what the function computes for an attempt
3 ms. `--stack FOLDER` measures an embedded stack as well, from the gateway to the answer; there,
the emulator and every copy share this machine.
"""

import argparse
import itertools
import random
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from agent_credits.api.callers import Caller
from agent_credits.api.problems import Refused
from agent_credits.api.recording import Recorder
from agent_credits.api.reservations import Reservations, ReserveBody
from agent_credits.aws.backoff import TimeBudget
from agent_credits.billing.directory import Directory
from agent_credits.intake.debits import Debits
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity, Page, Receipt
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.verification import verify_row
from agent_credits.values.principals import Principal
from tests.api_world import reservation
from tests.memory_rows import MemoryRows
from tests.unit.builders import ANA, NOW, grant_change, open_account, settle
from tests.virtual_time import VirtualTime

# A call to DynamoDB, and what an attempt computes on the part of a processor that 1 GB comes with.
CALL_SECONDS, COMPUTING_SECONDS = 0.005, 0.003
# As in functions/api/app.py.
CONTENTION_SECONDS, ATTEMPTS_MAX = 2.0, 400
CLIENTS = (1, 10, 50)
REQUESTS = 500
PLATFORM = Caller("platform", "iam:benchmark")
NUMBERS = itertools.count()


class SlowRows(MemoryRows):
    """Rows at the distance of DynamoDB, for workers in virtual time."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        settle(self)
        self._time = time
        self.is_far = False
        self.lost = self.writes = 0

    def read_account(self, principal: Principal) -> Account | None:
        self._travel()
        return super().read_account(principal)

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        self._travel()
        return super().read_receipts(identities)

    def flush_and_read_receipts(
        self, pages: Collection[Page], identities: Collection[Identity]
    ) -> Mapping[Identity, Receipt]:
        # Both at once, in one round trip.
        self._travel()
        for page in pages:
            super().put_page(page)
        return MemoryRows.read_receipts(self, identities)

    def compare_and_set(self, account: Account) -> Account | None:
        self._travel(COMPUTING_SECONDS)
        newer = super().compare_and_set(account)
        self.writes += 1
        self.lost += newer is not None
        return newer

    def _travel(self, computing: float = 0.0) -> None:
        if self.is_far:
            self._time.sleep(CALL_SECONDS + computing)


class Measured(NamedTuple):
    """The seconds of each request in ascending order, their statuses, and how many a second."""

    seconds: list[float]
    statuses: Counter[int]
    rate: float


def in_virtual_time(clients: int, rounds: int) -> tuple[Measured, SlowRows]:
    """Let all clients ask at the same moment, as often as there are rounds."""
    time, seconds, statuses = VirtualTime(), list[float](), Counter[int]()
    rows = SlowRows(time)
    open_account(rows, grant_change("g-1", credits="1000000"))
    rows.is_far = True
    copies = [_copy_of_function(rows, time) for _ in range(clients)]

    def ask(copy: Callable[[], int]) -> None:
        began = time.now
        statuses[copy()] += 1
        seconds.append(time.now - began)

    # The first round is cold: each copy reads the team, its policy and the row.
    time.run([partial(ask, copy) for copy in copies])
    seconds.clear()
    statuses.clear()
    began = time.now
    for _ in range(rounds):
        time.run([partial(ask, copy) for copy in copies])
    rate = len(seconds) / (time.now - began)
    rows.is_far = False
    return Measured(sorted(seconds), statuses, rate), rows


def _copy_of_function(rows: SlowRows, time: VirtualTime) -> Callable[[], int]:
    budget = TimeBudget(CONTENTION_SECONDS, time.clock, time.sleep)
    debits = Debits(rows, Directory(rows), budget, attempts_max=ATTEMPTS_MAX)
    copy = Reservations(rows, Recorder(debits, ""))

    def request() -> int:
        budget.begin()
        run_id = f"run-{next(NUMBERS)}"
        body = ReserveBody.model_validate(reservation(run_id, credits="1", ttl_seconds=60))
        try:
            return copy.reserve(body, None, PLATFORM, later(time), lambda: True).status
        except Refused as refused:
            return refused.problem.type.status

    return request


def later(time: VirtualTime) -> datetime:
    """Return the account's time, at which what was reserved a while ago has expired."""
    return NOW + timedelta(seconds=100 * time.now)


def mismatches(rows: SlowRows) -> int:
    return len(verify_row(rows, rows.accounts[ANA], {}, Checkpoint(ANA, NOW.date())).findings)


def in_threads(clients: int, request: Callable[[], int]) -> Measured:
    """Let clients ask one request after another, side by side."""
    seconds: list[float] = []
    statuses: Counter[int] = Counter()
    keeping, start = threading.Lock(), threading.Barrier(clients)

    def work() -> None:
        start.wait()
        for _ in range(REQUESTS // clients):
            began = time.perf_counter()
            status = request()
            taken = time.perf_counter() - began
            with keeping:
                seconds.append(taken)
                statuses[status] += 1

    threads = [threading.Thread(target=work) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Measured(sorted(seconds), statuses, len(seconds) / (time.perf_counter() - began))


def on_stack(path: Path) -> None:
    """Measure the account of ana, of the samples' world, which must be applied."""
    from agent_credits_cli.target import rows_of
    from agent_credits_local.stack_state import StateFolder
    from agent_credits_local.target import connect_to_local
    from tests.e2e.api_calls import ApiCalls

    folder = StateFolder(path)
    calls = ApiCalls(connect_to_local(folder), folder)

    def request() -> int:
        run = f"run-{uuid.uuid4()}"
        body: dict[str, Any] = reservation(run, credits="0.000001")
        status = calls.by_producer("POST", "/v1/reservations", body).status
        calls.by_producer("POST", f"/v1/reservations/{run}/release", {"principal": "user:ana"})
        return status

    rows = rows_of(calls.target)
    for clients in (1, 10):
        # The first time, copies of the function start.
        for _ in range(2):
            found = in_threads(clients, request)
        row = rows.read_account(ANA)
        assert row is not None
        findings = verify_row(rows, row, {}, Checkpoint(ANA, NOW.date())).findings
        print_row(f"{clients} on the embedded stack", found, f"not counted, {len(findings)}")


def print_row(what: str, found: Measured, rest: str) -> None:
    p50, p99 = (1_000 * found.seconds[int(len(found.seconds) * part)] for part in (0.5, 0.99))
    answers = " ".join(f"{status}:{count}" for status, count in sorted(found.statuses.items()))
    sys.stdout.write(f"{what:24} {p50:7.0f} {p99:7.0f} {found.rate:7.0f}  {answers:18} {rest}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stack", type=Path)
    stack = parser.parse_args().stack
    heading = f"{'clients at once':24} {'p50 ms':>7} {'p99 ms':>7} {'per s':>7}  {'answers':18}"
    sys.stdout.write(f"{heading} lost races, ledger mismatches\n")
    random.seed(1)
    for clients in CLIENTS:
        found, rows = in_virtual_time(clients, REQUESTS // clients)
        print_row(f"{clients} at 5 ms a call", found, f"{rows.lost}, {mismatches(rows)}")
    if stack is not None:
        on_stack(stack)


if __name__ == "__main__":
    main()
