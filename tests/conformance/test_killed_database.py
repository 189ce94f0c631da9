"""A database that is killed during commits, and comes back with what it had on disk."""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config

from agent_credits.aws.backoff import back_off
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.directory import Directory
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits_cli.stack import read_stack
from agent_credits_cli.steps import carry_out, plan_steps, utc_now
from agent_credits_cli.verification import verify_all
from agent_credits_demo.replay_run import misrecorded, packed, read_entries
from agent_credits_demo.trace import TRACE_FILE, Replay, ReplayOptions, plan_replay, read_trace
from agent_credits_local.checkout import this_checkout
from agent_credits_local.emulator import HOST, free_port
from tests.conformance.dynamodb_local import dynamodb_local, require_or_skip
from tests.dispositions import postponed, rejected
from tests.integration.locked_moto import REGION
from tests.integration.stack_tables import create_tables

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

EVENTS, MEMBERS, PACK = 240, 8, 2
WORKERS, BATCH = 3, 4
KILLS = 3
WAIT_SECONDS_MAX = 90
# A worker does not wait long for a database that is gone.
IMPATIENT = Config(connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 2})
PATIENT = Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 1})


class Queue:
    """Messages that are redelivered until acknowledged; any thread may receive some."""

    def __init__(self, bodies: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._bodies = dict(enumerate(bodies))
        self._ready = deque(self._bodies)
        self.sent = len(self._bodies)

    @property
    def acknowledged(self) -> int:
        return self.sent - len(self._bodies)

    def receive(self) -> list[Delivery]:
        with self._lock:
            numbers = [self._ready.popleft() for _ in range(min(BATCH, len(self._ready)))]
            return [Delivery(str(number), self._bodies[number]) for number in numbers]

    def settle(self, deliveries: Sequence[Delivery], failed: Sequence[str]) -> None:
        with self._lock:
            for delivery in deliveries:
                number = int(delivery.message_id)
                if delivery.message_id in failed:
                    self._ready.append(number)
                else:
                    del self._bodies[number]


def work(queue: Queue, rows: DynamoDBRows, is_over: Callable[[], bool]) -> None:
    debits = Debits(rows, Directory(rows), back_off)
    while not is_over():
        deliveries = queue.receive()
        if not deliveries:
            time.sleep(0.01)
            continue
        batch = debits.debit(deliveries, now=datetime.now(UTC), time_is_left=lambda: True)
        assert not rejected(batch)
        queue.settle(deliveries, batch.failed_message_ids)
        if postponed(batch):
            # A queue would hide them for longer than this.
            time.sleep(0.1)


def wait_for(acknowledged: int, queue: Queue) -> None:
    ends_at = time.monotonic() + WAIT_SECONDS_MAX
    while queue.acknowledged < acknowledged:
        assert time.monotonic() < ends_at, f"only {queue.acknowledged} messages were acknowledged"
        time.sleep(0.01)


def client_of(port: int, config: Config) -> "DynamoDBClient":
    return boto3.client(
        "dynamodb",
        endpoint_url=f"http://{HOST}:{port}",
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config,
    )


def planned() -> Replay:
    requests = read_trace(this_checkout().root / "data" / TRACE_FILE, EVENTS)
    return plan_replay(requests, ReplayOptions(secrets.token_hex(3), EVENTS, MEMBERS, 3))


@pytest.mark.timeout(300)
def test_a_database_that_is_killed_in_the_middle_of_commits_loses_nothing(tmp_path: Path) -> None:
    require_or_skip()
    replay, port, is_over = planned(), free_port(), threading.Event()
    queue = Queue([message.body for message in packed(replay.deliveries, PACK)])
    client = client_of(port, PATIENT)
    with dynamodb_local(port, kept_in=tmp_path):
        tables = create_tables(client, "killed")
        rows = DynamoDBRows(client, *tables)
        now = datetime.now(UTC)
        steps = plan_steps(replay.world, read_stack(rows, replay.world), now)
        carry_out(rows, steps, clock=utc_now, pause=back_off)

    with ThreadPoolExecutor(WORKERS) as pool:
        impatient = DynamoDBRows(client_of(port, IMPATIENT), *tables)
        workers = [pool.submit(work, queue, impatient, is_over.is_set) for _ in range(WORKERS)]
        try:
            # It is killed whenever another part of the messages is done, and others are under way.
            for life in range(1, KILLS + 1):
                with dynamodb_local(port, kept_in=tmp_path):
                    wait_for(life * queue.sent // (KILLS + 1), queue)
            with dynamodb_local(port, kept_in=tmp_path):
                wait_for(queue.sent, queue)
                is_over.set()
                for worker in workers:
                    worker.result()
                entries = {p: read_entries(rows, p) for p in replay.principals}
                verified = verify_all(rows)
        finally:
            is_over.set()

    assert list(misrecorded(replay.events, entries)) == []
    assert verified.findings == ()
    assert verified.accounts == MEMBERS
