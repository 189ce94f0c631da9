"""The contracts on imports in pyproject.toml notice an import that should not be."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = Path("shared", "agent_credits")
FOLDERS = ("shared", "functions", "cli", "local", "clients/python/src")


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
    assert "7 kept, 0 broken" in answer.stdout


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


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("shared/agent_credits/values/credits.py", "agent_credits_cli.errors"),
        ("shared/agent_credits/payments/port.py", "agent_credits_local.payment_stand_in"),
        ("shared/agent_credits/sweeps/sweep.py", "agent_credits_demo.trace"),
        ("shared/agent_credits/intake/debits.py", "functions.debit_runs.app"),
        ("functions/announce/app.py", "functions.debit_runs.app"),
        ("functions/announce/app.py", "agent_credits_cli.tables"),
        ("functions/auto_reload/app.py", "agent_credits_local.emulator"),
        ("cli/agent_credits_cli/commands/send.py", "functions.debit_runs.app"),
        ("cli/agent_credits_cli/commands/grant.py", "agent_credits_cli.commands.apply"),
        ("cli/agent_credits_cli/holdings.py", "agent_credits_cli.commands.account"),
        ("cli/agent_credits_cli/target.py", "agent_credits_local.target"),
        ("cli/agent_credits_cli/commands/notices.py", "agent_credits_local.slack_stand_in"),
        ("cli/agent_credits_cli/commands/apply.py", "agent_credits_demo.sample_world"),
        ("cli/agent_credits_cli/main.py", "agent_credits_demo.samples"),
        ("local/agent_credits_local/commands.py", "agent_credits_demo.samples"),
        ("local/agent_credits_local/target.py", "agent_credits_cli.commands.watch"),
        ("local/agent_credits_demo/sample_run.py", "agent_credits_cli.commands.apply"),
        ("local/agent_credits_demo/samples.py", "agent_credits_cli.main"),
        ("local/agent_credits_demo/replay.py", "functions.sweep.app"),
        ("local/agent_credits_demo/replay.py", "agent_credits_client.runs"),
        ("shared/agent_credits/api/events.py", "agent_credits_client.messages"),
        ("clients/python/src/agent_credits_client/calls.py", "agent_credits.values.credits"),
        ("clients/python/src/agent_credits_client/calls.py", "agent_credits_cli.errors"),
    ],
)
def test_an_import_of_what_is_not_for_the_importer_fails(
    copy: Path, module: str, imported: str
) -> None:
    path = copy / module
    path.write_text(f"{path.read_text()}\nimport {imported}\n")

    answer = lint_imports(copy)

    assert answer.returncode == 1, answer.stdout
    root, *parts = module.removesuffix(".py").split("/")
    importer = ".".join([root, *parts] if root == "functions" else parts)
    importer = importer.removeprefix("python.src.")
    assert f"{importer} -> {imported} " in answer.stdout


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
