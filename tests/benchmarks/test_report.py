"""What README.md and docs/explanation/benchmarks.md show is what docs/benchmarks.json says."""

import copy
import json
from pathlib import Path

import pytest

from tests.benchmarks.report import BLOCK, BLOCKS, PAGES, RESULTS_FILE, refreshed

RESULTS = json.loads(RESULTS_FILE.read_text())


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_shows_the_figures_of_the_committed_results(page: Path) -> None:
    text = page.read_text()

    assert refreshed(text, RESULTS) == text


def test_every_block_stands_on_a_page() -> None:
    named = {block["name"] for page in PAGES for block in BLOCK.finditer(page.read_text())}

    assert named == BLOCKS.keys()


def test_another_figure_is_noticed() -> None:
    results = copy.deepcopy(RESULTS)
    for model in results["modelled"]:
        model["total_dollars_per_million"] += 0.01
    for cost in results["counts"]["costs"]:
        cost["ledger_write_units"] += 0.01

    for page in PAGES:
        assert refreshed(page.read_text(), results) != page.read_text()


def test_every_committed_gate_holds() -> None:
    assert [gate["name"] for gate in RESULTS["gates"] if not gate["holds"]] == []


def test_the_results_name_no_machine_and_no_path() -> None:
    text = RESULTS_FILE.read_text()

    assert "/tmp" not in text  # noqa: S108 -- Nothing is written there.
    assert "/home" not in text
    facts = {"cores", "architecture", "memory_gb", "system", "python", "load_before"}
    assert RESULTS["machine"].keys() == facts
