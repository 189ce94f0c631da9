"""The function announce from its cold start on: stream records in, notices to a subscriber out."""

import base64
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import EndpointConnectionError

from agent_credits.aws.items import (
    account_item,
    account_key,
    limit_key,
    limit_row_item,
    observation_item,
)
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account
from tests.conformance.samples import model_provider_error
from tests.emitted_metrics import emitted, of_stack
from tests.integration.lambda_runtime import Function, receive
from tests.lambda_events import FOLDER
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    NOW,
    grant_change,
    open_account,
    pause,
    requested,
    run_changes,
    usage,
)
from tests.unit.limit_world import LimitWorld, limit

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


def inbox(sqs: "SQSClient", inbox_url: str) -> list[dict[str, Any]]:
    """Return what arrived: each a CloudEvent with the attributes it was filtered by."""
    envelopes = [json.loads(record["body"]) for record in receive(sqs, inbox_url)]
    return [
        {
            "notice": json.loads(envelope["Message"]),
            "subject": envelope["Subject"],
            "attributes": {
                name: attribute["Value"]
                for name, attribute in envelope["MessageAttributes"].items()
            },
        }
        for envelope in envelopes
    ]


def image(account: Account) -> dict[str, Any]:
    item = account_item(account)
    return json.loads(json.dumps(item, default=lambda b: base64.b64encode(b).decode()))


def stream_event(stream: Iterable[tuple[Account | None, Account]]) -> dict[str, Any]:
    """Return all that happened as one batch of the accounts table's change stream."""
    return {
        "Records": [
            {
                "eventName": "MODIFY" if old else "INSERT",
                "dynamodb": {
                    "Keys": account_key(new.principal),
                    **({"OldImage": image(old)} if old else {}),
                    "NewImage": image(new),
                    "SequenceNumber": f"{number:05d}",
                },
            }
            for number, (old, new) in enumerate(stream)
        ]
    }


def observed(run_id: str, number: int) -> dict[str, Any]:
    """Return the stream's record of an observation that was put."""
    item = observation_item(model_provider_error(run_id), NOW)
    return {
        "eventName": "INSERT",
        "dynamodb": {
            "Keys": {"pk": item["pk"]},
            "NewImage": item,
            "SequenceNumber": f"{number:05d}",
        },
    }


def reached_limits() -> list[dict[str, Any]]:
    """Return the records of commits that reach a limit whose runs two accounts pay for."""
    world = LimitWorld(limit("team", "100"))
    world.send(usage("e1", "60"), usage("e2", "40", user="ben", run="run-2"))
    return [
        {
            "eventName": "MODIFY" if old else "INSERT",
            "dynamodb": {
                "ApproximateCreationDateTime": int(NOW.timestamp()),
                "Keys": limit_key(new.key),
                **({"OldImage": limit_row_item(old)} if old else {}),
                "NewImage": limit_row_item(new),
                "SequenceNumber": f"{number:05d}",
            },
        }
        for number, (old, new) in enumerate(world.rows.limit_stream)
    ]


def failing_runs(count: int) -> MemoryRows:
    rows = MemoryRows()
    open_account(rows, grant_change("g-1", credits="1"))
    for number in range(count):
        changes = run_changes(usage(f"e{number}", "5", run=f"run-{number}"))
        commit(rows, ANA, changes, now=NOW, pause=pause)
    return rows


def test_a_failed_run_is_published_with_what_subscribers_filter_by(
    announce: Function, sqs: "SQSClient", inbox_url: str
) -> None:
    failed = announce.failed_ids(stream_event(failing_runs(1).stream))

    assert failed == []
    (arrived,) = inbox(sqs, inbox_url)
    assert arrived["subject"] == "Run run-0 failed: user:ana is out of credits"
    assert arrived["attributes"] == {
        "type": "insufficient_credits",
        "severity": "critical",
        "team_id": "acme",
        "principal": "user:ana",
        "retryable": "false",
    }
    notice = arrived["notice"]
    assert (notice["type"], notice["subject"]) == ("insufficient_credits", "run-0")
    assert notice["data"]["shortfall_credits"] == "4"
    assert notice["data"]["problem"] == {
        "type": (
            "https://docs.example.com"
            "/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/"
        ),
        "title": (
            "The principal billed for this run has no remaining credits. Purchase add-on "
            "credits or raise the team-wide spend cap to continue."
        ),
        "status": 403,
        "instance": "/api/v1/agent/tasks",
        "retryable": False,
    }


def test_a_commit_without_a_failed_run_publishes_nothing(
    announce: Function, sqs: "SQSClient", inbox_url: str
) -> None:
    rows = MemoryRows()
    open_account(rows)
    commit(rows, ANA, run_changes(usage("e1"), requested("e2")), now=NOW, pause=pause)

    failed = announce.failed_ids(stream_event(rows.stream))

    assert failed == []
    assert inbox(sqs, inbox_url) == []


def test_every_failed_run_of_a_batch_is_published_across_pages(
    announce: Function, sqs: "SQSClient", inbox_url: str
) -> None:
    announce.invoke(stream_event(failing_runs(20).stream))

    runs = [arrived["notice"]["data"]["run_id"] for arrived in inbox(sqs, inbox_url)]
    assert sorted(runs) == sorted(f"run-{number}" for number in range(20))


def test_published_notices_are_counted_by_type(
    announce: Function, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [*stream_event(failing_runs(2).stream)["Records"], observed("run-1", 1)]

    announce.invoke({"Records": records})

    metrics = emitted(capsys.readouterr().out)
    assert metrics[of_stack("NoticesPublished", "announce")] == 3
    failed = of_stack("NoticesPublished", "announce", type="insufficient_credits")
    exhausted = of_stack("NoticesPublished", "announce", type="provider_quota_exhausted")
    assert (metrics[failed], metrics[exhausted]) == (2, 1)


def test_a_redelivered_record_is_published_under_the_same_id(
    announce: Function, sqs: "SQSClient", inbox_url: str
) -> None:
    event = stream_event(failing_runs(3).stream)
    announce.invoke(event)
    first = [arrived["notice"] for arrived in inbox(sqs, inbox_url)]

    announce.invoke(event)

    again = [arrived["notice"] for arrived in inbox(sqs, inbox_url)]
    assert sorted(again, key=str) == sorted(first, key=str)


def test_the_stream_comes_again_from_the_record_that_could_not_be_published(
    announce: Function, sqs: "SQSClient", inbox_url: str
) -> None:
    event = stream_event(failing_runs(3).stream)
    asked: list[str] = []

    def fail_the_second(**_: Any) -> None:
        asked.append("Publish")
        if len(asked) == 2:
            raise EndpointConnectionError(endpoint_url="sns")

    client = announce.app.topic._client
    client.meta.events.register("before-call.sns.Publish", fail_the_second)
    failed = announce.failed_ids(event)

    # Record 0 opens the account, records 1 to 3 fail a run each.
    assert failed == ["00002"]
    published = [arrived["notice"]["data"]["run_id"] for arrived in inbox(sqs, inbox_url)]
    assert published == ["run-0"]
    assert len(announce.lines("not announced")) == 1
    rest = {"Records": event["Records"][2:]}
    assert announce.failed_ids(rest) == []
    published = [arrived["notice"]["data"]["run_id"] for arrived in inbox(sqs, inbox_url)]
    assert sorted(published) == ["run-1", "run-2"]


def test_a_limit_over_several_accounts_is_published_like_a_commit(
    announce: Function, sqs: "SQSClient", inbox_url: str
) -> None:
    failed = announce.failed_ids({"Records": reached_limits()})

    assert failed == []
    (arrived,) = inbox(sqs, inbox_url)
    assert arrived["notice"]["subject"] == "team:acme:month"
    assert arrived["notice"]["time"] == "2025-11-21T10:00:00Z"
    assert arrived["attributes"] == {
        "type": "limit.warning",
        "severity": "critical",
        "team_id": "acme",
        "principal": "team:acme",
        "retryable": "false",
    }


def test_an_observation_is_published_like_a_commit(
    announce: Function, sqs: "SQSClient", inbox_url: str
) -> None:
    failed = announce.failed_ids({"Records": [observed("run-1", 1)]})

    assert failed == []
    (arrived,) = inbox(sqs, inbox_url)
    assert arrived["notice"]["subject"] == "run-1"
    assert arrived["attributes"] == {
        "type": "provider_quota_exhausted",
        "severity": "critical",
        "team_id": "acme",
        "principal": "user:ana",
        "retryable": "false",
    }


def test_a_run_with_the_longest_name_is_published(
    announce: Function, sqs: "SQSClient", inbox_url: str
) -> None:
    rows = MemoryRows()
    open_account(rows, grant_change("g-1", credits="1"))
    commit(rows, ANA, run_changes(usage("e1", "5", run="r" * 128)), now=NOW, pause=pause)

    failed = announce.failed_ids(stream_event(rows.stream))

    assert failed == []
    (arrived,) = inbox(sqs, inbox_url)
    assert arrived["notice"]["data"]["run_id"] == "r" * 128


def test_the_log_names_the_notice_but_not_its_text(announce: Function) -> None:
    announce.invoke(stream_event(failing_runs(1).stream))

    (line,) = announce.lines("published")
    assert line["notice_type"] == "insufficient_credits"
    assert line["principal"] == "user:ana"
    assert "What to do now" not in announce.log.getvalue()


def test_the_sample_record_gives_one_notice(
    announce: Function, sqs: "SQSClient", inbox_url: str
) -> None:
    event = json.loads((FOLDER / "stream_insufficient.json").read_text())

    failed = announce.failed_ids(event)

    assert failed == []
    (arrived,) = inbox(sqs, inbox_url)
    assert arrived["attributes"]["principal"] == "user:eli"
    assert arrived["notice"]["data"]["task_state"] == "FAILED"
