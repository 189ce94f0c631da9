"""The embedded stack reports errors clearly, and stops only what it started."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent_credits_cli.errors import CommandError
from agent_credits_cli.main import app
from agent_credits_local import embedded_stack, emulator
from agent_credits_local.checkout import Checkout
from agent_credits_local.deployment import Deployment
from agent_credits_local.embedded_stack import Stopped
from agent_credits_local.emulator import Emulator
from agent_credits_local.payment_stand_in import PaymentStandIn
from agent_credits_local.session import local_session
from agent_credits_local.slack_stand_in import SlackStandIn
from agent_credits_local.stack_state import StackState, StateFolder
from agent_credits_local.target import connect_to_local
from tests.unit.local.stand_in_checkout import checkout_of_stand_ins

# A stand-in for MiniStack: a process with one worker in its group that ignores SIGTERM.
STAND_IN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[0]).with_name("worker.pid").write_text(str(worker.pid))
time.sleep(600)
"""
OUTPUTS = {
    "AgentRunsQueueUrl": "http://127.0.0.1/queue",
    "AgentRunsDeadLetterQueueUrl": "http://127.0.0.1/dead-letter-queue",
    "ReloadsQueueUrl": "http://127.0.0.1/reloads-queue",
    "ReloadsDeadLetterQueueUrl": "http://127.0.0.1/reloads-dead-letter-queue",
    "SweepsQueueUrl": "http://127.0.0.1/sweeps-queue",
    "SweepsDeadLetterQueueUrl": "http://127.0.0.1/sweeps-dead-letter-queue",
    "NoticesTopicArn": "arn:aws:sns:us-east-1:000000000000:notices",
    "AnnounceFunctionName": "announce",
    "AnnounceFailuresBucketName": "announce-failures",
    "AccountsTableName": "accounts",
    "LedgerTableName": "ledger",
}

# Neither is healthy, so there is nothing that could be kept.
NOTHING_RAN = Stopped()
STOPPED_AND_NOT_KEPT = Stopped(was_running=True)

STAND_IN_URL = "http://127.0.0.1:2"


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    folder = StateFolder(tmp_path / "state")
    folder.path.mkdir()
    return folder


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=200)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return checkout_of_stand_ins(tmp_path / "checkout")


@pytest.fixture
def emulators(tmp_path: Path) -> Iterator[list[Emulator]]:
    started = []
    for name in ("first", "second"):
        home = tmp_path / name
        home.mkdir()
        (home / "ministack.py").write_text(STAND_IN)
        started.append(
            Emulator.spawn(
                [sys.executable, "-m", "ministack"],
                emulator.free_port(),
                home / "ministack.log",
                {"PYTHONPATH": str(home), "PATH": os.defpath},
            )
        )
    for name in ("first", "second"):
        # There, and written to: the file exists before its content does.
        wait_for(lambda name=name: worker_pid_of(tmp_path / name))
    yield started
    for each in started:
        each.stop()


def worker_pid_of(home: Path) -> str:
    file = home / "worker.pid"
    return file.read_text() if file.exists() else ""


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def state_of(emulator: Emulator) -> StackState:
    return StackState(emulator=emulator, fingerprint="unchanged", outputs=OUTPUTS)


def test_an_occupied_port_is_named_and_nothing_is_started(folder, checkout, console):
    with socket.socket() as occupant:
        occupant.bind((emulator.HOST, 0))
        occupant.listen()
        port = occupant.getsockname()[1]

        with pytest.raises(
            CommandError, match=rf"port {port} is taken .* any free port: `any port`"
        ):
            embedded_stack.up(folder, checkout, port=port, on_any_port="any port", console=console)

    assert folder.read() is None


def test_missing_tools_are_named_together_with_the_command_that_installs_them(
    folder, checkout, console
):
    (checkout.sam_folder / "sam").unlink()

    with pytest.raises(CommandError, match=r"\.tools/sam/bin/sam is missing; run `make setup`"):
        embedded_stack.up(folder, checkout, port=0, console=console)


def test_a_second_command_in_the_same_folder_is_rejected(folder, checkout, console):
    with (
        folder.locked(),
        pytest.raises(CommandError, match="another command is using the local stack"),
    ):
        embedded_stack.up(folder, checkout, port=0, console=console)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "state"

    result = CliRunner().invoke(app, ["--state-dir", str(folder), "local", "down"])

    assert result.exit_code == 2
    assert f"{folder} cannot hold the local stack's state (Not a directory)" in result.stderr
    assert "--state-dir" in result.stderr


def test_a_command_fails_in_one_line_with_exit_status_2(folder):
    folder.stack_file.write_text("half a fi")

    result = CliRunner().invoke(app, ["--state-dir", str(folder.path), "local", "status"])

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("agent-credits: ")
    assert result.stderr.count("\n") == 1
    assert "is damaged" in result.stderr


def test_a_target_is_rejected_while_the_stack_is_down(folder):
    with pytest.raises(CommandError, match="not running; start it with `agent-credits local up`"):
        connect_to_local(folder)


@pytest.mark.parametrize("outputs", [{}, OUTPUTS])
def test_a_target_is_rejected_when_its_process_has_died(folder, outputs):
    died = Emulator(pid=dead_pid(), birth="once", port=emulator.free_port())
    folder.write(StackState(emulator=died, outputs=outputs))

    with pytest.raises(CommandError, match="not running"):
        connect_to_local(folder)


def test_down_forgets_a_process_that_has_died(folder):
    folder.write(state_of(Emulator(pid=dead_pid(), birth="once", port=4566)))

    assert embedded_stack.down(folder) == NOTHING_RAN
    assert folder.read() is None
    assert embedded_stack.down(folder) == NOTHING_RAN


def test_down_does_not_stop_another_process_with_a_reused_pid(folder, emulators):
    other, _ = emulators
    folder.write(state_of(other.model_copy(update={"birth": "earlier"})))

    assert embedded_stack.down(folder) == NOTHING_RAN
    assert other.is_running()


def test_down_stops_its_own_process_with_its_workers_and_no_other(folder, emulators, tmp_path):
    mine, other = emulators
    my_worker, other_worker = (
        int((tmp_path / name / "worker.pid").read_text()) for name in ("first", "second")
    )
    folder.write(state_of(mine))

    assert embedded_stack.down(folder) == STOPPED_AND_NOT_KEPT

    assert not mine.is_running()
    wait_for(lambda: emulator.birth_of(my_worker) is None)
    assert other.is_running()
    assert emulator.birth_of(other_worker) is not None


def test_down_does_not_wait_for_a_port_that_another_process_has_taken(
    folder, emulators, monkeypatch
):
    monkeypatch.setattr(emulator, "PORT_SECONDS_MAX", 0.1)
    mine, _ = emulators
    folder.write(state_of(mine))

    with socket.socket() as occupant:
        occupant.bind((emulator.HOST, mine.port))
        occupant.listen()

        assert embedded_stack.down(folder) == STOPPED_AND_NOT_KEPT

    assert not mine.is_running()
    assert folder.read() is None


STAND_INS = {"payment_stand_in": PaymentStandIn, "slack_stand_in": SlackStandIn}


def with_stand_ins(state: StackState, emulator: Emulator) -> StackState:
    """Return the state of a stack whose stand-ins are all the same process."""
    process = {"pid": emulator.pid, "birth": emulator.birth, "port": emulator.port}
    return state.model_copy(update={name: kind(**process) for name, kind in STAND_INS.items()})


@pytest.mark.parametrize("name", STAND_INS)
def test_down_stops_a_stand_in_as_well(folder, emulators, name):
    mine, other = emulators
    whole = with_stand_ins(state_of(mine), other)
    stand_in = getattr(whole, name)
    folder.write(state_of(mine).model_copy(update={name: stand_in}))

    assert embedded_stack.down(folder) == STOPPED_AND_NOT_KEPT

    assert not mine.is_running()
    assert not stand_in.is_running()


@pytest.mark.parametrize("name", STAND_INS)
def test_a_stack_without_a_stand_in_is_not_usable(emulators, monkeypatch, name):
    mine, other = emulators
    monkeypatch.setattr(Emulator, "is_healthy", Emulator.is_running)
    state = with_stand_ins(state_of(mine), other)
    assert state.is_usable()

    assert not state.model_copy(update={name: None}).is_usable()
    getattr(state, name).stop()

    assert not state.is_usable()
    assert not state_of(mine).is_usable()


@pytest.mark.parametrize(
    "address", ["", "https://api.stripe.com", "http://localhost.example.com:8420", "127.0.0.1:8420"]
)
def test_a_local_stack_never_pays_at_stripe_itself(folder, checkout, console, address):
    with pytest.raises(CommandError, match=r"pays at a stand-in on 127\.0\.0\.1"):
        Deployment(folder, checkout, "http://127.0.0.1:1", address, STAND_IN_URL, console)


@pytest.mark.parametrize(
    "address", ["", "https://hooks.slack.com", "http://localhost.example.com:8420"]
)
def test_a_local_stack_never_posts_to_slack_itself(folder, checkout, console, address):
    with pytest.raises(CommandError, match=r"posts its notices at a stand-in on 127\.0\.0\.1"):
        Deployment(folder, checkout, "http://127.0.0.1:1", STAND_IN_URL, address, console)


def test_a_zombie_counts_as_dead():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert emulator.birth_of(process.pid) is not None

    process.send_signal(signal.SIGKILL)

    wait_for(lambda: emulator.birth_of(process.pid) is None)
    process.wait()


@pytest.mark.skipif(not Path("/bin/ps").exists(), reason="this machine has no ps")
def test_ps_distinguishes_running_from_ended_processes_without_proc():
    birth = emulator.birth_by_ps(os.getpid())

    assert birth is not None
    assert birth == emulator.birth_by_ps(os.getpid())
    assert emulator.birth_by_ps(dead_pid()) is None


def test_a_failing_tool_shows_its_last_lines_and_the_path_of_its_log(folder, checkout, console):
    deployment = Deployment(
        folder, checkout, "http://127.0.0.1:1", STAND_IN_URL, STAND_IN_URL, console
    )

    with pytest.raises(CommandError, match=r"sam deploy failed; .*sam-deploy\.log"):
        deployment.deploy("any")

    assert "the reason it failed" in console.file.getvalue()


def test_the_tools_see_nothing_of_the_callers_aws_account(folder, checkout, console, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "https://sqs.example.com")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.com")

    with pytest.raises(CommandError):
        Deployment(
            folder, checkout, "http://127.0.0.1:1", STAND_IN_URL, STAND_IN_URL, console
        ).deploy("any")

    lines = folder.log_of("sam deploy").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    assert {name: value for name, value in environment.items() if name.startswith("AWS_")} == {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    assert emulator.HOST in environment["NO_PROXY"]
    assert environment["HTTP_PROXY"] == "http://proxy.example.com"


def test_each_stack_builds_in_its_own_folder(tmp_path, checkout, console):
    folders = [StateFolder(tmp_path / name) for name in ("one", "other")]
    for folder in folders:
        folder.path.mkdir()

        with pytest.raises(CommandError):
            Deployment(
                folder, checkout, "http://127.0.0.1:1", STAND_IN_URL, STAND_IN_URL, console
            ).build()

    for folder in folders:
        assert f"folder={folder.path}" in folder.log_of("sam build").read_text().splitlines()


def test_the_session_for_the_local_stack_sees_nothing_of_the_callers_aws_account(
    monkeypatch, tmp_path
):
    configuration = tmp_path / "config"
    configuration.write_text("[profile production]\nregion = eu-west-1\nrole_arn = x\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")

    session = local_session()

    credentials = session.get_credentials()
    assert (credentials.access_key, credentials.token) == ("test", None)
    client = session.client("sqs", endpoint_url="http://127.0.0.1:1")
    assert client.meta.region_name == "us-east-1"


def test_deployed_files_change_the_fingerprint_and_python_caches_do_not(checkout):
    before = checkout.fingerprint()
    cache = checkout.root / "functions" / "debit_runs" / "__pycache__"
    cache.mkdir(parents=True)
    (cache / "app.cpython-311.pyc").write_bytes(b"anything")
    assert checkout.fingerprint() == before

    (cache.parent / "app.py").write_text("handler = None\n")

    assert checkout.fingerprint() != before


def test_a_free_port_is_none_that_an_outgoing_connection_could_take_first() -> None:
    ports = {emulator.free_port() for _ in range(20)}

    assert all(emulator.is_port_free(port) for port in ports)
    assert max(ports) < 32_768


def test_a_port_that_is_taken_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as occupant:
        occupant.bind((emulator.HOST, 0))
        occupant.listen()
        taken = occupant.getsockname()[1]
        monkeypatch.setattr(emulator, "PORTS", range(taken, taken + 1))

        with pytest.raises(CommandError, match="none of 100 ports was free"):
            emulator.free_port()
