"""The example of a graph, run as its reader would run it."""

import os
import subprocess
import sys
from decimal import Decimal

from agent_credits.billing.policy import BillingPolicy
from agent_credits_client.calls import SystemClock
from tests.api_world import token
from tests.client.server import Server, serving
from tests.client.workers import EXAMPLES, PATIENCE_SECONDS
from tests.client.world import World
from tests.unit.reservation_world import NO_STEP, policy


def world_of_now(credits: str = "500", policy: BillingPolicy | None = None) -> World:
    world = World(credits, policy)
    world.clock = SystemClock()  # type: ignore[assignment]
    return world


def run_graph(server: Server, task: str = "the moon") -> str:
    env = {
        "PATH": os.defpath,
        "AGENT_CREDITS_URL": server.url,
        "AGENT_CREDITS_TOKEN": token(role="operator"),
    }
    return subprocess.run(
        [sys.executable, EXAMPLES / "graph_loop.py", "run-1", task],
        env=env,
        check=True,
        timeout=PATIENCE_SECONDS,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def test_each_node_is_billed_and_the_run_below_draws_what_its_parent_holds() -> None:
    world = world_of_now()

    with serving(world.deliver) as server:
        printed = run_graph(server)

    # Two rounds of plan, research and write.
    assert printed.startswith("Done with ")
    usage = [e for e in world.entries() if e.type == "agent_run.usage"]
    assert {e.identity.subject for e in usage} == {
        "run-1",
        "run-1-research-1",
        "run-1-research-5",
    }
    drawn = Decimal(sum(e.drawn_microcredits for e in usage)) / 1_000_000
    assert Decimal(world.available()) == 500 - drawn
    assert world.reserved() == "0"


def test_a_graph_that_nobody_can_pay_for_is_not_started_and_says_what_to_do() -> None:
    world = world_of_now("20")

    with serving(world.deliver) as server:
        printed = run_graph(server)

    assert printed.startswith("Not started: The principal billed for this run has no remaining")
    assert "\n- " in printed
    assert world.available() == "20"


def test_a_graph_that_uses_up_what_it_may_draw_is_stopped() -> None:
    world = world_of_now(policy=policy(**NO_STEP, overrun="stop"))

    with serving(world.deliver) as server:
        printed = run_graph(server, "the moon " * 3_000)

    assert printed == "Stopped: the run has used up what it may draw.\n"
    assert world.available() == "475"
    assert world.reserved() == "0"
