"""The distribution: what it ships, what it needs, and what it leaves to the caller to choose."""

import inspect
import re
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest

import agent_credits_client
from agent_credits_client import AgentCredits, AsyncAgentCredits, AsyncRun, Run
from agent_credits_client.wiring import USER_AGENT
from tests.unit.builders import NOW

FOLDER = Path(__file__).parents[2] / "clients" / "python"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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


@pytest.mark.parametrize("page", [FOLDER / "README.md"], ids=["README"])
def test_the_python_that_a_page_shows_compiles(page: Path) -> None:
    blocks = BLOCK.findall(page.read_text())

    assert blocks
    for block in blocks:
        compile(block, page.name, "exec")


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
