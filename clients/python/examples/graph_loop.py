"""An agent as a graph, as LangGraph and its like run one: nodes, a state, an edge to the next node.

    python graph_loop.py RUN_ID "TASK"

After each node, the loop reports what that used, and hears whether to continue. The node `research`
starts a run of its own below this one, with a budget that comes out of this run's.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal

from agent_credits_client import (
    AsyncAgentCredits,
    AsyncRun,
    InsufficientCredits,
    RunPaused,
    RunStopped,
    UserTrigger,
)

TEAM_ID = "acme"
TRIGGER: UserTrigger = {"kind": "user", "user_id": "ana"}
STEPS_MAX = 20
CREDITS_PER_1000_TOKENS = Decimal("0.5")


@dataclass
class State:
    task: str
    notes: list[str] = field(default_factory=list)
    answer: str | None = None
    tokens: int = 0


@dataclass(frozen=True)
class Agent:
    """What a node has at hand."""

    credits: AsyncAgentCredits
    run: AsyncRun


# A node changes the state and returns the name of the next one, or None at the end.
Node = Callable[[State, Agent], Awaitable[str | None]]


async def model(prompt: str, state: State) -> str:
    """Stand in for a model: the answer costs a token for each character of the prompt."""
    await asyncio.sleep(0)
    state.tokens += len(prompt)
    return f"about {prompt}"


async def plan(state: State, _: Agent) -> str | None:
    state.notes.append(await model(f"plan {state.task}", state))
    return "research"


async def research(state: State, agent: Agent) -> str | None:
    """Let another agent look things up, for at most 10 credits of this run's."""
    child = agent.credits.run(
        f"{agent.run.run_id}-research-{len(state.notes)}",
        team_id=TEAM_ID,
        trigger=TRIGGER,
        credits=10,
        parent_run_id=agent.run.run_id,
    )
    async with child:
        found = State(state.task)
        for source in ("docs", "issues", "code"):
            state.notes.append(await model(f"search {source} for {state.task}", found))
        await child.use(cost_of(found.tokens))
    return "write"


async def write(state: State, _: Agent) -> str | None:
    state.answer = await model(" and ".join(state.notes), state)
    return "plan" if len(state.notes) < 8 else None


GRAPH: dict[str, Node] = {"plan": plan, "research": research, "write": write}


def cost_of(tokens: int) -> Decimal:
    """Return credits with at most 6 places; rounding is the seller's to decide."""
    return (tokens * CREDITS_PER_1000_TOKENS / 1000).quantize(Decimal("0.000001"))


async def run_graph(run_id: str, task: str, credits: AsyncAgentCredits) -> State:
    """Run the graph from `plan` until a node ends it. Raises what the run's start raises."""
    state = State(task)
    run = credits.run(run_id, team_id=TEAM_ID, trigger=TRIGGER, credits=25)
    async with run:
        agent, node = Agent(credits, run), "plan"
        for _ in range(STEPS_MAX):
            before = state.tokens
            following = await GRAPH[node](state, agent)
            await run.use(cost_of(state.tokens - before))
            # Raises RunPaused or RunStopped once the run may draw no more.
            await run.flush()
            if following is None:
                return state
            node = following
    return state


async def main(run_id: str, task: str) -> None:
    async with AsyncAgentCredits(
        os.environ["AGENT_CREDITS_URL"],
        token=os.environ["AGENT_CREDITS_TOKEN"],
        source="/examples/graph",
        on_unavailable="allow",
    ) as credits:
        try:
            state = await run_graph(run_id, task, credits)
        except InsufficientCredits as refused:
            print(f"Not started: {refused.title}", *refused.fix, sep="\n- ")
        except RunPaused:
            print("Paused. Extend the run, and start it again under the same ID.")
        except RunStopped:
            print("Stopped: the run has used up what it may draw.")
        else:
            print(f"Done with {state.tokens} tokens: {state.answer}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
