"""One version of each package everywhere: what the tests ran on is what the layer ships."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


def pins(*requirements: str) -> dict[str, str]:
    return dict(match for text in requirements for match in PIN.findall(text))


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKED = pins((ROOT / "tools" / "project.txt").read_text())
PAYMENT = pins((ROOT / "functions" / "auto_reload" / "requirements.txt").read_text())
SLACK = pins((ROOT / "functions" / "notify_slack" / "requirements.txt").read_text())
LAYER = pins((ROOT / "shared" / "requirements.txt").read_text())


def test_every_direct_dependency_is_pinned_to_what_is_locked():
    groups = PROJECT["dependency-groups"]
    groups = [requirement for group in groups.values() for requirement in group]
    # A group that another one includes is a table, and is itself among the groups.
    direct = [*PROJECT["project"]["dependencies"], *(r for r in groups if isinstance(r, str))]

    pinned = pins(*direct)

    assert len(pinned) == len({re.split(r"[\[=]", requirement)[0] for requirement in direct})
    assert pinned.items() <= LOCKED.items()


def test_the_layer_ships_the_locked_versions():
    assert LAYER.items() <= LOCKED.items()
    assert pins(*PROJECT["dependency-groups"]["layer"]).items() <= LAYER.items()


def test_the_function_that_pays_ships_the_locked_versions():
    assert PAYMENT.items() <= LOCKED.items()
    assert pins(*PROJECT["dependency-groups"]["payment"]).items() <= PAYMENT.items()


def test_the_function_that_posts_to_slack_ships_the_locked_versions():
    assert SLACK.items() <= LOCKED.items()
    assert pins(*PROJECT["dependency-groups"]["slack"]).items() <= SLACK.items()


def test_nothing_that_is_installed_comes_without_a_hash():
    functions = (ROOT / "functions").glob("*/requirements.txt")
    tools = (ROOT / "tools").glob("*.txt")
    for path in (ROOT / "shared" / "requirements.txt", *functions, *sorted(tools)):
        text = path.read_text()
        requirements = re.split(r"(?<!\\)\n", text.strip())

        assert pins(text)
        assert all("--hash=sha256:" in requirement for requirement in requirements), path
