"""The contract on imports in pyproject.toml notices an import that goes up, or across."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = Path("shared", "agent_credits")
FOLDERS = ("shared", "cli", "local")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in FOLDERS:
        unpacked = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=unpacked)
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    searched = os.pathsep.join(str(checkout / folder) for folder in FOLDERS)
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=checkout,
        env={"PATH": os.defpath, "PYTHONPATH": searched, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_rooms_import_only_downwards(copy: Path) -> None:
    answer = lint_imports(copy)

    assert answer.returncode == 0, answer.stdout
    assert "1 kept, 0 broken" in answer.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("values/credits.py", "import agent_credits.ledger.grants"),
        ("ledger/grants.py", "from agent_credits.billing.policy import BillingPolicy"),
        ("commit/decide.py", "import agent_credits.aws.items"),
        ("notices/notice.py", "import agent_credits.commit.changes"),
        ("sweeps/sweep.py", "import agent_credits.payments.port"),
    ],
)
def test_an_import_that_goes_up_or_across_fails(copy: Path, module: str, line: str) -> None:
    path = copy / PACKAGE / module
    path.write_text(f"{path.read_text()}\n{line}\n")

    answer = lint_imports(copy)

    assert answer.returncode == 1, answer.stdout
    importer = f"agent_credits.{module.removesuffix('.py').replace('/', '.')}"
    assert f"{importer} -> {line.split()[1]}" in answer.stdout


def test_a_room_that_the_contract_does_not_name_fails(copy: Path) -> None:
    (copy / PACKAGE / "attic").mkdir()
    (copy / PACKAGE / "attic" / "__init__.py").touch()

    answer = lint_imports(copy)

    assert answer.returncode == 1, answer.stdout
    assert "agent_credits.attic" in answer.stdout


def test_every_package_begins_with_an_empty_file() -> None:
    """A cold start loads only the modules that it uses."""
    beginnings = list((ROOT / PACKAGE).glob("*/__init__.py"))

    assert beginnings
    assert [path for path in beginnings if path.read_text()] == []
