"""Each test here runs once per engine; an engine is started once for all of them."""

from collections.abc import Iterator

import pytest

from tests.conformance.engines import ENGINES, MARKS, AllRows, Engine


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=MARKS.get(name, ())) for name in ENGINES],
)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    with ENGINES[request.param](tmp_path_factory.mktemp(request.param)) as started:
        yield started


@pytest.fixture
def rows(engine: Engine) -> AllRows:
    return engine.rows
