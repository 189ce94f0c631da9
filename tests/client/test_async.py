"""The asynchronous client keeps what the synchronous one keeps; all decisions are the same code."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent_credits_client import (
    AsyncRun,
    InsufficientCredits,
    RunEnded,
    RunStopped,
    Unavailable,
    UsageNotReported,
)
from tests.client.world import Fault, World, journal_files
from tests.unit.reservation_world import NO_STEP, policy

Work = Callable[[AsyncRun], Awaitable[None]]


def block(run: AsyncRun, work: Work) -> None:
    """Run a coroutine in the block of a run."""

    async def main() -> None:
        async with run:
            await work(run)

    asyncio.run(main())


async def use_ten(run: AsyncRun) -> None:
    await run.use("10")


def test_a_run_reserves_draws_and_gives_back_the_rest() -> None:
    world = World()

    async def work(run: AsyncRun) -> None:
        await run.use("10")
        await run.flush()
        await run.extend("25")
        assert (run.is_reserved, world.reserved()) == (True, "90")

    block(world.async_run(), work)

    assert (world.available(), world.reserved()) == ("490", "0")


def test_a_refusal_is_raised_before_the_block_runs() -> None:
    world = World(credits="50")

    async def work(_: AsyncRun) -> None:
        pytest.fail("the block must not run")

    with pytest.raises(InsufficientCredits):
        block(world.async_run(), work)


@pytest.mark.parametrize("kind", ["lost", "timeout", "not_sent", "answer"])
def test_every_call_is_repeated_and_counts_once(kind: str) -> None:
    world = World()
    calls = ["/v1/reservations", "/v1/events", "/settle"]
    world.faults = [Fault(kind, part) for part in calls for _ in range(2)]  # type: ignore[arg-type]

    block(world.async_run(), use_ten)

    assert world.faults == []
    assert (world.drawn(), world.available(), world.reserved()) == ("10", "490", "0")


def test_a_cancelled_task_ends_its_run_as_cancelled() -> None:
    world = World()

    async def main() -> None:
        started = asyncio.Event()

        async def work() -> None:
            async with world.async_run(background=True) as run:
                await run.use("10")
                started.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert world.seen[-1].body["status"] == "cancelled"
    assert (world.available(), world.reserved()) == ("490", "0")


def test_a_directive_is_raised() -> None:
    world = World(policy=policy(**NO_STEP, overrun="stop"))

    async def work(run: AsyncRun) -> None:
        await run.use("15")
        await run.flush()

    with pytest.raises(RunStopped):
        block(world.async_run(credits="10"), work)


def test_a_callback_hears_the_directive() -> None:
    world = World(policy=policy(**NO_STEP, overrun="pause"))
    told: list[str] = []

    async def work(run: AsyncRun) -> None:
        await run.use("15")
        await run.flush()
        await run.extend("20")

    block(world.async_run(credits="10", on_directive=told.append), work)

    assert told == ["pause", "continue"]


def test_deny_and_allow_mean_the_same_as_in_the_synchronous_client() -> None:
    world = World()
    world.faults = [Fault("not_sent")] * 6
    with pytest.raises(Unavailable):
        block(world.async_run(), use_ten)

    world.faults = [Fault("not_sent")] * 6
    block(world.async_run("run-2", on_unavailable="allow"), use_ten)

    assert world.outcomes() == [("debited", "10"), ("finished", "0")]


def test_a_journal_carries_a_run_from_one_process_to_the_next(tmp_path: Path) -> None:
    world = World()

    async def work(run: AsyncRun) -> None:
        await run.use("10")
        world.faults = [Fault("not_sent")] * 1_000

    with pytest.raises(UsageNotReported):
        block(world.async_run(journals=tmp_path), work)
    world.faults = []

    with pytest.raises(RunEnded):
        block(world.async_run(journals=tmp_path), use_ten)

    assert (world.available(), world.reserved()) == ("490", "0")
    assert journal_files(tmp_path) == []


def test_a_run_that_is_left_goes_on() -> None:
    world = World()

    async def main() -> None:
        run = await world.async_run().start()
        await run.use("10")
        await run.leave()
        async with world.async_run() as run:
            await run.use("5")

    asyncio.run(main())

    assert world.available() == "485"
