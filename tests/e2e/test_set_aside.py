"""A change that cannot be announced, on the embedded stack: set aside, and replayed later."""

import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agent_credits.aws.items import Item, observation_item
from agent_credits.aws.set_aside import batch_text
from agent_credits_cli.commands import announcements
from agent_credits_cli.main import app
from agent_credits_cli.set_aside import SetAside, ids_of, read, row_of
from agent_credits_cli.subscription import Watch, subscribed
from agent_credits_cli.target import Target
from tests.conformance.samples import model_provider_error

SECONDS_MAX = 40.0
LOOK_EVERY_SECONDS = 0.5


@pytest.fixture
def notices(stack: Target) -> Iterator[Watch]:
    with subscribed(stack) as watched:
        yield watched


def observation(run_id: str) -> Item:
    return observation_item(model_provider_error(run_id), datetime.now(UTC))


def put(stack: Target, item: Item) -> None:
    stack.dynamodb.put_item(TableName=stack.outputs.accounts_table_name, Item=item)


def announced(notices: Watch, runs: set[str]) -> list[dict[str, Any]]:
    """Wait until each of these runs has a notice; others may be published meanwhile."""
    found: list[dict[str, Any]] = []
    ends_at = time.monotonic() + SECONDS_MAX
    while {notice["subject"] for notice in found} != runs:
        assert time.monotonic() < ends_at, f"announced: {[n['subject'] for n in found]}"
        found += [p.notice for p in notices.receive(1) if p.notice["subject"] in runs]
    return found


def set_aside(stack: Target, row: str) -> SetAside:
    """Wait until the change of this row is set aside."""
    ends_at = time.monotonic() + SECONDS_MAX
    while True:
        for failure in (read(stack, key) for key in ids_of(stack)):
            if row in map(row_of, failure.records):
                return failure
        assert time.monotonic() < ends_at, f"the change of {row} is not set aside"
        time.sleep(LOOK_EVERY_SECONDS)


def test_a_change_of_a_newer_version_is_set_aside_and_announced_by_a_replay(
    stack: Target, notices: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = uuid.uuid4().hex[:8]
    newer = observation(f"{run}-newer")
    readable = newer["observation"]
    newer["observation"] = {"S": json.dumps({"kind": "of_a_newer_version"})}
    monkeypatch.setattr(announcements, "connect", lambda _: stack)

    def operator(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["announcements", *arguments])

    put(stack, observation(f"{run}-before"))
    put(stack, newer)
    put(stack, observation(f"{run}-behind"))

    # Those around it are announced, and it alone is kept, although the emulator never halves a
    # batch and sets nothing aside itself.
    assert len(announced(notices, {f"{run}-before", f"{run}-behind"})) == 2
    failure = set_aside(stack, newer["pk"]["S"])
    (record,) = failure.records
    assert record["dynamodb"]["NewImage"] == newer
    assert newer["pk"]["S"] in operator("list").stdout

    # The deployed version still cannot read it.
    still = operator("replay", failure.id)
    assert still.exit_code == 1
    assert "of_a_newer_version" in still.stdout
    assert set_aside(stack, newer["pk"]["S"]).records == [record]

    # As if a version that reads it had been deployed.
    record["dynamodb"]["NewImage"]["observation"] = readable
    stack.s3.put_object(
        Bucket=stack.outputs.announce_failures_bucket_name,
        Key=failure.id,
        Body=json.dumps({**failure.document, "payload": batch_text([record])}).encode(),
    )
    replayed = operator("replay", failure.id)
    assert replayed.exit_code == 0, replayed.output
    (notice,) = announced(notices, {f"{run}-newer"})
    assert notice["type"] == "provider_quota_exhausted"
    assert "nothing is set aside" in operator("replay", failure.id).stderr
