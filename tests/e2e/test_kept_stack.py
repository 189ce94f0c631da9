"""`local down` and `local up`: an embedded stack continues as it was, unless it is told --fresh."""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agent_credits.aws.kept_notices import KeptNotices
from agent_credits_cli.main import app
from agent_credits_cli.target import Target, rows_of
from agent_credits_cli.verification import verify_all
from agent_credits_demo.drain import messages_in
from agent_credits_local.emulator import HOST
from agent_credits_local.payment_stand_in import CARD_THAT_PAYS
from agent_credits_local.stack_state import StackState, StateFolder
from agent_credits_local.target import connect_to_local
from tests.e2e.api_calls import ApiCalls
from tests.e2e.fresh_stack import fresh_stack
from tests.e2e.reloading_team import ReloadingTeam, once, set_up_team

Local = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StateFolder]:
    with fresh_stack(tmp_path_factory.mktemp("kept")) as folder:
        yield folder


@pytest.fixture
def local(folder: StateFolder) -> Local:
    def invoke(*arguments: str) -> Result:
        command = ["--state-dir", str(folder.path), "local", *arguments]
        return CliRunner().invoke(app, command)

    return invoke


@pytest.fixture
def team(folder: StateFolder) -> ReloadingTeam:
    return set_up_team(connect_to_local(folder), CARD_THAT_PAYS)


def state_of(folder: StateFolder) -> StackState:
    state = folder.read()
    assert state is not None
    return state


def kept_by(target: Target, team: ReloadingTeam | None = None) -> list[tuple[str, str]]:
    """Type and id of each notice that is kept, newest first."""
    now = datetime.now(UTC)
    kept = KeptNotices(target.dynamodb, target.outputs.notices_table_name)
    found = kept.newest_first(
        now - timedelta(hours=1), now + timedelta(hours=1), None, team and team.team_id
    )
    return [(notice.published.type, notice.published.id) for notice in found]


def reload_once_announced(target: Target, team: ReloadingTeam, times: int) -> None:
    """Wait for the notice of a reload, each with an id of its own."""
    once(
        lambda: [kind for kind, _ in kept_by(target, team)].count("auto_reload.succeeded") == times
    )


@contextmanager
def occupied(port: int) -> Iterator[None]:
    with socket.socket() as occupant:
        # Connections of the process that had it may linger for a minute.
        occupant.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        occupant.bind((HOST, port))
        occupant.listen()
        yield


@pytest.mark.timeout(300)
def test_a_stack_that_was_stopped_continues_as_it_was(
    folder: StateFolder, local: Local, team: ReloadingTeam
) -> None:
    target, outputs = team.target, team.target.outputs
    dead_letters = outputs.agent_runs_dead_letter_queue_url
    target.sqs.send_message(QueueUrl=dead_letters, MessageBody="not JSON")
    # Debited at once, and what is left is below the threshold.
    team.use("run-1", amount="5")
    reload_once_announced(target, team, 1)
    before, kept = team.account, kept_by(target)

    stopped = local("down", "--json")
    between = local("status")
    again = local("down", "--json")
    started = local("up")

    assert (stopped.exit_code, again.exit_code, started.exit_code) == (0, 0, 0), started.output
    assert json.loads(stopped.stdout) == {
        "stopped": True,
        "kept": True,
        "changes_not_announced": 0,
    }
    assert "Not kept: what was posted to the stand-in for Slack" in stopped.stderr
    as_typed = f" --state-dir {folder.path} local up` starts it with what it held."
    assert "The local stack is stopped; `" in between.stdout
    assert as_typed in between.stdout
    assert json.loads(again.stdout)["stopped"] is False
    # Neither built nor deployed again.
    assert "sam" not in started.stderr
    assert connect_to_local(folder).outputs == outputs
    assert team.account == before
    assert kept_by(target) == kept
    assert messages_in(target, dead_letters) == 1
    assert verify_all(rows_of(target)).is_clean
    # The issuer's keys are published again.
    calls = ApiCalls(target, folder)
    path = f"/v1/accounts/{team.member}"
    assert calls.by_person(calls.token(team.member.id), "GET", path).status == 200

    # The card is still on file, and the first change of the new stream is announced: the emulator
    # would begin behind as many changes as it had announced before.
    rerun = ReloadingTeam(
        connect_to_local(folder), team.team_id, team.member, team.card, team.notices_url
    )
    rerun.use("run-2", amount="350")

    reload_once_announced(rerun.target, rerun, 2)
    assert [status for status, _ in rerun.payments] == ["succeeded"] * 2
    assert len(rerun.usages_once_decided(2)) == 2


@pytest.mark.timeout(300)
def test_a_stack_whose_port_was_taken_meanwhile_says_so_and_keeps_what_it_holds(
    folder: StateFolder, local: Local, team: ReloadingTeam
) -> None:
    port = state_of(folder).emulator.port
    local("down")
    with occupied(port):
        taken = local("up")
    elsewhere = local("up", "--port", "1")
    back = local("up", "--port", "0")

    assert taken.exit_code == 2
    assert (
        f"port {port} is taken by another process, and what the local stack holds belongs to"
        in (taken.stderr)
    )
    assert elsewhere.exit_code == 2
    assert f"what the local stack holds belongs to port {port}" in elsewhere.stderr
    assert back.exit_code == 0, back.output
    assert rows_of(connect_to_local(folder)).read_account(team.member) is not None


@pytest.mark.timeout(300)
def test_stand_ins_whose_ports_were_taken_meanwhile_get_others(
    folder: StateFolder, local: Local, team: ReloadingTeam
) -> None:
    stand_in = state_of(folder).payment_stand_in
    assert stand_in is not None
    local("down")
    with occupied(stand_in.port):
        started = local("up")

    # Deployed again, because the functions have to learn the addresses.
    assert started.exit_code == 0, started.output
    assert "sam deploy" in started.stderr
    moved = ReloadingTeam(
        connect_to_local(folder), team.team_id, team.member, team.card, team.notices_url
    )
    moved.use("run-1", amount="5")
    reload_once_announced(moved.target, moved, 1)
    assert [status for status, _ in moved.payments] == ["succeeded"]


@pytest.mark.timeout(300)
def test_a_stack_that_was_killed_says_that_it_lost_everything(
    folder: StateFolder, local: Local, team: ReloadingTeam
) -> None:
    os.kill(state_of(folder).emulator.pid, signal.SIGKILL)

    started = local("up", "--port", "0")

    assert started.exit_code == 0, started.output
    assert "was not stopped by `local down`: all it held is lost" in started.stderr
    assert rows_of(connect_to_local(folder)).read_account(team.member) is None


@pytest.mark.timeout(300)
def test_changes_that_were_not_announced_are_counted_and_a_fresh_stack_holds_nothing(
    folder: StateFolder, local: Local, team: ReloadingTeam
) -> None:
    target = connect_to_local(folder)
    lambda_: Any = target.session.client(
        "lambda", endpoint_url=target.endpoint_url, config=target.config
    )
    (mapping,) = (
        m
        for m in lambda_.list_event_source_mappings()["EventSourceMappings"]
        if ":dynamodb:" in m["EventSourceArn"]
    )
    lambda_.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
    team.use("run-1", amount="5")
    team.usages_once_decided(1)

    stopped = local("down")

    assert stopped.exit_code == 0, stopped.output
    assert "had not been announced: any notices and reloads of them are lost." in stopped.stdout

    started = local("up", "--fresh", "--port", "0")

    assert started.exit_code == 0, started.output
    assert "all it held is lost" not in started.stderr
    fresh = connect_to_local(folder)
    assert rows_of(fresh).read_account(team.member) is None
    assert fresh.payment_stand_in.payments() == []
    assert kept_by(fresh) == []
