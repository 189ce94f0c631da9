"""What a run does by itself, in its thread or its task, while the caller does something else."""

import asyncio
import threading

import pytest

from agent_credits_client import Options, RunPaused
from tests.client.world import Fault, World
from tests.unit.reservation_world import NO_STEP, policy

# How long a test waits for what must happen. It decides nothing else.
PATIENCE_SECONDS = 30


class Arrived:
    """Says when the service has got so many requests of a path."""

    def __init__(self, world: World, part: str, count: int = 1) -> None:
        self._left = count
        self._part = part
        self._happened = threading.Event()
        world.before = self._before

    def _before(self, path: str) -> None:
        if self._part in path:
            self._left -= 1
            if self._left == 0:
                self._happened.set()

    def wait(self) -> None:
        assert self._happened.wait(PATIENCE_SECONDS)


def threads_of_runs() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("agent-credits")]


def test_a_full_batch_is_sent_at_once() -> None:
    world = World()
    arrived = Arrived(world, "/v1/events")

    with world.run(background=True) as run:
        for _ in range(25):
            run.use("1")
        arrived.wait()

    assert world.drawn() == "25"


def test_usage_that_is_old_enough_is_sent_while_the_block_is_busy() -> None:
    world = World()
    arrived = Arrived(world, "/v1/events")

    with world.run(background=True) as run:
        run.use("1")
        world.clock.advance_idle(6)
        arrived.wait()


def test_a_reservation_outlives_a_block_that_uses_nothing_for_hours() -> None:
    world = World()

    with world.run(background=True, ttl_seconds=600):
        for _ in range(12):
            world.clock.advance_idle(310)
        assert world.reserved() == "75"

    assert (world.available(), world.reserved()) == ("500", "0")


def test_a_renewal_that_fails_is_attempted_again_before_the_reservation_expires() -> None:
    world = World()

    with world.run(background=True, ttl_seconds=600):
        world.faults = [Fault("not_sent", "/extend")] * 3
        for _ in range(20):
            world.clock.advance_idle(30)
        assert world.faults == []
        assert world.reserved() == "75"


def test_the_thread_ends_with_the_run_however_that_ends() -> None:
    world = World()

    with pytest.raises(ZeroDivisionError), world.run(background=True):
        assert threads_of_runs() == ["agent-credits run-1"]
        raise ZeroDivisionError

    assert threads_of_runs() == []


def test_a_run_that_does_not_start_leaves_no_thread() -> None:
    world = World(credits="0")

    with pytest.raises(Exception, match="unknown_user"):
        world.run(background=True).start()

    assert threads_of_runs() == []


@pytest.mark.usefixtures("short_switch_interval")
def test_threads_of_a_platform_share_a_run_and_lose_nothing() -> None:
    world = World()

    with world.run(background=True) as run:
        threads = [
            threading.Thread(target=lambda: [run.use("0.1") for _ in range(50)]) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert world.drawn() == "40"
    assert len(world.entries()) == 402


def test_what_the_thread_is_sending_is_not_sent_beside_it() -> None:
    world = World()
    sending, released, beside = threading.Event(), threading.Event(), threading.Event()

    def hold(path: str) -> None:
        if path == "/v1/events":
            (beside if sending.is_set() else sending).set()
            released.wait(PATIENCE_SECONDS)

    world.before = hold
    with world.run(background=True, options=Options(flush_events=1)) as run:
        run.use("1")
        assert sending.wait(PATIENCE_SECONDS)
        flushing = threading.Thread(target=run.flush)
        flushing.start()
        # Time for what must not happen.
        assert not beside.wait(0.5)
        released.set()
        flushing.join()

    assert world.paths.count("/v1/events") == 1


def test_a_directive_that_the_thread_hears_reaches_the_next_use() -> None:
    world = World(policy=policy(**NO_STEP, overrun="pause"))

    with pytest.raises(RunPaused), world.run(credits="10", background=True) as run:
        run.use("15")
        world.clock.advance_idle(6)
        run.use("1")

    assert run.directive == "pause"


def test_a_task_does_the_same_as_a_thread() -> None:
    world = World()

    async def main() -> None:
        async with world.async_run(background=True, ttl_seconds=600) as run:
            for _ in range(25):
                await run.use("1")
            for _ in range(2):
                await asyncio.to_thread(world.clock.advance_idle, 310)
            await run.use("1")
        assert [t for t in asyncio.all_tasks() if "agent-credits" in t.get_name()] == []

    asyncio.run(main())

    assert world.drawn() == "26"
    assert (world.available(), world.reserved()) == ("474", "0")


def test_what_a_task_is_sending_is_not_sent_beside_it() -> None:
    world = World()

    async def main() -> None:
        async with world.async_run() as run:
            await run.use("1")
            world.gate = asyncio.Event()
            flushing = [asyncio.create_task(run.flush()) for _ in range(5)]
            for _ in range(100):
                await asyncio.sleep(0)
            world.gate.set()
            await asyncio.gather(*flushing)

    asyncio.run(main())

    assert world.paths.count("/v1/events") == 1


def test_tasks_of_a_platform_share_a_run_and_lose_nothing() -> None:
    world = World()

    async def main() -> None:
        async with world.async_run(background=True, options=Options(flush_events=7)) as run:
            await asyncio.gather(*(run.use("0.1") for _ in range(200)))

    asyncio.run(main())

    assert world.drawn() == "20"
