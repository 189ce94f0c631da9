"""Events per second of several workers at once, each a process of its own, as Lambda's are.

What is measured beside each other runs one after the other on the same machine, workers and store
together on its cores. So the figures compare designs; they say nothing about what AWS would do.
"""

import multiprocessing
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from tests.benchmarks.design import Design
from tests.benchmarks.stores import NEAR, Network, connect
from tests.benchmarks.workloads import UNIFORM_BATCH, Workload, hot_account, uniform
from tests.benchmarks.write_path import new_suffix

WORKERS = (1, 2, 4, 8)
# A worker takes no further batch after so long. The first batches are not counted.
SECONDS_MAX = 2.0
WARM_UP = 1
# More than any worker manages in that time.
EVENTS_MAX = 12_000
# Loading the libraries by all workers at once takes a while on few cores.
READY_SECONDS_MAX = 180
JOB_SECONDS_MAX = 300


@dataclass(frozen=True, slots=True)
class Rate:
    """How many events all workers debited a second, and what it took."""

    design: str
    store: str
    accounts: int
    events_per_batch: int
    workers: int
    network: Network
    events: int
    seconds: float
    races_lost: int
    cpu_microseconds: float
    commits: int = 0

    @property
    def commits_per_second(self) -> float:
        return self.commits / self.seconds

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds


def best_rate(rates: Iterable[Rate], design: str, network: Network) -> Rate:
    """Return the rate on one account at the number of workers that suits the design best."""
    return max(
        (
            rate
            for rate in rates
            if (rate.design, rate.accounts, rate.network) == (design, 1, network)
        ),
        key=lambda rate: rate.events_per_second,
    )


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker of several does: `number` makes its events its own."""

    design: Design
    address: str
    suffix: str
    accounts: int
    events_per_batch: int
    workers: int
    number: int
    network: Network

    def workload(self) -> Workload:
        if self.accounts == 1:
            batches = EVENTS_MAX // self.events_per_batch
            return hot_account(
                self.events_per_batch, batches, warm_up=WARM_UP, seed=1_000 + self.number
            )
        batches = EVENTS_MAX // UNIFORM_BATCH
        return uniform(batches, warm_up=WARM_UP, accounts=self.accounts, seed=1_000 + self.number)


@dataclass(frozen=True, slots=True)
class Shift:
    """What one worker did, and between which moments of the machine's clock."""

    began: float
    ended: float
    events: int
    races_lost: int
    commits: int
    cpu_seconds: float


class Crew:
    """Worker processes that are started once and do one job after the other."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def rate(
        self,
        design: Design,
        store: str,
        address: str,
        *,
        accounts: int,
        events_per_batch: int,
        workers: int,
        network: Network = NEAR,
    ) -> Rate:
        suffix = new_suffix()
        jobs = [
            Job(
                design=design,
                address=address,
                suffix=suffix,
                accounts=accounts,
                events_per_batch=events_per_batch,
                workers=workers,
                number=number,
                network=network,
            )
            for number in range(workers)
        ]
        connection = connect(address)
        design.create(connection, suffix, jobs[0].workload())
        shifts = self._work(jobs)
        design.drop(connection, suffix)
        connection.close()
        events = sum(shift.events for shift in shifts)
        return Rate(
            design=design.name,
            store=store,
            accounts=accounts,
            events_per_batch=events_per_batch,
            workers=workers,
            network=network,
            events=events,
            seconds=max(s.ended for s in shifts) - min(s.began for s in shifts),
            races_lost=sum(shift.races_lost for shift in shifts),
            cpu_microseconds=sum(shift.cpu_seconds for shift in shifts) / events * 1e6,
            commits=sum(shift.commits for shift in shifts),
        )

    def _work(self, jobs: Sequence[Job]) -> list[Shift]:
        pipes = self._pipes[: len(jobs)]
        for pipe, job in zip(pipes, jobs, strict=True):
            pipe.send(job)
        shifts = []
        for pipe in pipes:
            if not pipe.poll(JOB_SECONDS_MAX):
                raise TimeoutError(f"a worker did not finish within {JOB_SECONDS_MAX} s")
            shift = pipe.recv()
            if isinstance(shift, str):
                raise RuntimeError(f"a worker failed:\n{shift}")
            shifts.append(shift)
        return shifts


@contextmanager
def crew(size: int) -> Iterator[Crew]:
    """Start so many workers; end them afterwards."""
    # A forked copy would share the locks of whatever threads there are.
    processes = multiprocessing.get_context("spawn")
    barriers = {workers: processes.Barrier(workers) for workers in range(1, size + 1)}
    started = []
    for _ in range(size):
        ours, theirs = processes.Pipe()
        process = processes.Process(target=_work_off, args=(theirs, barriers), daemon=True)
        process.start()
        theirs.close()
        started.append((process, ours))
    try:
        yield Crew([pipe for _, pipe in started])
    finally:
        for process, pipe in started:
            pipe.close()
            process.join(timeout=5)
            process.kill()


def _work_off(pipe: Connection, barriers: dict[int, Barrier]) -> None:
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer: Any = _shift(job, barriers[job.workers])
        except Exception:  # noqa: BLE001 -- Whatever it is, it is raised in the process that asked.
            barriers[job.workers].abort()
            answer = traceback.format_exc()
        pipe.send(answer)


def _shift(job: Job, together: Barrier) -> Shift:
    workload = job.workload()
    connection = connect(job.address, job.network)
    worker = job.design.worker(connection, job.suffix, workload)
    for batch in workload.batches[:WARM_UP]:
        worker.debit(batch)
    together.wait(READY_SECONDS_MAX)
    events = races_lost = commits = 0
    cpu_began, began = time.process_time(), time.monotonic()
    for batch in workload.counted:
        done = worker.debit(batch)
        events += done.events
        races_lost += done.races_lost
        commits += done.commits
        if time.monotonic() > began + SECONDS_MAX:
            break
    cpu_seconds = time.process_time() - cpu_began
    shift = Shift(began, time.monotonic(), events, races_lost, commits, cpu_seconds)
    connection.close()
    return shift
