"""A worker that is killed at any moment, and one that continues: each step is billed once.

The worker is the example of the client's documentation, in a process of its own that gets SIGKILL.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_credits_client.calls import SystemClock
from tests.api_world import token
from tests.client.server import Fate, serving
from tests.client.workers import STEPS, Workers, hear, kill, steps, tell
from tests.client.world import World, journal_files


class WorkersOfWorld(Workers):
    world: World


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[WorkersOfWorld]:
    world = World()
    world.clock = SystemClock()  # type: ignore[assignment]
    with serving(world.deliver) as server:
        workers = WorkersOfWorld(tmp_path, server, token(role="operator"))
        workers.world = world
        yield workers


def check(workers: WorkersOfWorld, run_id: str = "job-1") -> None:
    """Check that the job was billed once for each step and holds nothing any more."""
    world = workers.world
    usage = [e for e in world.entries() if e.type == "agent_run.usage"]
    assert sorted(e.identity.id for e in usage) == [f"step:step-{n}" for n in range(len(STEPS))]
    assert world.drawn() == "6.500001"
    assert (world.available(), world.reserved()) == ("493.499999", "0")
    assert [e.outcome for e in world.entries()].count("finished") == 1
    assert (workers.jobs / f"{run_id}.done").exists()
    assert journal_files(workers.journals) == []


def test_a_worker_that_is_left_alone_does_its_jobs(workers: WorkersOfWorld) -> None:
    workers.add_job("job-1", steps())

    assert workers.work() == "job-1: done\n"

    check(workers)


@pytest.mark.parametrize("part", ["/v1/reservations", "/v1/events", "/settle"])
def test_a_worker_that_is_killed_while_it_waits_for_an_answer(
    part: str, workers: WorkersOfWorld
) -> None:
    workers.add_job("job-1", steps())

    workers.kill_during(part)
    assert workers.work() == "job-1: done\n"

    check(workers)


def test_workers_that_are_killed_one_after_another(workers: WorkersOfWorld) -> None:
    workers.add_job("job-1", steps())

    for part in ("/v1/reservations", "/v1/events", "/v1/events", "/settle"):
        workers.kill_during(part)
    assert workers.work() == "job-1: done\n"

    check(workers)


@pytest.mark.parametrize("done", range(len(STEPS)))
def test_a_worker_that_is_killed_between_two_steps(done: int, workers: WorkersOfWorld) -> None:
    workers.add_job("job-1", steps())

    worker = workers.start_stepped()
    for _ in range(done):
        assert hear(worker) == "step"
        tell(worker)
    assert hear(worker) == "step"
    kill(worker)
    assert workers.work() == "job-1: done\n"

    check(workers)


def test_a_step_whose_end_was_not_saved_is_repeated_and_billed_once(
    workers: WorkersOfWorld,
) -> None:
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


def test_answers_that_get_lost_on_the_way_are_asked_for_again(workers: WorkersOfWorld) -> None:
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


def test_a_platform_error_gives_everything_back(workers: WorkersOfWorld) -> None:
    workers.add_job("job-1", [*steps(), {"fails": True}])

    assert workers.work() == "job-1: failed\n"

    world = workers.world
    assert (world.available(), world.reserved()) == ("500", "0")


def test_a_job_that_was_refused_is_done_once_there_are_credits(workers: WorkersOfWorld) -> None:
    workers.add_job("job-1", steps(), estimate="600")

    assert workers.work().startswith("job-1: The principal billed for this run has no remaining")
    workers.world.grant("g-2", "200")
    assert workers.work() == "job-1: done\n"

    assert workers.world.available() == "693.499999"
