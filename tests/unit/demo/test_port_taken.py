"""If the demo's port is taken, the error says what to type instead."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent_credits_demo import replay, samples
from agent_credits_demo.main import app
from agent_credits_local.checkout import this_checkout
from agent_credits_local.emulator import HOST
from tests.unit.local.stand_in_checkout import checkout_of_stand_ins


@pytest.mark.parametrize(
    ("command", "module", "advice"),
    [
        ("samples", samples, "use any free port: `make demo PORT=0`"),
        ("replay", replay, "use any free port: `make replay PORT=0`"),
    ],
)
def test_the_advice_names_the_make_target(
    command: str, module: object, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = checkout_of_stand_ins(tmp_path / "checkout")
    (checkout.root / "data").symlink_to(this_checkout().root / "data")
    monkeypatch.setattr(module, "this_checkout", lambda: checkout)
    state = tmp_path / "state"
    with socket.socket() as occupant:
        occupant.bind((HOST, 0))
        occupant.listen()
        port = str(occupant.getsockname()[1])

        result = CliRunner().invoke(app, ["--state-dir", str(state), command, "--port", port])

    assert result.exit_code == 2
    assert result.stderr.startswith(f"agent-credits-demo: port {port} is taken")
    assert advice in result.stderr
    assert not (state / "stack.json").exists()
