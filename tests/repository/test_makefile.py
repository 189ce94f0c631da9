"""Whoever reads `make` or the docs finds every target, and finds only what there is."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
# A target that is a word; what has a dot or a slash is a file that make makes.
TARGETS = {*re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE)}
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "Makefile",
]


def test_every_target_is_listed_with_what_it_does() -> None:
    listed = set(re.findall(r"^([a-z][a-z-]*):.* ## \w.+", MAKEFILE, re.MULTILINE))

    assert "test" in TARGETS
    assert listed == TARGETS


def test_no_file_of_a_target_s_name_stands_in_its_way() -> None:
    phony = {*" ".join(re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)).split()}

    assert phony - {"FORCE"} == TARGETS


@pytest.mark.parametrize("target", ["demo", "replay"])
@pytest.mark.parametrize(("given", "taken"), [([], ""), (["PORT=0"], " --port 0")])
def test_demo_and_replay_take_a_port(target: str, given: list[str], taken: str) -> None:
    make = shutil.which("make")
    assert make is not None
    planned = subprocess.run(
        [make, "--dry-run", "--no-print-directory", target, *given],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.splitlines()

    command = {"demo": "samples", "replay": "replay"}[target]
    assert planned[-1].rstrip() == f".venv/bin/agent-credits-demo {command}{taken}"


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT))
)
def test_every_target_that_a_document_names_is_there(document: Path) -> None:
    in_text = re.findall(r"(?:`|^\$ )make ([a-z][a-z-]*)", document.read_text(), re.MULTILINE)
    in_commands = re.findall(r"^make ([a-z][a-z-]*)$", document.read_text(), re.MULTILINE)

    assert {*in_text, *in_commands} <= TARGETS
