"""A run from its reservation to its end, as the ledger has it afterwards."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from agent_credits_client import (
    Conflict,
    InsufficientCredits,
    Invalid,
    NotAllowed,
    RunEnded,
    RunPaused,
    RunStopped,
    UsageRejected,
)
from tests.api_world import token
from tests.client.world import TRIGGER, World
from tests.unit.reservation_world import NO_STEP, policy


class PlatformDown(Exception):
    """What a platform raises when it is itself to blame."""


def test_a_run_reserves_draws_what_it_used_and_gives_back_the_rest() -> None:
    world = World()

    with world.run(credits="75") as run:
        assert (world.available(), world.reserved()) == ("425", "75")
        run.use("10.5")
        run.use("0.000001")

    assert world.outcomes() == [
        ("accepted", "0"),
        ("debited", "10.5"),
        ("debited", "0.000001"),
        ("finished", "0"),
    ]
    assert (world.available(), world.reserved()) == ("489.499999", "0")
    assert run.unreported == ()
    assert run.reservation is not None
    assert run.reservation.state == "settled"
    assert run.reservation.drawn_credits == Decimal("10.500001")


def test_what_the_run_holds_is_known_while_it_runs() -> None:
    world = World()

    with world.run(credits="75") as run:
        run.use("10")
        run.flush()
        run.extend("25")

        assert run.reservation is not None
        assert run.reservation.reserved_credits == Decimal(100)
        assert run.reservation.left_credits == Decimal(90)
        assert run.principal == "user:ana"
        assert run.is_reserved


def test_usage_is_sent_in_batches_of_25() -> None:
    world = World()

    with world.run() as run:
        for _ in range(60):
            run.use("1")

    batches = [seen.body for seen in world.seen if seen.path == "/v1/events"]
    assert [len(batch) for batch in batches] == [25, 25, 10]
    assert world.drawn() == "60"


def test_usage_waits_for_others_no_longer_than_flush_seconds() -> None:
    world = World()

    with world.run() as run:
        run.use("1")
        assert world.drawn() == "0"
        world.clock.advance(5)
        run.use("1")

        assert world.drawn() == "2"


@pytest.mark.parametrize(
    ("error", "status", "available"),
    [
        (None, "finished", "490"),
        (PlatformDown(), "returned", "500"),
        (ValueError("the agent failed"), "finished", "490"),
        (KeyboardInterrupt(), "finished", "490"),
    ],
    ids=["ok", "platform error", "error", "interrupt"],
)
def test_how_the_block_ends_is_how_the_run_ends(
    error: BaseException | None, status: str, available: str
) -> None:
    world = World()

    def work() -> None:
        with world.run(platform_errors=[PlatformDown]) as run:
            run.use("10")
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()

    assert world.entries()[-1].outcome == status
    assert (world.available(), world.reserved()) == (available, "0")
    settled = world.seen[-1].body["status"]
    expected = {"NoneType": "ok", "PlatformDown": "error"}.get(type(error).__name__, "cancelled")
    assert settled == expected


def test_a_run_that_is_left_is_continued_by_the_next_start() -> None:
    world = World()
    with pytest.raises(SystemExit), world.run(leave_on=[SystemExit]) as run:
        run.use("10")
        raise SystemExit

    assert (world.available(), world.reserved()) == ("425", "65")
    with world.run(leave_on=[SystemExit]) as run:
        run.use("5")

    assert world.available() == "485"
    assert [outcome for outcome, _ in world.outcomes()] == [
        "accepted",
        "debited",
        "extended",
        "debited",
        "finished",
    ]


def test_a_run_that_has_ended_does_not_start_again() -> None:
    world = World()
    with world.run() as run:
        run.use("10")

    with pytest.raises(RunEnded):
        world.run().start()

    assert world.available() == "490"


def test_a_run_that_was_released_does_not_start_again() -> None:
    world = World()
    world.run().start()
    body = {"source": "/platform/agents", "team_id": "acme", "trigger": TRIGGER}
    assert world.api.call("POST", "/v1/reservations/run-1/release", body).status == 200

    with pytest.raises(RunEnded, match="released"):
        world.run().start()


def test_a_run_whose_reservation_expired_reserves_again() -> None:
    world = World()
    world.run(ttl_seconds=60).start()
    world.clock.advance(61)
    assert world.available() == "500"

    with world.run(ttl_seconds=60) as run:
        assert (run.is_reserved, world.reserved()) == (True, "75")
        run.use("10")

    assert world.available() == "490"


def test_a_second_start_under_another_request_id_finds_the_reservation_of_the_first() -> None:
    world = World()
    world.run().start()

    with world.run(request_id="delivery-2") as run:
        assert run.is_reserved
        run.use("10")

    assert (world.available(), world.reserved()) == ("490", "0")


def test_a_refusal_says_why_and_what_to_do() -> None:
    world = World(credits="50")

    with pytest.raises(InsufficientCredits) as refused:
        world.run(credits="75").start()

    error = refused.value
    assert error.status == 403
    assert error.title.startswith("The principal billed for this run has no remaining credits.")
    assert (error.error, error.cause) == ("insufficient_credits", "pools_exhausted")
    assert error.required_credits == Decimal(75)
    assert error.available_credits == Decimal(50)
    assert error.shortfall_credits == Decimal(25)
    assert (error.principal, error.resets_at) == ("user:ana", None)
    assert error.fix
    assert error.trace_id == "request-1"
    assert len(world.seen) == 1


def test_a_refused_run_is_decided_again_under_another_request_id() -> None:
    world = World(credits="50")
    with pytest.raises(InsufficientCredits):
        world.run(credits="75").start()
    world.grant("g-2", "100")

    with pytest.raises(InsufficientCredits):
        world.run(credits="75").start()
    with world.run(credits="75", request_id="delivery-2") as run:
        assert run.is_reserved


@pytest.mark.parametrize(
    ("first", "second", "error", "status"),
    [
        ({"credits": "75"}, {"credits": "80"}, Conflict, 409),
        ({}, {"team_id": "nobody"}, Invalid, 422),
        ({}, {"token": token(run_id="run-9"), "run_id": "run-1"}, Invalid, 404),
        ({}, {"token": token()}, NotAllowed, 403),
        ({}, {"token": "no token"}, NotAllowed, 401),
    ],
    ids=["conflict", "unknown team", "another run", "forbidden", "unauthenticated"],
)
def test_a_no_is_never_asked_for_twice(
    first: dict[str, Any], second: dict[str, Any], error: type[Exception], status: int
) -> None:
    world = World()
    world.run(**first).start()
    before = len(world.seen)

    with pytest.raises(error) as refused:
        world.run(**second).start()

    assert [seen.status for seen in world.seen[before:]] == [status]
    assert refused.value.status == status  # type: ignore[attr-defined]
    assert world.clock.sleeps == []


def test_a_run_that_is_told_to_pause_keeps_its_reservation_and_continues_once_extended() -> None:
    world = World(policy=policy(**NO_STEP, overrun="pause"))
    with pytest.raises(RunPaused), world.run(credits="10") as run:
        run.use("10")
        run.flush()
        run.use("5")
        run.flush()

    assert run.directive == "pause"
    assert "/v1/reservations/run-1/settle" not in world.paths
    with world.run(credits="10") as run:
        assert run.directive == "pause"
        run.extend("50")
        assert run.directive == "continue"
        run.use("20")

    assert world.entries()[-1].outcome == "finished"
    assert (world.available(), world.reserved()) == ("470", "0")


def test_a_run_that_is_told_to_stop_ends_as_cancelled() -> None:
    world = World(policy=policy(**NO_STEP, overrun="stop"))

    with pytest.raises(RunStopped) as stopped, world.run(credits="10") as run:
        for _ in range(100):
            run.use("15")
            world.clock.advance(5)

    assert stopped.value.run_id == "run-1"
    assert world.seen[-1].body["status"] == "cancelled"
    # What was used before it was told is reported all the same.
    assert [e.amount_microcredits for e in world.entries() if e.type == "agent_run.usage"] == [
        15_000_000,
        15_000_000,
    ]


def test_a_callback_hears_each_change_of_the_directive_and_nothing_is_raised() -> None:
    world = World(policy=policy(**NO_STEP, overrun="pause"))
    told: list[str] = []

    with world.run(credits="10", on_directive=told.append) as run:
        run.use("15")
        run.flush()
        run.use("1")
        run.flush()
        with pytest.raises(RunPaused):
            run.check()
        run.extend("20")
        run.check()

    assert told == ["pause", "continue"]


def test_a_callback_that_raises_is_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(policy=policy(**NO_STEP, overrun="pause"))

    def raise_it(directive: str) -> None:
        raise ValueError(directive)

    with world.run(credits="10", on_directive=raise_it) as run:
        run.use("15")
        run.flush()

    assert "on_directive of run run-1 has raised" in caplog.text
    assert world.entries()[-1].outcome == "finished"


def test_a_reservation_is_renewed_when_half_of_its_time_is_over() -> None:
    world = World()
    run = world.run(ttl_seconds=600).start()

    world.clock.advance(299)
    run.keep_up()
    assert "/v1/reservations/run-1/extend" not in world.paths
    for _ in range(10):
        world.clock.advance(300)
        run.keep_up()

    assert world.reserved() == "75"
    run.end()
    assert (world.available(), world.reserved()) == ("500", "0")


def test_a_run_whose_reservation_is_gone_is_metered_to_its_end() -> None:
    world = World()
    run = world.run(ttl_seconds=60).start()
    world.clock.advance(120)

    run.keep_up()
    run.use("10")
    run.end()

    assert not run.is_reserved
    assert world.available() == "490"


def test_a_run_below_another_draws_what_that_one_holds() -> None:
    world = World()

    with world.run("root", credits="50"):
        with world.run("leaf", credits="20", parent_run_id="root") as leaf:
            leaf.use("15")
        assert (world.available(), world.reserved()) == ("450", "35")

    assert (world.available(), world.reserved()) == ("485", "0")


def test_an_extension_with_a_key_counts_once() -> None:
    world = World()

    with world.run(credits="10") as run:
        run.extend("20", key="step-3")
        run.extend("20", key="step-3")
        assert world.reserved() == "30"
        with pytest.raises(InsufficientCredits):
            run.extend("1000")
        assert world.reserved() == "30"


def test_usage_with_a_key_counts_once_whoever_repeats_it() -> None:
    world = World()
    started_at = world.clock.now()

    for _ in range(2):
        with (
            pytest.raises(SystemExit),
            world.run(started_at=started_at, leave_on=[SystemExit]) as r,
        ):
            world.clock.advance(30)
            r.use("10", key="step-1")
            raise SystemExit

    first, second = [seen.body for seen in world.seen if seen.path == "/v1/events"]
    assert first == second
    assert world.drawn() == "10"


def test_a_run_that_began_by_a_faster_clock_reports_no_usage_from_before_it_began() -> None:
    world = World()
    world.service_is_ahead = timedelta(seconds=10)
    started_at = world.clock.now() + timedelta(seconds=5)

    with world.run(started_at=started_at) as run:
        run.use("10")

    assert world.drawn() == "10"


def test_a_step_that_used_something_else_when_it_was_repeated_counts_as_it_was_first() -> None:
    world = World()
    started_at = world.clock.now()

    with world.run(started_at=started_at) as run:
        run.use("10", key="step-1")
        run.flush()
        run.use("11", key="step-1")

    assert world.drawn() == "10"
    assert world.entries()[-1].outcome == "finished"


def test_usage_that_can_never_be_recorded_is_said_at_the_end_and_holds_up_nothing() -> None:
    world = World()

    with pytest.raises(UsageRejected) as rejected, world.run() as run:
        run.use("1", at=world.clock.now().replace(year=2199))
        run.use("2")

    ((event, problem),) = rejected.value.rejected
    assert event["data"]["credits"] == "1"
    assert problem["error"] == "from_the_future"
    assert world.drawn() == "2"
    assert world.entries()[-1].outcome == "finished"


@pytest.mark.parametrize("credits", [1.5, True, None, b"1"])
def test_credits_that_are_no_decimal_are_a_type_error(credits: Any) -> None:
    with World().run() as run, pytest.raises(TypeError, match="credits must be a str"):
        run.use(credits)


@pytest.mark.parametrize("credits", ["-1", "1.0000001", "1e3", "", "1000000000.1", "NaN"])
def test_credits_out_of_range_are_a_value_error(credits: str) -> None:
    with World().run() as run, pytest.raises(ValueError, match="credits must be a decimal"):
        run.use(credits)


@pytest.mark.parametrize("credits", ["2.5", Decimal("2.5"), Decimal("2.50")])
def test_credits_are_reported_to_the_last_place(credits: Any) -> None:
    world = World()

    with world.run() as run:
        run.use(credits)
        run.use(7)

    assert world.drawn() == "9.5"


@pytest.mark.parametrize("run_id", ["a/b", "~x", "..", "run:1@x", "run-1"])
def test_any_run_id_finds_its_way_through_a_path(run_id: str) -> None:
    world = World()

    with world.run(run_id) as run:
        run.use("1")
        run.extend("1")

    assert world.entries()[-1].identity.subject == run_id
    assert world.reserved() == "0"


def test_a_key_without_a_time_that_repeats_is_refused_at_once() -> None:
    with World().run() as run, pytest.raises(ValueError, match="started_at"):
        run.use("1", key="step-1")


def test_a_run_that_has_ended_takes_no_usage() -> None:
    with World().run() as run:
        pass

    with pytest.raises(RuntimeError, match="started and not ended"):
        run.use("1")
