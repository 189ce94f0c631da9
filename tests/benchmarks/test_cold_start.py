"""The least is what the docs show, every function has a first event, and its bound is held to."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.benchmarks import cold_start
from tests.benchmarks.artefacts import LEAST_SOURCE, ROOT, Artefacts, functions
from tests.benchmarks.cold_start import PROGRAM, ColdStarts, Start, Times
from tests.benchmarks.gates import SHARE_OF_LEAST_MAX, gate_on_cold_start


def start(function: str, milliseconds: float, instructions: int | None) -> Start:
    times = Times(milliseconds, None)
    return Start(function, instructions, times, times, 0, 0)


def test_the_docs_show_the_least_as_it_is() -> None:
    source = (LEAST_SOURCE / "app.py").read_text()
    imports_and_what_follows = source[source.index("import os") :]

    page = (ROOT / "docs/explanation/benchmarks.md").read_text()
    assert f"```python\n{imports_and_what_follows}```" in page


def test_every_function_of_the_checkout_is_started() -> None:
    folders = {path.parent.name for path in (ROOT / "functions").glob("*/app.py")}

    assert functions().keys() == folders


def test_the_share_is_of_instructions_and_never_of_time() -> None:
    counted = (start("least", 100, 1_000), start("debit_runs", 300, 1_200))
    uncounted = (start("least", 100, None), start("debit_runs", 300, None))

    assert ColdStarts(counted, 0, 0, None).share_of_least == 1.2
    assert ColdStarts(uncounted, 0, 0, "no valgrind").share_of_least is None


def test_a_longer_import_breaks_its_bound() -> None:
    assert gate_on_cold_start(SHARE_OF_LEAST_MAX).holds
    assert not gate_on_cold_start(SHARE_OF_LEAST_MAX + 0.01).holds


def test_without_valgrind_it_is_said_that_nothing_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert cold_start.why_uncounted() == "valgrind is not installed"


def test_a_package_is_as_large_as_its_zip(tmp_path: Path) -> None:
    function = tmp_path / "DebitRuns"
    function.mkdir()
    (function / "app.py").write_text("word " * 1_000)
    with zipfile.ZipFile(tmp_path / "by-hand.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(function / "app.py", "app.py")

    size = Artefacts(tmp_path, tmp_path).zip_bytes("DebitRuns")

    assert size == (tmp_path / "by-hand.zip").stat().st_size < 1_000


def first_event(function: Path, event: str) -> subprocess.CompletedProcess[str]:
    (function / "app.py").write_text("def handler(event, context):\n    return event\n")
    return subprocess.run(
        [sys.executable, PROGRAM, function, event],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_start_times_the_import_and_the_first_event(tmp_path: Path) -> None:
    started = first_event(tmp_path, '{"batchItemFailures": []}')

    measured = json.loads(started.stdout.splitlines()[-1])
    assert measured["import_seconds"] > 0
    assert measured["event_seconds"] >= 0


def test_an_event_that_is_not_done_is_no_measurement(tmp_path: Path) -> None:
    started = first_event(tmp_path, '{"batchItemFailures": [{"itemIdentifier": "m-1"}]}')

    assert started.returncode == 1
    assert "the first event was not done" in started.stderr
