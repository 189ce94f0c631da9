"""A change that cannot be announced: it alone is set aside, with its content, and replayed."""

import contextlib
import io
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from typer.testing import CliRunner, Result

from agent_credits.commit.write_protocol import commit
from agent_credits_cli.commands import announcements
from agent_credits_cli.main import app
from agent_credits_cli.target import Target
from tests.emitted_metrics import emitted, of_stack, watched
from tests.integration.lambda_runtime import Function, receive
from tests.integration.stream_mapping import Crash, Records, StreamMapping
from tests.integration.test_announce import observed, stream_event
from tests.memory_rows import MemoryRows
from tests.template import load_template
from tests.unit.builders import ANA, NOW, grant_change, open_account, pause, run_change, usage
from tests.unit.reload_world import RELOADING_ACME

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

Record = dict[str, Any]

UNREADABLE = json.dumps({"kind": "of_a_newer_version", "note": "a customer's words"})
THROTTLED = ClientError({"Error": {"Code": "Throttled", "Message": "slowly"}}, "Publish")
FORBIDDEN = ClientError({"Error": {"Code": "AuthorizationError", "Message": "no"}}, "Publish")
NO_KEY = ClientError({"Error": {"Code": "KMSDisabled", "Message": "off"}}, "Publish")
NO_HOST = EndpointConnectionError(endpoint_url="sns")
TIMED_OUT = ReadTimeoutError(endpoint_url="sns")
TOO_LONG = ClientError({"Error": {"Code": "InvalidParameter", "Message": "too long"}}, "Publish")


def records_of(count: int, *, unreadable: int | None = None) -> list[Record]:
    """Return the records of so many observations, in order, one of them of a newer version."""
    records = [observed(f"run-{number}", number) for number in range(count)]
    if unreadable is not None:
        records[unreadable]["dynamodb"]["NewImage"]["observation"] = {"S": UNREADABLE}
    return records


def runs_of(records: Records) -> list[str]:
    return [f"run-{int(sequence(record))}" for record in records]


def sequence(record: Record) -> str:
    return str(record["dynamodb"]["SequenceNumber"])


class Topic:
    """The topic's client: it records what is published, and refuses it while a fault is set."""

    def __init__(self) -> None:
        self.notices: list[dict[str, Any]] = []
        self.faults: dict[str, BaseException] = {}

    def publish(self, **request: Any) -> None:
        notice = json.loads(json.loads(request["Message"])["default"])
        if fault := self.faults.get(notice["subject"]) or self.faults.get("*"):
            raise fault
        self.notices.append(notice)

    @property
    def runs(self) -> list[str]:
        return [notice["subject"] for notice in self.notices]

    @property
    def ids(self) -> list[str]:
        return [notice["id"] for notice in self.notices]


class Functions:
    """Lambda's client: it invokes the function of the test."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        assert FunctionName == "announce"
        try:
            # What the function prints is not what the command prints.
            with contextlib.redirect_stdout(io.StringIO()):
                answer: Any = self.function.invoke(json.loads(Payload))
        except Crash:
            error = {"errorType": "Sandbox.Timedout", "errorMessage": "timed out after 30 s"}
            return {"FunctionError": "Unhandled", "Payload": io.BytesIO(json.dumps(error).encode())}
        return {"Payload": io.BytesIO(json.dumps(answer).encode())}


@dataclass
class World:
    """The function behind its stream, its topic and its bucket, and the operator's command."""

    function: Function
    topic: Topic
    s3: "S3Client"
    bucket: str
    mapping: StreamMapping

    def kept(self) -> dict[str, dict[str, Any]]:
        """Return each object of the bucket, as a document, by its key."""
        found = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {
            key: json.loads(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
            for key in (each["Key"] for each in found)
        }

    def records_kept(self) -> list[Record]:
        documents = self.kept().values()
        return [record for d in documents for record in json.loads(d["payload"])["Records"]]

    def operator(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["announcements", *arguments])


@pytest.fixture
def world(
    announce: Function,
    s3: "S3Client",
    failures_bucket: str,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    topic = Topic()
    monkeypatch.setattr(announce.app.topic, "_client", topic)
    outputs = target.outputs.model_copy(update={"announce_failures_bucket_name": failures_bucket})
    connected = replace(target, outputs=outputs)
    monkeypatch.setitem(connected.__dict__, "functions", Functions(announce))
    monkeypatch.setattr(announcements, "connect", lambda _: connected)
    mapping = StreamMapping(announce, s3, failures_bucket)
    return World(announce, topic, s3, failures_bucket, mapping)


@pytest.mark.parametrize("bad", [0, 1, 57, 98, 99])
def test_exactly_the_record_that_cannot_be_announced_is_set_aside(world: World, bad: int) -> None:
    records = records_of(100, unreadable=bad)

    world.mapping.deliver(records)

    assert world.records_kept() == [records[bad]]
    # All others in order, each once, and at once: no retry held them up.
    assert world.topic.runs == runs_of(records[:bad] + records[bad + 1 :])
    assert world.mapping.invocations == 1


def test_a_notice_that_sns_will_never_take_is_set_aside(world: World) -> None:
    records = records_of(3)
    world.topic.faults["run-0"] = TOO_LONG

    world.mapping.deliver(records)

    assert world.records_kept() == [records[0]]
    assert world.topic.runs == ["run-1", "run-2"]


@pytest.mark.parametrize("fault", [THROTTLED, FORBIDDEN, NO_KEY, NO_HOST, TIMED_OUT], ids=repr)
def test_a_fault_that_may_pass_sets_nothing_aside_and_keeps_the_order(
    world: World, fault: BaseException
) -> None:
    records = records_of(4)
    world.topic.faults["run-1"] = fault

    assert world.function.failed_ids({"Records": records}) == [sequence(records[1])]
    world.topic.faults.clear()
    world.mapping.deliver(records[1:])

    assert world.topic.runs == ["run-0", "run-1", "run-2", "run-3"]
    assert world.kept() == {}


def test_what_is_kept_is_the_record_as_it_was_delivered_with_the_reason(world: World) -> None:
    records = records_of(2, unreadable=1)

    assert world.function.failed_ids({"Records": records}) == []

    ((key, document),) = world.kept().items()
    assert key == f"records/{sequence(records[1])}.json"
    assert json.loads(document["payload"]) == {"Records": [records[1]]}
    assert document["requestContext"] == {"condition": "NotAnnounceable"}
    assert "of_a_newer_version" in document["responseContext"]["functionError"]
    assert "stream_records.py" in "".join(document["responseContext"]["stackTrace"])
    assert document["timestamp"] > "2026-01-01T00:00:00+00:00"


def test_the_log_names_the_object_and_quotes_nothing_of_the_row(world: World) -> None:
    world.function.invoke({"Records": records_of(1, unreadable=0)})

    (line,) = world.function.lines("set aside")
    assert line["object"] == "records/00000.json"
    assert line["error"] == "ValidationError"
    assert line["level"] == "ERROR"
    assert "newer_version" not in world.function.log.getvalue()
    assert "customer's words" not in world.function.log.getvalue()


def test_what_is_set_aside_is_counted_for_the_alarm(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.function.invoke({"Records": records_of(5, unreadable=2)})

    with_failure = emitted(capsys.readouterr().out)
    world.function.invoke({"Records": records_of(1)})
    without = emitted(capsys.readouterr().out)
    alarm = watched(load_template()["Resources"]["NoticesFailedAlarm"]["Properties"])
    assert with_failure[alarm] == 1
    assert with_failure[of_stack("NoticesPublished", "announce")] == 4
    assert alarm not in without


def test_a_record_that_is_delivered_twice_is_kept_once(world: World) -> None:
    records = records_of(1, unreadable=0)

    world.function.invoke({"Records": records})
    world.function.invoke({"Records": records})

    assert world.records_kept() == records


def test_a_record_waits_while_it_cannot_even_be_set_aside(world: World) -> None:
    records = records_of(4, unreadable=2)
    world.s3.delete_bucket(Bucket=world.bucket)

    assert world.function.failed_ids({"Records": records}) == [sequence(records[2])]
    assert world.topic.runs == ["run-0", "run-1"]
    world.s3.create_bucket(Bucket=world.bucket)
    world.mapping.deliver(records[2:])

    assert world.records_kept() == [records[2]]
    assert world.topic.runs == ["run-0", "run-1", "run-3"]


def test_a_record_that_crashes_the_function_is_isolated_by_lambda(world: World) -> None:
    records = records_of(100)
    world.topic.faults["run-57"] = Crash()

    world.mapping.deliver(records)

    assert world.records_kept() == [records[57]]
    assert list(dict.fromkeys(world.topic.runs)) == runs_of(records[:57] + records[58:])
    # What came before the crash is published again, under the id that it had.
    assert len(set(world.topic.ids)) == 99


def test_a_fault_that_does_not_pass_sets_aside_the_rest_and_a_replay_announces_it(
    world: World,
) -> None:
    records = records_of(5)
    world.topic.faults["run-2"] = FORBIDDEN

    world.mapping.deliver(records)

    assert world.mapping.invocations == 1 + 1 + world.mapping.source["MaximumRetryAttempts"]
    assert world.records_kept() == records[2:]
    world.topic.faults.clear()
    result = world.operator("replay")
    assert result.exit_code == 0, result.output
    assert "Announced 3 changes, with 3 notices." in result.stdout
    assert world.topic.runs == ["run-0", "run-1", "run-2", "run-3", "run-4"]
    assert world.kept() == {}


def test_a_replay_announces_under_the_id_that_the_stream_would_have_given(world: World) -> None:
    records = records_of(1)
    world.function.invoke({"Records": records})
    (usual,) = world.topic.ids
    world.topic.faults["*"] = TOO_LONG
    world.function.invoke({"Records": records})
    world.topic.faults.clear()

    result = world.operator("replay")

    assert result.exit_code == 0, result.output
    assert world.topic.ids == [usual, usual]
    # A second replay finds nothing, and so sends nothing.
    assert "No change is set aside" in world.operator("replay").stdout
    assert len(world.topic.ids) == 2


def test_a_replay_keeps_what_still_cannot_be_announced_and_says_why(world: World) -> None:
    records = records_of(3, unreadable=1)
    world.topic.faults["*"] = TOO_LONG
    world.function.invoke({"Records": records})
    assert len(world.kept()) == 3
    world.topic.faults.clear()

    result = world.operator("replay", "--json")

    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert (answer["announced"], answer["notices"]) == (2, 2)
    (left,) = answer["kept"]
    assert left["id"] == "records/00001.json"
    assert left["row"] == records[1]["dynamodb"]["Keys"]["pk"]["S"]
    assert "of_a_newer_version" in left["reason"]
    assert world.topic.runs == ["run-0", "run-2"]
    assert world.records_kept() == [records[1]]


def test_a_replay_of_a_batch_removes_from_it_what_was_announced(world: World) -> None:
    records = records_of(4)
    world.topic.faults["*"] = FORBIDDEN
    world.mapping.deliver(records)
    ((key, before),) = world.kept().items()
    world.topic.faults = {"run-1": TOO_LONG}

    assert world.operator("replay").exit_code == 1

    ((same_key, after),) = world.kept().items()
    assert same_key == key
    assert json.loads(after["payload"]) == {"Records": [records[1]]}
    assert {**after, "payload": ""} == {**before, "payload": ""}
    world.topic.faults.clear()
    assert world.operator("replay").exit_code == 0
    assert world.topic.runs == ["run-0", "run-2", "run-3", "run-1"]
    assert world.kept() == {}


def test_a_replay_stops_at_a_fault_that_may_pass_and_keeps_the_rest(world: World) -> None:
    records = records_of(4)
    world.topic.faults["*"] = FORBIDDEN
    world.mapping.deliver(records)
    world.topic.faults = {"run-1": THROTTLED}

    result = world.operator("replay")

    assert result.exit_code == 1
    assert "Throttled" in result.stdout
    assert "The rest was not tried." in result.stdout
    assert world.topic.runs == ["run-0"]
    assert world.records_kept() == records[1:]


def test_a_record_that_crashes_a_replay_stays_and_those_behind_it_are_announced(
    world: World,
) -> None:
    records = records_of(3)
    world.topic.faults["*"] = FORBIDDEN
    world.mapping.deliver(records)
    world.topic.faults = {"run-1": Crash()}

    result = world.operator("replay")

    assert result.exit_code == 1
    assert "Sandbox.Timedout: timed out after 30 s" in result.stdout
    assert world.topic.runs == ["run-0", "run-2"]
    assert world.records_kept() == [records[1]]


def test_an_interrupted_replay_does_not_announce_again_what_it_has_announced(world: World) -> None:
    records = records_of(3)
    world.topic.faults["*"] = FORBIDDEN
    world.mapping.deliver(records)
    world.topic.faults = {"run-1": KeyboardInterrupt()}

    world.operator("replay")

    assert world.records_kept() == records[1:]
    world.topic.faults.clear()
    assert world.operator("replay").exit_code == 0
    assert world.topic.runs == ["run-0", "run-1", "run-2"]


def test_only_the_ids_that_are_given_are_replayed(world: World) -> None:
    world.topic.faults["*"] = TOO_LONG
    world.function.invoke({"Records": records_of(3)})
    world.topic.faults.clear()

    assert world.operator("replay", "records/00001.json").exit_code == 0

    assert world.topic.runs == ["run-1"]
    assert list(world.kept()) == ["records/00000.json", "records/00002.json"]


def test_an_id_under_which_nothing_is_set_aside_is_reported(world: World) -> None:
    result = world.operator("replay", "records/1.json")

    assert result.exit_code == 2
    assert "nothing is set aside under records/1.json" in result.stderr


@pytest.mark.parametrize("command", ["list", "replay"])
def test_a_bucket_that_cannot_be_listed_is_said_in_one_line(world: World, command: str) -> None:
    world.s3.delete_bucket(Bucket=world.bucket)

    result = world.operator(command)

    assert result.exit_code == 2
    assert result.stderr.startswith("agent-credits: An error occurred (NoSuchBucket)")
    assert result.stderr.count("\n") == 1


def test_a_foreign_object_in_the_bucket_is_reported(world: World) -> None:
    world.s3.put_object(Bucket=world.bucket, Key="notes.txt", Body=b'{"payload": "{}"}')

    result = world.operator("list")

    assert result.exit_code == 2
    assert f"notes.txt in the bucket {world.bucket} is no record" in result.stderr


def test_the_list_shows_rows_and_reasons_of_both_writers(world: World) -> None:
    world.mapping.deliver(records_of(1, unreadable=0))
    world.topic.faults["*"] = FORBIDDEN
    world.mapping.deliver(records_of(3)[1:])

    shown, as_json = world.operator("list"), json.loads(world.operator("list", "--json").stdout)

    assert "records/00000.json  set aside 20" in shown.stdout
    assert "  1 change of OBSERVED#" in shown.stdout
    assert "NotAnnounceable: " in shown.stdout
    assert "  2 changes of OBSERVED#" in shown.stdout
    assert "set aside 2025-11-21 10:00 UTC" in shown.stdout
    assert "RetryAttemptsExhausted: Unhandled" in shown.stdout
    # S3 tells times to the second, so which of the two comes first is open here.
    assert {failure["condition"]: len(failure["rows"]) for failure in as_json} == {
        "NotAnnounceable": 1,
        "RetryAttemptsExhausted": 2,
    }


def test_the_list_shows_the_oldest_and_how_many_more_there_are(world: World) -> None:
    world.topic.faults["*"] = TOO_LONG
    world.function.invoke({"Records": records_of(3)})

    shown = world.operator("list", "--limit", "1").stdout

    assert shown.startswith("records/00000.json ")
    assert shown.endswith("and 2 more\n")
    assert "records/00001.json" not in shown


def test_nothing_set_aside_is_said_so(world: World) -> None:
    assert world.operator("list").stdout == "No change is set aside; all were announced.\n"
    assert json.loads(world.operator("list", "--json").stdout) == []


def test_a_replayed_commit_requests_its_reload_and_a_record_that_fails_requests_none(
    world: World, sqs: "SQSClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = MemoryRows()
    open_account(rows, grant_change("g-1", credits="150"))
    change = run_change(usage("e-1", "200"), RELOADING_ACME)
    commit(rows, ANA, [change], now=NOW, pause=pause)
    event = stream_event(rows.stream[-1:])
    reloads_url = world.function.app.settings.RELOADS_QUEUE_URL
    with monkeypatch.context() as broken:
        # A version that cannot derive the notices sends no part of them.
        broken.setattr("agent_credits.aws.announcer.notices_of", lambda *_: 1 / 0)
        assert world.function.failed_ids(event) == []
    assert receive(sqs, reloads_url) == []

    result = world.operator("replay")

    assert result.exit_code == 0, result.output
    (request,) = receive(sqs, reloads_url)
    assert json.loads(request["body"])["principal"] == "user:ana"
    assert world.kept() == {}
