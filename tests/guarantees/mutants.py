"""`make mutants`: remove each line that a guarantee rests on, in a copy, and see its test fail."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.guarantees.lines import LINES, Line

ROOT: Final = Path(__file__).parents[2]
# What the tests read; nothing is changed in the checkout itself.
COPIED: Final = (
    *("shared", "functions", "cli", "local", "tests", "events", "data", "docs", "tools"),
    *("template.yaml", "samplesconfig.toml", "samconfig.toml", "pyproject.toml", "README.md"),
)
TEST_SECONDS_MAX: Final = 600
FAILED_STATUS: Final = 1


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        _copy_to(copy)
        if _status_of(copy, [line.test for line in LINES]) != 0:
            sys.stdout.write("The tests do not even pass with every line in its place.\n")
            return 1
        survivors = [line for line in LINES if not _is_noticed(copy, line)]
    for line in survivors:
        sys.stdout.write(f"NOT noticed: {line.path} without {line.shown}\n")
    if not survivors:
        sys.stdout.write(f"Each of the {len(LINES)} lines is missed by its test.\n")
    return 1 if survivors else 0


def broken(source: str, line: Line) -> str:
    """Return the file's text without the line. Raises ValueError unless it stands there once."""
    if source.count(line.text) != 1:
        raise ValueError(f"{line.path} must hold {line.text!r} exactly once")
    return source.replace(line.text, line.broken)


def _is_noticed(copy: Path, line: Line) -> bool:
    path = copy / line.path
    source = path.read_text()
    path.write_text(broken(source, line))
    began = time.monotonic()
    try:
        # Any other status says that pytest could not run the test, which is no proof of anything.
        is_noticed = _status_of(copy, [line.test]) == FAILED_STATUS
    finally:
        path.write_text(source)
    verdict = "noticed" if is_noticed else "NOT NOTICED"
    sys.stdout.write(f"{verdict:<12} {time.monotonic() - began:>5.1f} s  {line.invariant}\n")
    sys.stdout.flush()
    return is_noticed


def _copy_to(copy: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, copy / name)


def _status_of(copy: Path, tests: list[str]) -> int:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": os.pathsep.join(
                str(copy / part) for part in ("shared", "cli", "local", ".")
            ),
            # A changed file may be as old and as long as the one that was compiled before.
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=TEST_SECONDS_MAX,
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
