"""Notices are kept as they are published, and `agent-credits notices` lists them, newest first."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import EndpointConnectionError
from msgspec.structs import replace as replaced
from typer.testing import CliRunner, Result

from agent_credits.aws import kept_notices
from agent_credits.aws.kept_notices import KEPT_FOR, KeptNotices
from agent_credits.notices.notice import Notice, NoticeType
from agent_credits.notices.published import Published
from agent_credits_cli.commands import notices
from agent_credits_cli.main import app
from agent_credits_cli.target import Target
from tests.integration.lambda_runtime import Function
from tests.integration.test_announce import failing_runs, inbox, stream_event
from tests.unit.notices.test_model_provider_errors import EVENTS, notice_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

Run = Callable[..., Result]
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def kept(dynamodb: "DynamoDBClient", notices_table: str) -> KeptNotices:
    return KeptNotices(dynamodb, notices_table)


@pytest.fixture
def run(target: Target, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(notices, "connect", lambda _: target)
    return lambda *arguments: CliRunner().invoke(app, ["notices", *arguments])


def notice(key: str, notice_type: NoticeType = "credits_low", team_id: str = "acme") -> Notice:
    return replaced(EXAMPLE, key=key, subject=key, type=notice_type, team_id=team_id)


EXAMPLE = notice_of(EVENTS["quota_exhausted_openai"])


def subjects(found: Sequence[Published]) -> list[str]:
    return [str(published.notice["subject"]) for published in found]


def listed(kept: KeptNotices, since: datetime, until: datetime, *which: str | None) -> list[str]:
    return subjects([k.published for k in kept.newest_first(since, until, *which)])


def fault(**_: Any) -> None:
    raise EndpointConnectionError(endpoint_url="dynamodb")


def test_what_announce_published_is_kept_just_as_its_subscribers_received_it(
    announce: Function, kept: KeptNotices, sqs: "SQSClient", inbox_url: str
) -> None:
    announce.invoke(stream_event(failing_runs(3).stream))

    now = datetime.now(UTC)
    found = [k.published for k in kept.newest_first(now - timedelta(hours=1), now)]
    arrived = inbox(sqs, inbox_url)
    assert sorted(subjects(found)) == ["run-0", "run-1", "run-2"]
    assert sorted((p.notice["id"], p.subject, p.severity, str(p.notice)) for p in found) == sorted(
        (a["notice"]["id"], a["subject"], a["attributes"]["severity"], str(a["notice"]))
        for a in arrived
    )


def test_a_notice_that_could_not_be_published_is_not_kept(
    announce: Function, kept: KeptNotices
) -> None:
    asked: list[str] = []

    def fail_the_second(**_: Any) -> None:
        asked.append("Publish")
        if len(asked) == 2:
            fault()

    client = announce.app.topic._client
    client.meta.events.register("before-call.sns.Publish", fail_the_second)
    announce.invoke(stream_event(failing_runs(3).stream))

    now = datetime.now(UTC)
    assert listed(kept, now - timedelta(hours=1), now) == ["run-0"]


def test_a_table_that_does_not_answer_makes_nothing_publish_again(
    announce: Function, kept: KeptNotices, sqs: "SQSClient", inbox_url: str
) -> None:
    puts: list[str] = []
    client = announce.app.kept_notices()._client

    def fail_the_second(**_: Any) -> None:
        puts.append("PutItem")
        if len(puts) == 2:
            fault()

    client.meta.events.register("before-call.dynamodb.PutItem", fail_the_second)
    failed = announce.failed_ids(stream_event(failing_runs(4).stream))

    assert failed == []
    assert len(inbox(sqs, inbox_url)) == 4
    # The first fault ends it, so that a slow table costs one call and not one for each notice.
    assert len(puts) == 2
    (line,) = announce.lines("not kept")
    assert line["notices"] == 3
    now = datetime.now(UTC)
    assert len(listed(kept, now - timedelta(hours=1), now)) == 1


def test_the_newest_come_first_across_days_and_only_those_of_the_time(kept: KeptNotices) -> None:
    for days in range(5):
        kept.put_all([notice(f"{days} days ago")], NOON - timedelta(days=days))
    kept.put_all([notice("an hour later")], NOON + timedelta(hours=1))

    # The ends are included.
    found = listed(kept, NOON - timedelta(days=3), NOON)

    assert found == ["0 days ago", "1 days ago", "2 days ago", "3 days ago"]


def test_a_type_and_a_team_narrow_the_list(kept: KeptNotices) -> None:
    kept.put_all([notice("a"), notice("b", "drift_found"), notice("c", team_id="bigcorp")], NOON)

    yesterday = NOON - timedelta(days=1)

    assert sorted(listed(kept, yesterday, NOON)) == ["a", "b", "c"]
    assert listed(kept, yesterday, NOON, "drift_found") == ["b"]
    assert listed(kept, yesterday, NOON, None, "bigcorp") == ["c"]
    assert listed(kept, yesterday, NOON, "drift_found", "bigcorp") == []


def test_a_notice_that_was_published_twice_is_listed_once(kept: KeptNotices) -> None:
    kept.put_all([notice("a"), notice("b")], NOON)
    kept.put_all([notice("a")], NOON + timedelta(seconds=1))

    assert listed(kept, NOON, NOON + timedelta(hours=1)) == ["a", "b"]


def test_a_notice_is_kept_for_thirty_days(kept: KeptNotices, dynamodb: "DynamoDBClient") -> None:
    kept.put_all([notice("a")], NOON)

    (item,) = dynamodb.scan(TableName=kept._table)["Items"]
    assert int(item["expires_at"]["N"]) == (NOON + timedelta(days=30)).timestamp()
    # DynamoDB may take two more days to remove it.
    later = NOON + KEPT_FOR + timedelta(seconds=1)
    assert listed(kept, NOON, later) == []
    assert listed(kept, NOON, NOON + KEPT_FOR) == ["a"]


def test_a_long_day_is_read_to_its_end(kept: KeptNotices, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.put_all([notice(str(number)) for number in range(5)], NOON)
    query = kept._client.query
    monkeypatch.setattr(kept._client, "query", lambda **request: query(**request, Limit=2))

    assert sorted(listed(kept, NOON, NOON)) == ["0", "1", "2", "3", "4"]
    monkeypatch.setattr(kept_notices, "RESULT_PAGES_MAX", 2)
    with pytest.raises(RuntimeError, match="more than 2 pages"):
        listed(kept, NOON, NOON)


def test_the_command_shows_a_notice_like_watch_with_the_time_it_was_published(
    kept: KeptNotices, run: Run
) -> None:
    published_at = datetime.now(UTC) - timedelta(hours=3)
    kept.put_all([EXAMPLE], published_at)

    result = run()

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"Published {published_at:%Y-%m-%d %H:%M} UTC"
    assert EXAMPLE.email_subject in result.stdout
    assert "What to do now" in result.stdout


def test_the_command_prints_cloudevents_and_keeps_to_its_limit(kept: KeptNotices, run: Run) -> None:
    now = datetime.now(UTC)
    for hours in range(1, 5):
        kept.put_all([notice(f"{hours}h")], now - timedelta(hours=hours))

    result = run("--json", "--limit", "2")
    since = run("--json", "--since", "90m")
    by_time = run("--json", "--since", (now - timedelta(minutes=150)).isoformat())

    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events == [notice("1h").to_cloudevent(), notice("2h").to_cloudevent()]
    assert "there are more than 2; raise --limit" in result.stderr
    assert [json.loads(line)["subject"] for line in since.stdout.splitlines()] == ["1h"]
    assert "there are more" not in since.stderr
    assert [json.loads(line)["subject"] for line in by_time.stdout.splitlines()] == ["1h", "2h"]


def test_the_command_says_where_there_is_nothing(run: Run) -> None:
    result = run("--since", "2026-11-21T00:00:00Z", "--json")

    assert result.exit_code == 0
    assert result.stdout == ""
    assert "no such notice was published since 2026-11-21 00:00 UTC" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--since", "yesterday"), "'yesterday' is neither an age, such as 90s, 15m, 24h or 7d"),
        (("--since", "2026-11-21T00:00:00"), "nor a time with its zone"),
        (("--type", "credit_low"), "no notice is of type 'credit_low'; the types are"),
    ],
)
def test_a_wrong_option_is_rejected_in_one_line(
    run: Run, arguments: Sequence[str], words: str
) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_table_that_cannot_be_read_is_said_in_one_line(target: Target, run: Run) -> None:
    target.dynamodb.meta.events.register("before-call.dynamodb.Query", fault)

    result = run()

    assert result.exit_code == 2
    assert "Could not connect" in result.stderr
    assert "Traceback" not in result.output


def test_a_stack_of_an_older_version_is_told_to_deploy(target: Target) -> None:
    outputs = {**target.outputs.model_dump(by_alias=True)}
    del outputs["NoticesTableName"]

    with pytest.raises(Exception, match="has no output NoticesTableName; deploy this version"):
        replace(target, outputs=type(target.outputs).of(outputs, "the stack"))
