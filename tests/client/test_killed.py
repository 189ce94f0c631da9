"""A worker that is killed at any moment, and one that continues: each step is billed once.

The worker is the example of the client's documentation, in a process of its own that gets SIGKILL.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent_credits_client.calls import SystemClock
from tests.api_world import token
from tests.client.server import Fate, Server, serving
from tests.client.world import World, journal_files

EXAMPLES = Path(__file__).parents[2] / "clients" / "python" / "examples"
# How long a test waits for what must happen. It decides nothing else.
PATIENCE_SECONDS = 60
STEPS = ["1.5", "2", "0.000001", "3"]

# The worker as it is, but each step waits for a line on standard input before it is done.
STEPPED = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import worker
from pathlib import Path
def do_step(step):
    print("step", flush=True)
    sys.stdin.readline()
    return step["credits"]
worker.do_step = do_step
worker.main(Path(sys.argv[1]), Path(sys.argv[2]))
"""


class Workers:
    """Starts workers one after another on the same folders."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.jobs, self.journals = folder / "jobs", folder / "journals"
        self.jobs.mkdir()
        self.server = server
        self._env = {
            "PATH": os.defpath,
            "AGENT_CREDITS_URL": server.url,
            "AGENT_CREDITS_TOKEN": token(role="operator"),
        }

    def add_job(self, run_id: str, steps: list[dict[str, Any]], estimate: str = "75") -> Path:
        path = self.jobs / f"{run_id}.json"
        job = {
            "team_id": "acme",
            "trigger": {"kind": "user", "user_id": "ana"},
            "estimate": estimate,
            "started_at": datetime.now(UTC).isoformat(),
            "steps": steps,
        }
        path.write_text(json.dumps(job))
        return path

    def start(self, *command: str) -> subprocess.Popen[str]:
        program = command or (str(EXAMPLES / "worker.py"),)
        return subprocess.Popen(
            [sys.executable, *program, str(self.jobs), str(self.journals)],
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start_stepped(self) -> subprocess.Popen[str]:
        return self.start("-c", STEPPED, str(EXAMPLES))

    def work(self) -> str:
        """Let a worker do all that is left, and return what it printed."""
        with self.start() as worker:
            printed, _ = worker.communicate(timeout=PATIENCE_SECONDS)
        assert worker.returncode == 0
        return printed

    def kill_during(self, part: str, fate: Fate = "hang") -> None:
        """Kill a worker while it waits for the answer to a request that the service has handled."""
        reached = threading.Event()

        def hang(path: str) -> Fate:
            if part in path:
                reached.set()
                return fate
            return "answer"

        self.server.fate = hang
        worker = self.start()
        assert reached.wait(PATIENCE_SECONDS)
        kill(worker)
        self.server.fate = lambda _: "answer"


def kill(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    with worker:
        worker.wait(PATIENCE_SECONDS)
    assert worker.returncode == -signal.SIGKILL


def tell(worker: subprocess.Popen[str], line: str = "go") -> None:
    assert worker.stdin is not None
    worker.stdin.write(f"{line}\n")
    worker.stdin.flush()


def hear(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    world = World()
    world.clock = SystemClock()  # type: ignore[assignment]
    with serving(world) as server:
        yield Workers(tmp_path, server)


def steps() -> list[dict[str, Any]]:
    return [{"credits": credits} for credits in STEPS]


def check(workers: Workers, run_id: str = "job-1") -> None:
    """Check that the job was billed once for each step and holds nothing any more."""
    world = workers.server.world
    usage = [e for e in world.entries() if e.type == "agent_run.usage"]
    assert sorted(e.identity.id for e in usage) == [f"step:step-{n}" for n in range(len(STEPS))]
    assert world.drawn() == "6.500001"
    assert (world.available(), world.reserved()) == ("493.499999", "0")
    assert [e.outcome for e in world.entries()].count("finished") == 1
    assert (workers.jobs / f"{run_id}.done").exists()
    assert journal_files(workers.journals) == []


def test_a_worker_that_is_left_alone_does_its_jobs(workers: Workers) -> None:
    workers.add_job("job-1", steps())

    assert workers.work() == "job-1: done\n"

    check(workers)


@pytest.mark.parametrize("part", ["/v1/reservations", "/v1/events", "/settle"])
def test_a_worker_that_is_killed_while_it_waits_for_an_answer(part: str, workers: Workers) -> None:
    workers.add_job("job-1", steps())

    workers.kill_during(part)
    assert workers.work() == "job-1: done\n"

    check(workers)


def test_workers_that_are_killed_one_after_another(workers: Workers) -> None:
    workers.add_job("job-1", steps())

    for part in ("/v1/reservations", "/v1/events", "/v1/events", "/settle"):
        workers.kill_during(part)
    assert workers.work() == "job-1: done\n"

    check(workers)


@pytest.mark.parametrize("done", range(len(STEPS)))
def test_a_worker_that_is_killed_between_two_steps(done: int, workers: Workers) -> None:
    workers.add_job("job-1", steps())

    worker = workers.start_stepped()
    for _ in range(done):
        assert hear(worker) == "step"
        tell(worker)
    assert hear(worker) == "step"
    kill(worker)
    assert workers.work() == "job-1: done\n"

    check(workers)


def test_a_step_whose_end_was_not_saved_is_repeated_and_billed_once(workers: Workers) -> None:
    path = workers.add_job("job-1", steps())
    before = path.read_text()

    worker = workers.start_stepped()
    for _ in range(2):
        assert hear(worker) == "step"
        tell(worker)
    assert hear(worker) == "step"
    kill(worker)
    path.write_text(before)
    assert workers.work() == "job-1: done\n"

    check(workers)


def test_answers_that_get_lost_on_the_way_are_asked_for_again(workers: Workers) -> None:
    workers.add_job("job-1", steps())
    lost: list[str] = []

    def lose_the_first(path: str) -> Fate:
        if path in lost:
            return "answer"
        lost.append(path)
        return "lose"

    workers.server.fate = lose_the_first
    assert workers.work() == "job-1: done\n"

    check(workers)
    assert {"/v1/reservations", "/v1/events"} <= set(lost)


def test_a_platform_error_gives_everything_back(workers: Workers) -> None:
    workers.add_job("job-1", [*steps(), {"fails": True}])

    assert workers.work() == "job-1: failed\n"

    world = workers.server.world
    assert (world.available(), world.reserved()) == ("500", "0")


def test_a_job_that_was_refused_is_done_once_there_are_credits(workers: Workers) -> None:
    workers.add_job("job-1", steps(), estimate="600")

    assert workers.work().startswith("job-1: The principal billed for this run has no remaining")
    workers.server.world.grant("g-2", "200")
    assert workers.work() == "job-1: done\n"

    assert workers.server.world.available() == "693.499999"
