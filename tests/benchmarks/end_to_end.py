"""The whole stack on this machine: queue, functions, tables, change stream, topic.

Emulated services, functions as processes, and this program share the machine's cores. The emulator
hands a function ten messages at most and gathers no window, so batches are smaller than on AWS.
"""

import json
import secrets
import statistics
import tempfile
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent_credits.commit.changes import GrantChange
from agent_credits_cli.subscription import Watch, subscribed
from agent_credits_cli.tables import err, progress
from agent_credits_cli.target import Target, rows_of
from agent_credits_demo.replay_run import run_replay
from agent_credits_demo.trace import ReplayOptions, plan_replay
from agent_credits_local import embedded_stack
from agent_credits_local.checkout import this_checkout
from agent_credits_local.stack_state import StateFolder
from agent_credits_local.target import connect_to_local
from tests.benchmarks.workloads import team_of_everybody, trace, users
from tests.unit.builders import POLICY, body, open_account, usage

PACKS = (1, 25)
EVENTS_OF_PACK = {1: 1_000, 25: 8_819}
PRINCIPALS = 40
NOTICES = 200
# The first few find functions that are not running yet.
NOTICES_UNCOUNTED = 5
NOTICES_SECONDS_MAX = 120
NOTICE_SECONDS_MAX = 60
WAIT_SECONDS = 5
MICROCREDIT = 1


@dataclass(frozen=True, slots=True)
class Passage:
    """Events through the whole stack; `pack` of them in each message."""

    pack: int
    events: int
    deliveries: int
    seconds: float
    deliveries_per_second: float


@dataclass(frozen=True, slots=True)
class Latency:
    """From SendMessage of a run that fails to its notice in a subscriber's queue, one at a time."""

    notices: int
    p50_milliseconds: float
    p95_milliseconds: float
    p99_milliseconds: float


@dataclass(frozen=True, slots=True)
class EndToEnd:
    passages: tuple[Passage, ...]
    latency: Latency


def measure_end_to_end() -> EndToEnd:
    """Deploy a stack of its own, measure, and take it down."""
    with tempfile.TemporaryDirectory() as path:
        folder = StateFolder(Path(path))
        try:
            embedded_stack.up(folder, this_checkout(), port=0, console=err())
            target = connect_to_local(folder)
            # First, because it starts the functions, and does not count those that it starts.
            latency = _latency(target)
            return EndToEnd(tuple(_passage(target, pack) for pack in PACKS), latency)
        finally:
            embedded_stack.discard(folder)


def _passage(target: Target, pack: int) -> Passage:
    events = EVENTS_OF_PACK[pack]
    options = ReplayOptions(secrets.token_hex(3), events, PRINCIPALS, 1)
    replayed = run_replay(target, plan_replay(trace(events), options), pack=pack, is_repeat=False)
    assert replayed.is_exact, f"the replay is not exact: {replayed.problems}"
    return Passage(
        pack=pack,
        events=events,
        deliveries=len(replayed.replay.deliveries),
        seconds=replayed.seconds,
        deliveries_per_second=replayed.events_per_second,
    )


def _latency(target: Target) -> Latency:
    team_id = f"latency-{uuid.uuid4()}"
    rows = rows_of(target)
    rows.put_policy(POLICY)
    rows.compare_and_set_team(team_of_everybody(team_id))
    (principal,) = users(1)
    grant = GrantChange(principal, str(uuid.uuid4()), "add_on", MICROCREDIT, None, "gift")
    open_account(rows, grant, now=datetime.now(UTC))
    milliseconds = []
    ends_at = time.monotonic() + NOTICES_SECONDS_MAX
    with subscribed(target) as notices, progress() as bar:
        task = bar.add_task("awaiting notices", total=NOTICES)
        while len(milliseconds) < NOTICES + NOTICES_UNCOUNTED and time.monotonic() < ends_at:
            milliseconds.append(_notice_after(target, notices, team_id, principal.id) * 1_000)
            bar.update(task, completed=max(0, len(milliseconds) - NOTICES_UNCOUNTED))
    counted = milliseconds[NOTICES_UNCOUNTED:]
    percentiles = statistics.quantiles(counted, n=100, method="inclusive")
    return Latency(len(counted), percentiles[49], percentiles[94], percentiles[98])


def _notice_after(target: Target, notices: Watch, team_id: str, user_id: str) -> float:
    """Send an event that nobody can pay; return how many seconds later its notice is there."""
    run_id = str(uuid.uuid4())
    event = usage(str(uuid.uuid4()), "1", run=run_id, team=team_id, user=user_id)
    sent_at = time.monotonic()
    target.sqs.send_message(
        QueueUrl=target.outputs.agent_runs_queue_url,
        MessageBody=body(event),
        MessageGroupId=f"user:{user_id}",
    )
    while time.monotonic() < sent_at + NOTICE_SECONDS_MAX:
        for published in notices.receive(WAIT_SECONDS):
            notice = published.notice
            if notice["type"] == "insufficient_credits" and notice["data"]["run_id"] == run_id:
                return time.monotonic() - sent_at
    raise TimeoutError(f"no notice of {json.dumps(run_id)} within {NOTICE_SECONDS_MAX} s")
