"""What is announced of runs with reservations: directives, overdrawing, and paused runs."""

import pytest

from agent_credits.commit.write_protocol import commit
from agent_credits.notices.notice import Notice
from agent_credits.values.credits import parse_credits
from tests.unit.builders import ANA, NOW, finished, grant_change, pause, requested, usage
from tests.unit.reservation_world import (
    HOUR,
    NO_STEP,
    ReservingWorld,
    extended,
    policy,
    requests,
)

PAUSING = policy(**NO_STEP, overrun="pause", grace_microcredits=parse_credits("10"))
STATES = {"finish": "RUNNING", "pause": "PAUSED", "stop": "FAILED"}


def overrun_world(overrun: str, credits: str = "500") -> ReservingWorld:  # noqa: A002
    """A run that reserved 75 credits, and whose platform does this once they are used up."""
    grace = 0 if overrun == "finish" else parse_credits("10")
    world = ReservingWorld(
        policy(**NO_STEP, overrun=overrun, grace_microcredits=grace), credits=credits
    )
    world.send(requested("r-1", credits="75", reserve="estimate"))
    return world


def world_of_a_reserved_pool() -> ReservingWorld:
    """A seventh run that finds too little, because six others hold the rest."""
    world = ReservingWorld()
    world.send(*requests(7))
    return world


def world_of_a_greedy_child() -> ReservingWorld:
    """A child that asks for more than its parent holds, on an account that holds little else."""
    world = ReservingWorld(credits="80")
    world.send(*requests(1))
    world.send(requested("r-2", run="run-2", credits="80", parent_run_id="run-1"))
    return world


def world_of_paused_runs() -> ReservingWorld:
    """Two paused runs on an account that was out of credits and gets some again."""
    world = ReservingWorld(PAUSING, credits="100")
    world.send(
        *(requested(f"r-{n}", run=f"run-{n}", credits="50", reserve="estimate") for n in (1, 2))
    )
    world.send(usage("u-1", "60", run="run-1"), usage("u-2", "200", run="run-2"))
    commit(world.rows, ANA, [grant_change("g-2", credits="100")], now=NOW, pause=pause)
    return world


@pytest.mark.parametrize("overrun", ["pause", "stop"])
def test_the_directive_says_what_to_do_with_a_run_that_may_draw_no_more(overrun: str) -> None:
    world = overrun_world(overrun)
    world.send(usage("u-1", "100"))

    (notice,) = world.notices("insufficient_credits")

    assert (notice.data["directive"], notice.data["task_state"]) == (overrun, STATES[overrun])
    assert notice.data["cause"] == "reservation_exhausted"
    assert notice.data["shortfall_credits"] == "15"
    assert notice.data["pools"][-1] == {"pool": "add_on", "remaining_credits": "415"}
    assert "agent_run.extended for run run-1" in notice.data["fix"][0]


def test_a_run_that_may_finish_goes_on_even_where_nothing_is_left() -> None:
    world = overrun_world("finish", credits="80")
    world.send(usage("u-1", "100"))

    (notice,) = world.notices("insufficient_credits")

    assert (notice.data["directive"], notice.data["task_state"]) == ("continue", "RUNNING")
    assert (notice.data["cause"], notice.data["shortfall_credits"]) == ("pools_exhausted", "20")


def test_a_request_that_finds_the_rest_reserved_says_so_and_what_is_reserved() -> None:
    (notice,) = world_of_a_reserved_pool().notices("insufficient_credits")

    assert notice.data["cause"] == "credits_reserved"
    assert notice.data["reserved_credits"] == "450"
    assert "wait until other runs finish" in notice.data["fix"][0]


def test_a_child_that_asks_for_more_than_its_parent_holds_names_the_parent() -> None:
    (notice,) = world_of_a_greedy_child().notices("insufficient_credits")

    assert (notice.data["cause"], notice.data["parent_run_id"]) == (
        "reservation_exhausted",
        "run-1",
    )
    assert "extend run run-1" in notice.data["fix"][0]


def test_a_child_whose_extension_the_parent_cannot_cover_names_the_parent() -> None:
    world = ReservingWorld(credits="80")
    world.send(*requests(1))
    world.send(requested("r-2", run="run-2", credits="70", parent_run_id="run-1"))
    world.send(extended("e-2", run="run-2", credits="9"))

    (notice,) = world.notices("insufficient_credits")

    assert (notice.data["cause"], notice.data["parent_run_id"]) == (
        "reservation_exhausted",
        "run-1",
    )


@pytest.mark.parametrize(
    ("overrun", "severity"), [("finish", "info"), ("pause", "warning"), ("stop", "warning")]
)
def test_a_run_that_begins_to_overdraw_is_announced_once(overrun: str, severity: str) -> None:
    world = overrun_world(overrun)

    world.send(usage("u-1", "80"))
    (notice,) = world.notices("agent_run.overdrawn")
    world.send(usage("u-2", "1"))

    assert (notice.severity, notice.data["overdrawn_credits"]) == (severity, "5")
    assert notice.data.get("grace_credits") == (None if overrun == "finish" else "10")
    assert world.notices("agent_run.overdrawn") == []


def test_a_run_that_reserves_again_after_its_first_time_is_over_is_announced_again() -> None:
    world = overrun_world("pause")
    world.send(usage("u-1", "80"))
    (first,) = world.notices("agent_run.overdrawn")

    later = NOW + 2 * HOUR
    world.send(requested("r-1b", credits="20", reserve="estimate"), now=later)
    world.send(usage("u-2", "23"), now=later)

    (again,) = world.notices("agent_run.overdrawn")
    assert (first.id != again.id, again.data["overdrawn_credits"]) == (True, "3")


def test_credits_that_come_back_name_the_paused_runs_newest_first() -> None:
    world = world_of_paused_runs()

    (notice,) = world.notices("credits_restored")

    assert notice.data["paused_runs"] == ["run-2", "run-1"]
    assert "- run-2\n- run-1" in notice.email_text


def test_runs_that_settle_neither_exhaust_nor_restore_an_account() -> None:
    world = world_of_a_reserved_pool()

    world.send(finished("f-1", run="run-1"))

    assert world.notices("credits_restored") == []


def a_run_that_is_to_pause() -> Notice:
    world = overrun_world("pause")
    world.send(usage("u-1", "100"))
    return world.notices("insufficient_credits")[0]


def a_run_that_overdraws() -> Notice:
    world = overrun_world("stop")
    world.send(usage("u-1", "80"))
    return world.notices("agent_run.overdrawn")[0]
