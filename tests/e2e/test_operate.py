"""What an operator does on the embedded stack: look, wait for events, move dead letters back."""

import json
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner, Result

from agent_credits.aws.sweep_queue import SqsSweepQueue
from agent_credits.sweeps.sweep import Visit
from agent_credits.values.principals import Principal
from agent_credits_cli.commands.sweep import begin
from agent_credits_cli.dead_letters import DeadLetter, read_dead_letters
from agent_credits_cli.main import app
from agent_credits_cli.queues import depth_of
from agent_credits_cli.stack_status import read_status
from agent_credits_cli.target import Target, rows_of
from agent_credits_local.stack_state import StateFolder
from tests.template import load_template
from tests.unit.builders import ACME, FAR_PAST, POLICY, grant_change, open_account, usage

SECONDS_MAX = 60.0
LOOK_EVERY_SECONDS = 0.5
LETTERS_MAX = 1_000

Found = TypeVar("Found")
Run = Callable[..., Result]


@pytest.fixture
def run(stack: Target, stack_folder: StateFolder) -> Run:
    assert stack
    folder = ("--state-dir", str(stack_folder.path))
    return lambda *arguments: CliRunner().invoke(app, [*folder, *arguments])


@pytest.fixture
def team_id() -> str:
    return f"late-{uuid.uuid4().hex[:8]}"


def once(look: Callable[[], Found | None]) -> Found:
    deadline = time.monotonic() + SECONDS_MAX
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"not within {SECONDS_MAX:.0f} s"
        time.sleep(LOOK_EVERY_SECONDS)
    return found


def letter_of(stack: Target, event_id: str) -> DeadLetter | None:
    letters = read_dead_letters(stack, LETTERS_MAX, datetime.now(UTC))
    return next((letter for letter in letters if event_id in letter.event_ids), None)


def write_event(folder: Path, document: dict[str, Any]) -> str:
    file = folder / "event.json"
    file.write_text(json.dumps(document))
    return str(file)


def test_status_can_read_everything_of_a_deployed_stack(run: Run) -> None:
    resources = load_template()["Resources"].values()
    alarms = [r for r in resources if r["Type"] == "AWS::CloudWatch::Alarm"]

    document = json.loads(run("status", "--json").stdout)

    assert document["versions"]["stack"] == document["versions"]["command_line"]
    assert document["versions"]["stack_state"].endswith("_COMPLETE")
    assert document["versions"]["runtime"].startswith("python3.")
    names = [one["queue"] for one in document["queues"]]
    assert names == ["agent-runs", "reloads", "slack", "sweeps"]
    assert None not in [one[key] for one in document["queues"] for key in ("waiting", "in_flight")]
    # Those of balance reports are not deployed there.
    assert document["alarms"]["total"] == len(alarms) - 1
    assert not [reason for reason in document["attention"] if "cannot be read" in reason]


def test_the_outputs_of_the_stack_are_those_of_the_template(run: Run, stack: Target) -> None:
    outputs = json.loads(run("outputs", "--json").stdout)

    assert set(outputs) == set(load_template()["Outputs"])
    assert outputs["AgentRunsQueueUrl"] == stack.outputs.agent_runs_queue_url


def test_a_sweep_ends_with_what_it_did(stack: Target) -> None:
    # The row says when a sweep ended in whole seconds, and one may end in the second it began in.
    began_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    time.sleep((began_at - datetime.now(UTC)).total_seconds())
    begin(stack, "reconciliation")

    def ended() -> int | None:
        last = read_status(stack, datetime.now(UTC)).sweeps["reconciliation"]
        rows: int | None = getattr(last, "rows", None)
        return rows if getattr(last, "ended_at", FAR_PAST) >= began_at else None

    rows = rows_of(stack)
    assert once(ended) == len([*rows.list_accounts(), *rows.list_limits()])


def test_a_rejected_event_is_moved_back_after_a_correction_and_debited(
    run: Run, stack: Target, team_id: str, tmp_path: Path
) -> None:
    user, event_id = f"user-of-{team_id}", f"evt-{team_id}"
    file = write_event(tmp_path, usage(event_id, "2.5", team=team_id, user=user))

    sent = run("send", "--wait", file)

    assert sent.exit_code == 1
    assert f"Not recorded: {event_id} of run-1: unknown_team: " in sent.stdout
    letter = once(lambda: letter_of(stack, event_id))
    assert letter.about == ({"event": event_id, "run": "run-1", "team": team_id},)

    rows = rows_of(stack)
    policy = rows.put_policy(POLICY)
    tenures = tuple(
        t.model_copy(update={"policy_version": policy.version, "owner": user}) for t in ACME.tenures
    )
    team = {"version": 1, "team_id": team_id, "members": frozenset({user}), "tenures": tenures}
    rows.compare_and_set_team(ACME.model_copy(update=team))
    open_account(rows, grant_change("g-1", credits="10", principal=Principal("user", user)))
    redriven = run("dead-letters", "redrive", letter.message_id, "--yes")
    again = run("send", "--wait", file)

    assert redriven.exit_code == 0, redriven.output
    assert redriven.stdout.startswith("Moved 1 dead letter back.\n")
    # It counts once, although it was sent twice.
    assert again.exit_code == 0, again.output
    assert "Recorded 1 event: 1 debited." in again.stdout
    assert run("account", f"user:{user}", "--json").stdout.count('"7.5"') > 0
    assert letter_of(stack, event_id) is None


def test_a_message_that_nobody_wants_is_deleted_for_good(
    run: Run, stack: Target, team_id: str, tmp_path: Path
) -> None:
    event_id = f"evt-{team_id}"
    run("send", write_event(tmp_path, usage(event_id, team=team_id)))
    letter = once(lambda: letter_of(stack, event_id))

    purged = run("dead-letters", "purge", letter.message_id, "--yes", "--queue", "agent-runs")

    assert purged.exit_code == 0, purged.output
    assert letter_of(stack, event_id) is None


def test_a_dead_letter_of_a_fifo_queue_is_moved_back_and_taken(run: Run, stack: Target) -> None:
    outputs = stack.outputs
    nobody = f"ACCOUNT#user:{uuid.uuid4().hex}"
    visit = Visit(sweep="reconciliation", day=datetime.now(UTC).date(), key=nobody, part=0)
    SqsSweepQueue(stack.sqs, outputs.sweeps_dead_letter_queue_url).send([visit])

    redriven = run("dead-letters", "redrive", "--all", "--yes", "--queue", "sweeps")

    assert redriven.exit_code == 0, redriven.output
    assert redriven.stdout.startswith("Moved 1 dead letter back.\n")
    once(lambda: depth_of(stack.sqs, outputs.sweeps_queue_url).total == 0 or None)
    assert depth_of(stack.sqs, outputs.sweeps_dead_letter_queue_url).total == 0
