"""What holds for all tests, in one process or in several."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("agent_credits", deadline=None)
settings.load_profile("agent_credits")

# Several processes begin with what takes long, so that they end together.
FOLDERS_FIRST = ("e2e", "conformance", "simulation", "integration")
# Their tests share what a session brings up once: the embedded stack, the engines.
FOLDERS_THAT_SHARE = ("tests/e2e", "tests/conformance")
# These bring up what they use themselves, to kill it or to run it otherwise.
MODULES_APART = ("test_kills.py", "test_killed_database.py", "test_enforced_permissions.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    folder, *_ = item.path.relative_to(Path(__file__).parent).parts
    return FOLDERS_FIRST.index(folder) if folder in FOLDERS_FIRST else len(FOLDERS_FIRST)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> "DealtOut":
    # By default it would begin with the modules of most tests, which are the quick ones.
    config.option.loadscopereorder = False
    return DealtOut(config, log)


class DealtOut(LoadScopeScheduling):
    """Gives a process whole modules, or whole folders where their tests share something.

    xdist's own groups (`--dist=loadgroup`) do nothing with this version of pytest.
    """

    def _split_scope(self, nodeid: str) -> str:
        folder, _, module = nodeid.partition("::")[0].rpartition("/")
        if folder in FOLDERS_THAT_SHARE and module not in MODULES_APART:
            return folder
        return super()._split_scope(nodeid)


@pytest.fixture
def short_switch_interval() -> Iterator[None]:
    """Let threads take turns far more often than they do by default."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)
