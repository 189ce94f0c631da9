"""The end-to-end tests run on an embedded stack of their own, beside whatever else is running."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_credits_demo.sample_run import SampleRun, run_samples
from agent_credits_local.stack_state import StateFolder
from agent_credits_local.target import LocalTarget, connect_to_local
from tests.e2e.fresh_stack import fresh_stack
from tests.sample_world import SAMPLES_FILE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def stack_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StateFolder]:
    if "PYTEST_XDIST_WORKER" in os.environ:
        # The processes of one run have folders side by side. The second one fails here.
        (tmp_path_factory.getbasetemp().parent / "one-stack-for-all").touch(exist_ok=False)
    with fresh_stack(tmp_path_factory.mktemp("stack")) as folder:
        yield folder


@pytest.fixture(scope="session")
def stack(stack_folder: StateFolder) -> LocalTarget:
    return connect_to_local(stack_folder)


@pytest.fixture(scope="session")
def run(stack: LocalTarget) -> SampleRun:
    """The demo's samples, sent once for all tests that look at what came of them."""
    return run_samples(stack, SAMPLES_FILE)
