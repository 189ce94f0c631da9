"""The plots are drawn as they stand in the docs, and name what they compare."""

import os
import re
from pathlib import Path

import pytest

from tests.benchmarks.bench import PLOTS_FOLDER, draw_plots
from tests.benchmarks.report import ROOT

# In a picture whose text is paths, each line of a text stands in a comment over its glyphs.
TEXT = re.compile(r"<!-- (.*) -->")
NUMBER = re.compile(r"-?\d+\.\d+")
# As far apart may two machines round: a hundredth of a point.
POINTS_APART_MAX = 0.01

OTHER_DESIGNS = {
    "(a) Powertools idempotency,",
    "(b) a transaction per event",
    "(c) a transaction per",
}
NAMED = {
    "units": {
        "this project",
        *OTHER_DESIGNS,
        "write units per event",
        "requests per event",
        "events of one account in a batch",
    },
    "dollars": {
        "this project",
        *OTHER_DESIGNS,
        "$ per million events",
        *("DynamoDB", "a year of storage", "Lambda", "SQS", "SNS"),
    },
    "rates": {
        *("this project, 1 a batch", "this project, 100 a batch"),
        *OTHER_DESIGNS,
        *("PostgreSQL, a transaction", "per event", "per 100 events"),
        "events per second, one hot account",
        "events per second, 1,000 accounts",
        "workers",
    },
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / ".tools/plots/.ready").exists():
        reason = "matplotlib is not installed; `make .tools/plots/.ready` does that"
        assert "CI" not in os.environ, reason
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("plots")
    draw_plots(folder)
    return folder


@pytest.mark.parametrize("plot", NAMED)
def test_a_plot_names_every_design_and_what_is_on_its_axes(plot: str, drawn: Path) -> None:
    texts = TEXT.findall((drawn / f"{plot}.svg").read_text())

    assert NAMED[plot] - {*texts} == set()


@pytest.mark.parametrize("plot", NAMED)
def test_the_committed_plot_is_the_one_of_the_committed_results(plot: str, drawn: Path) -> None:
    new = (drawn / f"{plot}.svg").read_text()
    committed = (PLOTS_FOLDER / f"{plot}.svg").read_text()

    assert TEXT.findall(new) == TEXT.findall(committed)
    assert [*map(float, NUMBER.findall(new))] == pytest.approx(
        [*map(float, NUMBER.findall(committed))], abs=POINTS_APART_MAX
    )


def test_every_committed_plot_is_drawn(drawn: Path) -> None:
    assert {path.name for path in drawn.iterdir()} == {p.name for p in PLOTS_FOLDER.iterdir()}
    assert {path.stem for path in drawn.iterdir()} == NAMED.keys()
