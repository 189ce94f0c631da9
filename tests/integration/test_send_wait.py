"""`agent-credits send --wait`: it returns once the events are recorded, and names the others."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from msgspec import structs
from typer.testing import CliRunner, Result

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.ledger.reloads import Reload
from agent_credits_cli import recording
from agent_credits_cli.commands import send as send_module
from agent_credits_cli.errors import CommandGroup
from agent_credits_cli.recording import LOOK_AGAIN_SECONDS, LOOK_AGAIN_SECONDS_MAX
from agent_credits_cli.target import Target
from tests.integration.lambda_runtime import Function, cold_start, receive
from tests.unit.builders import (
    ACME,
    ANA,
    POLICY,
    finished,
    grant_change,
    open_account,
    provider_error,
    requested,
    usage,
)

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

Send = Callable[..., Result]


@dataclass
class Clock:
    """Time that passes only while the command sleeps, and what the stack does meanwhile."""

    meanwhile: Callable[[], None] = lambda: None
    seconds: float = 0.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.slept.append(seconds)
        self.meanwhile()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    there = Clock()
    monkeypatch.setattr(recording, "monotonic", there.monotonic)
    monkeypatch.setattr(recording, "sleep", there.sleep)
    monkeypatch.setattr("agent_credits_cli.dead_letter_queue.WAIT_SECONDS", 0)
    return there


@pytest.fixture(autouse=True)
def world(rows: DynamoDBRows) -> DynamoDBRows:
    rows.put_policy(POLICY)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
    open_account(rows, grant_change("g-1", credits="100"))
    return rows


@pytest.fixture(autouse=True)
def dead_letters_url(sqs: "SQSClient") -> str:
    return sqs.create_queue(QueueName="agent-runs-dead-letters")["QueueUrl"]


@pytest.fixture
def debit(
    debit_runs_environment: dict[str, str],
    queue_url: str,
    sqs: "SQSClient",
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], None]:
    """What Lambda does with the messages of the queue; what fails is received no second time."""
    function: Function = cold_start("debit_runs", debit_runs_environment, monkeypatch)

    def take_all() -> None:
        records = receive(sqs, queue_url)
        # The command's own output is read as JSON, and a function's metrics go there too.
        for record in records:
            with redirect_stdout(io.StringIO()):
                function.invoke(
                    {"Records": [record | {"attributes": {"ApproximateReceiveCount": "1"}}]}
                )

    return take_all


@pytest.fixture
def send(target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Send:
    monkeypatch.setattr(send_module, "connect", lambda _: target)
    app = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)
    app.command()(send_module.send)
    app.callback()(lambda: None)

    def send(*documents: Any, options: tuple[str, ...] = ("--wait",)) -> Result:
        file = tmp_path / "events.ndjson"
        file.write_text("\n".join(d if isinstance(d, str) else json.dumps(d) for d in documents))
        return CliRunner().invoke(app, ["send", str(file), *options])

    return send


@pytest.fixture
def report(send: Send) -> Callable[..., dict[str, Any]]:
    def report(*documents: Any, options: tuple[str, ...] = ()) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(
            send(*documents, options=("--wait", "--json", *options)).stdout
        )
        return document

    return report


def test_it_returns_once_each_event_is_recorded(
    send: Send, clock: Clock, debit: Callable[[], None]
) -> None:
    clock.meanwhile = debit

    sent = send(requested("e-1"), usage("e-2", "60"), usage("e-3", "60"), finished("e-4"))

    assert sent.exit_code == 0
    assert sent.stdout == (
        "Sent 4 events in 4 messages to moto.\n"
        "Recorded 4 events: 1 accepted, 1 debited, 1 finished, 1 insufficient.\n"
    )
    assert clock.slept == [LOOK_AGAIN_SECONDS]


def test_events_on_flushed_pages_are_found_by_their_receipts(
    report: Callable[..., dict[str, Any]], clock: Clock, debit: Callable[[], None]
) -> None:
    clock.meanwhile = debit

    document = report(*(usage(f"e-{number}", "0.5") for number in range(30)))

    assert document["recorded"] == 30
    assert document["outcomes"] == {"debited": 30}
    assert document["not_recorded"] == []


def test_the_wait_for_slow_events_grows_rarer(
    send: Send, clock: Clock, debit: Callable[[], None]
) -> None:
    clock.meanwhile = lambda: debit() if clock.seconds > 40 else None

    assert send(usage("e-1")).exit_code == 0

    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] == LOOK_AGAIN_SECONDS_MAX
    assert 40 < clock.seconds < 50


def test_an_interrupted_wait_says_what_was_decided_and_that_all_are_sent(
    send: Send, clock: Clock
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    clock.meanwhile = interrupt

    stopped = send(usage("e-1"), usage("e-2", user="nobody"))

    assert stopped.exit_code == 130
    assert "Stopped waiting: 1 of 2 events decided, all are sent." in stopped.stderr


def test_events_that_were_recorded_before_need_no_wait(
    send: Send, clock: Clock, debit: Callable[[], None]
) -> None:
    clock.meanwhile = debit
    send(usage("e-1"))
    slept = len(clock.slept)

    again = send(usage("e-1"))

    assert again.exit_code == 0
    assert again.stdout.endswith("Recorded 1 event: 1 debited.\n")
    assert len(clock.slept) == slept


def test_an_error_of_a_model_provider_is_recorded_as_an_observation(
    report: Callable[..., dict[str, Any]], clock: Clock, debit: Callable[[], None]
) -> None:
    clock.meanwhile = debit

    document = report(provider_error("e-1"))

    assert (document["outcomes"], len(clock.slept)) == ({"observed": 1}, 1)


def test_rejected_events_are_named_at_once_beside_those_that_are_recorded(
    send: Send, clock: Clock, debit: Callable[[], None]
) -> None:
    clock.meanwhile = debit
    send(usage("taken", "1"))
    clock.slept.clear()
    tomorrow = datetime.now(UTC) + timedelta(days=1)

    sent = send(
        usage("good"),
        usage("nowhere", team="nowhere"),
        usage("nobody", user="zoe"),
        usage("no-account", user="ben"),
        usage("early", time=tomorrow),
        usage("taken", "2"),
    )

    assert sent.exit_code == 1
    assert "Recorded 1 event: 1 debited.\n" in sent.stdout
    lines = [line for line in sent.stdout.splitlines() if line.startswith("Not recorded: ")]
    reasons = dict(line.split(": ", 2)[1:] for line in lines)
    assert reasons == {
        "nowhere of run-1": "unknown_team: data.team_id names a team that does not exist",
        "nobody of run-1": "unknown_user: data.trigger.user_id is not a member of the team",
        "no-account of run-1": "unknown_user: user:ben has no account",
        "early of run-1": "from_the_future: time is more than five minutes in the future",
        "taken of run-1": "conflicting: event taken was recorded with another payload",
    }
    assert len(clock.slept) == 1


def test_a_message_that_is_no_event_is_named_by_its_id(
    send: Send, clock: Clock, sqs: "SQSClient", queue_url: str
) -> None:
    sent = send("hello", options=("--unchecked", "--wait"))

    (message,) = receive(sqs, queue_url)
    assert sent.exit_code == 1
    assert f"Not recorded: message {message['messageId']}: malformed: " in sent.stdout
    assert clock.slept == []


def test_it_gives_up_when_the_time_is_up(
    report: Callable[..., dict[str, Any]], clock: Clock
) -> None:
    document = report(usage("e-1"), options=("--timeout", "7"))

    assert document["recorded"] == 0
    (missing,) = document["not_recorded"]
    assert (missing["event_id"], missing["run_id"]) == ("e-1", "run-1")
    assert (missing["code"], missing["reason"]) == (
        "not_recorded_yet",
        "it is in the queue, or being debited",
    )
    assert clock.seconds == 7


def test_what_the_stack_set_aside_is_explained_as_its_dead_letter_is(
    report: Callable[..., dict[str, Any]],
    clock: Clock,
    target: Target,
    sqs: "SQSClient",
    queue_url: str,
    dead_letters_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock.meanwhile = lambda: set_aside(sqs, queue_url, dead_letters_url)
    secret = target.secretsmanager.create_secret(
        Name="keys", SecretString=json.dumps({"k1": "a-key-of-more-than-32-characters-in-all"})
    )
    requiring = target.outputs.model_copy(
        update={"event_signatures": "require", "event_signing_secret_arn": secret["ARN"]}
    )
    monkeypatch.setattr(send_module, "connect", lambda _: replace(target, outputs=requiring))

    document = report(usage("e-1"), usage("e-2"))

    assert [one["code"] for one in document["not_recorded"]] == ["unsigned", "unsigned"]


def set_aside(sqs: "SQSClient", queue_url: str, dead_letters_url: str) -> None:
    """Receive each message as often as the queue allows, so that it is moved."""
    arn = sqs.get_queue_attributes(QueueUrl=dead_letters_url, AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": 1}
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"RedrivePolicy": json.dumps(policy)})
    for _ in range(2):
        sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, VisibilityTimeout=0)


@pytest.fixture
def reloading(world: DynamoDBRows) -> Iterator[None]:
    row = world.read_account(ANA)
    assert row is not None
    now = datetime.now(UTC)
    reload = Reload("r-1", "acme", ("plan",), "requested", 1, 1, now, now + timedelta(minutes=5))
    world.compare_and_set(structs.replace(row, version=row.version + 1, reload=reload))
    return


@pytest.mark.usefixtures("reloading")
def test_an_event_that_waits_for_a_reload_says_so(report: Callable[..., dict[str, Any]]) -> None:
    (missing,) = report(usage("e-1"))["not_recorded"]

    assert (missing["code"], missing["reason"]) == (
        "waiting_for_reload",
        "user:ana waits for a reload",
    )


def test_many_missing_events_are_counted_behind_the_first(send: Send) -> None:
    sent = send(*(usage(f"e-{number}", user="zoe") for number in range(25)))

    assert sent.stdout.count("unknown_user") == 20
    assert sent.stdout.endswith("Not recorded: 5 events more; --json names all of them\n")


def test_a_policy_that_is_not_applied_is_named(
    report: Callable[..., dict[str, Any]], rows: DynamoDBRows
) -> None:
    tenures = tuple(t.model_copy(update={"policy_version": "gone"}) for t in ACME.tenures)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 2, "tenures": tenures}))

    (missing,) = report(usage("e-1"))["not_recorded"]

    assert missing["reason"] == "policy 'gone' is not applied"


def test_a_timeout_without_a_wait_is_rejected(send: Send, sqs: "SQSClient", queue_url: str) -> None:
    rejected = send(usage("e-1"), options=("--timeout", "5"))

    assert rejected.exit_code == 2
    assert "add --wait, or leave it out" in rejected.stderr
    assert receive(sqs, queue_url) == []


def test_without_the_option_nothing_is_awaited(send: Send, clock: Clock) -> None:
    sent = send(usage("e-1"), options=())

    assert (sent.exit_code, clock.slept) == (0, [])
    assert sent.stdout == "Sent 1 event in 1 message to moto.\n"
