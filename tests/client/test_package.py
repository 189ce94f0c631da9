"""The distribution: what it ships, what it needs, and what it leaves to the caller to choose."""

import inspect
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest

import agent_credits_client
from agent_credits_client import AgentCredits, AgentCreditsError, AsyncAgentCredits, AsyncRun, Run
from agent_credits_client.calls import SystemClock
from agent_credits_client.messages import EVENTS_PER_MESSAGE
from agent_credits_client.runs import FINISH_DELAY_SECONDS, Options
from agent_credits_client.wiring import TTL_SECONDS, USER_AGENT
from tests.api_world import token
from tests.client.server import serving
from tests.client.world import World
from tests.unit.builders import NOW

FOLDER = Path(__file__).parents[2] / "clients" / "python"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
README = FOLDER / "README.md"
HOW_TO = FOLDER.parents[1] / "docs" / "how-to" / "client.md"
BLOCK = re.compile(r"^```python(?: title=\"[^\"]+\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("client", [AgentCredits, AsyncAgentCredits])
def test_what_an_outage_means_is_the_callers_to_choose(client: Any) -> None:
    parameter = inspect.signature(client).parameters["on_unavailable"]

    assert parameter.default is inspect.Parameter.empty
    with pytest.raises(ValueError, match="'deny' or 'allow'"):
        client("https://x", source="/s", on_unavailable="maybe")


@pytest.mark.parametrize(
    ("sync", "asynchronous"), [(AgentCredits, AsyncAgentCredits), (Run, AsyncRun)]
)
def test_both_clients_can_do_the_same_with_the_same_parameters(
    sync: Any, asynchronous: Any
) -> None:
    def surface(kind: Any) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in methods
            if not name.startswith("_") or name == "__init__"
        }

    of_sync, of_async = surface(sync), surface(asynchronous)
    assert of_sync == of_async
    assert len(of_sync) > 2


def test_it_ships_its_types_and_names_its_version() -> None:
    assert resources.files(agent_credits_client).joinpath("py.typed").is_file()
    assert metadata.version("agent-credits-client") == PROJECT["version"]
    assert USER_AGENT.endswith(f"/{PROJECT['version']}")


def test_without_the_extra_it_needs_httpx_alone() -> None:
    program = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('boto3', 'botocore', 'agent_credits', 'pydantic'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import agent_credits_client\n"
        "try:\n"
        "    import agent_credits_client.aws\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )

    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )

    assert ran.stdout == "botocore\n"


def test_the_first_run_of_the_readme_prints_what_the_readme_says() -> None:
    (program,), (printed,) = BLOCK.findall(README.read_text()), PRINTED.findall(README.read_text())
    world = World()
    world.clock = SystemClock()  # type: ignore[assignment]

    with serving(world.deliver) as server:
        env = {
            "PATH": os.defpath,
            "AGENT_CREDITS_URL": server.url,
            "AGENT_CREDITS_TOKEN": token(role="operator"),
        }
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env=env,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert ran.stdout == printed
    assert world.available() == "492.5"


def test_the_python_of_the_guide_compiles_and_names_what_there_is() -> None:
    page = HOW_TO.read_text()

    blocks = BLOCK.findall(page)
    assert len(blocks) == 5
    for block in blocks:
        # A clause that follows a block which the page has shown before.
        compile(re.sub(r"^except ", "try: ...\nexcept ", block), HOW_TO.name, "exec")
    errors = set(re.findall(r"`([A-Z]\w+)`", page.partition("## Errors")[2].partition("\n## ")[0]))
    assert errors <= {*agent_credits_client.__all__}
    raised = {name for name, kind in vars(agent_credits_client).items() if _is_raised(kind)}
    # The two that stand for others, and the one that is only ever a cause.
    assert raised - errors == {"Refused", "Directed", "NoAnswer"}


def test_the_defaults_that_the_guide_names_are_those_of_the_client() -> None:
    options = Options()

    assert (options.flush_events, options.flush_seconds) == (25, 5)
    assert (options.attempts_max, options.give_up_seconds) == (6, 30)
    assert (options.poll_seconds, options.reload_wait_seconds) == (30, 60)
    assert options.buffered_events_max == 10_000
    assert (TTL_SECONDS, FINISH_DELAY_SECONDS, EVENTS_PER_MESSAGE) == (900, 5, 100)


def _is_raised(kind: object) -> bool:
    return inspect.isclass(kind) and issubclass(kind, AgentCreditsError)


def test_the_times_of_a_run_must_have_a_zone_and_its_ttl_a_length_that_the_api_takes() -> None:
    credits = AgentCredits("https://x", source="/s", on_unavailable="deny")
    trigger: Any = {"kind": "user", "user_id": "ana"}

    with pytest.raises(ValueError, match="ttl_seconds"):
        credits.run("r", team_id="t", trigger=trigger, ttl_seconds=59)
    with pytest.raises(ValueError, match="time zone"):
        credits.run(
            "r",
            team_id="t",
            trigger=trigger,
            started_at=NOW.replace(tzinfo=None),
        )
    credits.close()
