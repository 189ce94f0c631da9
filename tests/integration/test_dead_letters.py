"""Dead letters of all queues: what they are about, moving them back, and deleting them."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner, Result

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.reload_queue import ReloadQueue
from agent_credits.aws.sweep_queue import SqsSweepQueue
from agent_credits.ledger.reloads import ReloadRequest
from agent_credits.sweeps.sweep import Visit
from agent_credits_cli import dead_letter_queue
from agent_credits_cli.commands import dead_letters
from agent_credits_cli.dead_letter_queue import held, peek
from agent_credits_cli.dead_letters import about_of
from agent_credits_cli.errors import CommandGroup
from agent_credits_cli.queues import QUEUE_NAMES, Queue, depth_of, queues_of
from agent_credits_cli.target import Target
from tests.unit.builders import ACME, ANA, NOW, POLICY, body, usage

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

Run = Callable[..., Result]

FIFO = {"FifoQueue": "true"}
ENVELOPE = json.dumps(
    {
        "Subject": "Run run-1 failed",
        "Message": json.dumps(
            {
                "specversion": "1.0",
                "id": "notice-1",
                "type": "insufficient_credits",
                "subject": "run-1",
                "time": "2026-11-21T10:00:00Z",
                "data": {"team_id": "acme"},
            }
        ),
    }
)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letter_queue, "WAIT_SECONDS", 0)


@pytest.fixture
def stack(target: Target, rows: DynamoDBRows, sqs: "SQSClient") -> Target:
    """A stack with every queue, those of Slack included."""
    rows.put_policy(POLICY)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
    urls = {}
    for name in ("slack", "agent_runs"):
        urls[f"{name}_queue_url"] = sqs.create_queue(QueueName=name)["QueueUrl"]
        dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        urls[f"{name}_dead_letter_queue_url"] = dead
    for name in ("reloads", "sweeps"):
        url = sqs.create_queue(QueueName=f"{name}.fifo", Attributes=FIFO)["QueueUrl"]
        dead = sqs.create_queue(QueueName=f"{name}-dead.fifo", Attributes=FIFO)["QueueUrl"]
        urls |= {f"{name}_queue_url": url, f"{name}_dead_letter_queue_url": dead}
    return replace(target, outputs=target.outputs.model_copy(update=urls))


@pytest.fixture
def queues(stack: Target) -> dict[str, Queue]:
    return {queue.name: queue for queue in queues_of(stack.outputs)}


@pytest.fixture
def run(stack: Target, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(dead_letters, "connect", lambda _: stack)
    app = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)
    app.add_typer(dead_letters.app, name="dead-letters")
    app.callback()(lambda: None)
    return lambda *arguments, **options: CliRunner().invoke(
        app, ["dead-letters", *arguments], **options
    )


def dead_letter_everywhere(sqs: "SQSClient", queues: dict[str, Queue]) -> None:
    """Put one message into each dead-letter queue, as its flow would have sent it."""
    dead = {name: queue.dead_letters_url for name, queue in queues.items()}
    sqs.send_message(
        QueueUrl=dead["agent-runs"],
        MessageBody=body(usage("evt-1", user="zoe")),
        MessageAttributes={"signature": {"DataType": "String", "StringValue": "k1:abc"}},
    )
    ReloadQueue(sqs, dead["reloads"]).send(ReloadRequest("reload-1", "acme", ANA))
    sqs.send_message(QueueUrl=dead["slack"], MessageBody=ENVELOPE)
    visit = Visit(sweep="reconciliation", day=NOW.date(), key="ACCOUNT#user:ana", part=0)
    SqsSweepQueue(sqs, dead["sweeps"]).send([visit])


def whole(sqs: "SQSClient", queue_url: str) -> list[dict[str, Any]]:
    """Return what is visible in a queue: bodies, attributes, groups and deduplication ids."""
    found = sqs.receive_message(
        QueueUrl=queue_url,
        MaxNumberOfMessages=10,
        VisibilityTimeout=0,
        MessageAttributeNames=["All"],
        MessageSystemAttributeNames=["MessageGroupId", "MessageDeduplicationId"],
    ).get("Messages", [])
    kept = ("Body", "MessageAttributes", "Attributes")
    return [{part: message.get(part) for part in kept} for message in found]


def ids_in(sqs: "SQSClient", queue_url: str) -> list[str]:
    return [message["MessageId"] for message in peek(sqs, queue_url, 100)]


def test_clients_are_made_in_one_thread_though_the_queues_are_read_in_several(
    run: Run, stack: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, makers = stack.session.client, list[threading.Thread]()

    def client(*arguments: Any, **options: Any) -> Any:
        makers.append(threading.current_thread())
        return make(*arguments, **options)

    monkeypatch.setattr(stack.session, "client", client)

    assert run().exit_code == 0

    assert set(makers) == {threading.main_thread()}


def test_each_queue_says_what_its_messages_are_about(
    run: Run, sqs: "SQSClient", queues: dict[str, Queue]
) -> None:
    dead_letter_everywhere(sqs, queues)

    shown = json.loads(run("--json").stdout)

    about = {letter["queue"]: letter["about"] for letter in shown}
    assert about == {
        "agent-runs": [{"event": "evt-1", "run": "run-1", "team": "acme"}],
        "reloads": [{"reload": "reload-1", "team": "acme", "account": "user:ana"}],
        "slack": [
            {
                "notice": "notice-1",
                "type": "insufficient_credits",
                "about": "run-1",
                "team": "acme",
            }
        ],
        "sweeps": [{"sweep": "reconciliation", "day": str(NOW.date()), "row": "ACCOUNT#user:ana"}],
    }
    codes = {letter["queue"]: letter["code"] for letter in shown}
    assert codes.pop("agent-runs") == "unknown_user"
    assert set(codes.values()) == {"failed"}


def test_a_reader_sees_event_run_team_and_reason(
    run: Run, sqs: "SQSClient", queues: dict[str, Queue]
) -> None:
    dead_letter_everywhere(sqs, queues)

    shown = run("--queue", "agent-runs").stdout.splitlines()

    assert shown[0].startswith("agent-runs  ")
    assert shown[1:] == [
        "  event evt-1, run run-1, team acme",
        "  unknown_user: data.trigger.user_id is not a member of the team",
    ]


@pytest.mark.parametrize(
    "unreadable",
    [
        "hello",
        "[" * 100_000,
        "[1, null]",
        '{"id": ["a"], "subject": {}, "data": 7}',
        '{"id": "\\u001b[31m"}',
    ],
)
def test_a_message_that_nobody_can_read_is_shown_without_harm(
    run: Run, sqs: "SQSClient", queues: dict[str, Queue], unreadable: str
) -> None:
    for name in ("agent-runs", "slack"):
        sqs.send_message(QueueUrl=queues[name].dead_letters_url, MessageBody=unreadable)

    shown = run()

    assert shown.exit_code == 0
    assert "malformed: " in shown.stdout
    assert "\x1b" not in shown.stdout
    assert all(about_of(name, unreadable) is not None for name in QUEUE_NAMES)


def test_events_whose_policy_is_missing_say_so(
    run: Run, rows: DynamoDBRows, sqs: "SQSClient", queues: dict[str, Queue]
) -> None:
    tenures = tuple(t.model_copy(update={"policy_version": "gone"}) for t in ACME.tenures)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 2, "tenures": tenures}))
    sqs.send_message(
        QueueUrl=queues["agent-runs"].dead_letters_url, MessageBody=body(usage("evt-1"))
    )

    shown = run()

    assert shown.exit_code == 0
    assert "  policy_missing: policy 'gone' is not applied; apply it" in shown.stdout


def test_many_events_of_one_message_are_named_in_part(
    run: Run, sqs: "SQSClient", queues: dict[str, Queue]
) -> None:
    message = body(*(usage(f"evt-{number}", user="zoe") for number in range(5)))
    sqs.send_message(QueueUrl=queues["agent-runs"].dead_letters_url, MessageBody=message)

    shown = run().stdout

    assert "event evt-2, run run-1" in shown
    assert "event evt-3" not in shown
    assert "and 2 events more" in shown
    assert len(json.loads(run("--json").stdout)[0]["about"]) == 5


def test_redriven_messages_are_what_their_flow_had_sent(
    run: Run, sqs: "SQSClient", queues: dict[str, Queue]
) -> None:
    dead_letter_everywhere(sqs, queues)
    before = {name: whole(sqs, queue.dead_letters_url) for name, queue in queues.items()}

    done = run("redrive", "--all", "--yes", "--json")

    assert done.exit_code == 0
    assert {name: whole(sqs, queue.url) for name, queue in queues.items()} == before
    assert [whole(sqs, queue.dead_letters_url) for queue in queues.values()] == [[]] * 4
    report = {each["queue"]: each for each in json.loads(done.stdout)}
    assert {name: len(each["moved_back"]) for name, each in report.items()} == dict.fromkeys(
        QUEUE_NAMES, 1
    )
    signature = before["agent-runs"][0]["MessageAttributes"]["signature"]["StringValue"]
    assert signature == "k1:abc"
    assert "MessageDeduplicationId" in before["reloads"][0]["Attributes"]


def test_only_the_messages_of_the_ids_are_moved(
    run: Run, sqs: "SQSClient", queues: dict[str, Queue]
) -> None:
    queue = queues["agent-runs"]
    for number in range(25):
        sqs.send_message(QueueUrl=queue.dead_letters_url, MessageBody=body(usage(f"e-{number}")))
    chosen = ids_in(sqs, queue.dead_letters_url)[12:14]

    done = run("redrive", *chosen, "--yes")

    assert done.stdout.startswith("Moved 2 dead letters back.\n23 dead letters of agent-runs left")
    left = ids_in(sqs, queue.dead_letters_url)
    assert len(left) == 23
    assert not set(left) & set(chosen)
    assert depth_of(sqs, queue.url).waiting == 2


def test_one_queue_can_be_chosen(run: Run, sqs: "SQSClient", queues: dict[str, Queue]) -> None:
    dead_letter_everywhere(sqs, queues)

    run("redrive", "--all", "--yes", "--queue", "slack")

    depths = {n: depth_of(sqs, queue.dead_letters_url).total for n, queue in queues.items()}
    assert depths == {"agent-runs": 1, "reloads": 1, "slack": 0, "sweeps": 1}


def test_a_message_that_fails_again_meanwhile_is_moved_once(
    run: Run,
    sqs: "SQSClient",
    queues: dict[str, Queue],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = queues["agent-runs"]
    # Whatever is sent to the queue is rejected at once: it lands where it came from.
    rejecting = replace(queue, url=queue.dead_letters_url)
    monkeypatch.setattr(dead_letters, "queues_of", lambda *_: (rejecting,))
    for number in range(3):
        sqs.send_message(QueueUrl=queue.dead_letters_url, MessageBody=f"wrong {number}")
    monkeypatch.setattr(dead_letter_queue, "depth_of", lambda *_: replace(depth, waiting=20))
    depth = depth_of(sqs, queue.dead_letters_url)

    done = run("redrive", "--all", "--yes")

    assert done.stdout.startswith("Moved 3 dead letters back.\n3 dead letters of agent-runs came")
    assert depth_of(sqs, queue.dead_letters_url).total == 3


def test_a_crash_between_sending_and_deleting_loses_nothing(
    run: Run, sqs: "SQSClient", stack: Target, queues: dict[str, Queue]
) -> None:
    queue = queues["agent-runs"]
    for number in range(3):
        sqs.send_message(QueueUrl=queue.dead_letters_url, MessageBody=f"message {number}")

    def crash(**_: object) -> None:
        raise KeyboardInterrupt

    stack.sqs.meta.events.register("before-call.sqs.DeleteMessage", crash)
    interrupted = run("redrive", "--all", "--yes")
    stack.sqs.meta.events.unregister("before-call.sqs.DeleteMessage", crash)

    assert interrupted.exit_code != 0
    # All three are there, and none of them hidden; one is in both queues.
    assert depth_of(sqs, queue.dead_letters_url).waiting == 3
    assert depth_of(sqs, queue.url).waiting == 1


def test_a_queue_that_stops_answering_says_how_far_it_came(
    run: Run, sqs: "SQSClient", queues: dict[str, Queue]
) -> None:
    queue = queues["agent-runs"]
    sqs.send_message(QueueUrl=queue.dead_letters_url, MessageBody="message")
    sqs.delete_queue(QueueUrl=queue.url)

    failed = run("redrive", "--all", "--yes")

    assert failed.exit_code == 2
    assert failed.stderr.startswith("agent-credits: 0 dead letters of agent-runs taken, then: ")
    assert depth_of(sqs, queue.dead_letters_url).waiting == 1


def test_purging_deletes_the_messages_of_the_ids_and_prints_what_they_were(
    run: Run, sqs: "SQSClient", queues: dict[str, Queue]
) -> None:
    dead_letter_everywhere(sqs, queues)
    (message_id,) = ids_in(sqs, queues["reloads"].dead_letters_url)
    (before,) = whole(sqs, queues["reloads"].dead_letters_url)

    done = run("purge", message_id, "--yes", "--json")

    report = {each["queue"]: each["deleted"] for each in json.loads(done.stdout)}
    assert report.pop("reloads") == [
        {
            "message_id": message_id,
            "about": [{"reload": "reload-1", "team": "acme", "account": "user:ana"}],
            "body": before["Body"],
        }
    ]
    assert not any(report.values())
    depths = {n: depth_of(sqs, queue.dead_letters_url).total for n, queue in queues.items()}
    assert depths == {"agent-runs": 1, "reloads": 0, "slack": 1, "sweeps": 1}
    assert [depth_of(sqs, queue.url).total for queue in queues.values()] == [0] * 4


@pytest.mark.parametrize("command", ["redrive", "purge"])
class TestConfirmation:
    def test_all_messages_are_counted_in_the_question_and_kept_after_a_no(
        self, command: str, run: Run, sqs: "SQSClient", queues: dict[str, Queue]
    ) -> None:
        dead_letter_everywhere(sqs, queues)

        answered = run(command, "--all", input="n\n")

        assert answered.exit_code == 1
        assert "(1 of agent-runs, 1 of reloads, 1 of slack, 1 of sweeps)?" in answered.stderr
        assert all(depth_of(sqs, q.dead_letters_url).total == 1 for q in queues.values())

    def test_a_yes_does_it(
        self, command: str, run: Run, sqs: "SQSClient", queues: dict[str, Queue]
    ) -> None:
        dead_letter_everywhere(sqs, queues)

        assert run(command, "--all", input="y\n").exit_code == 0

        assert all(depth_of(sqs, q.dead_letters_url).total == 0 for q in queues.values())

    def test_without_an_answer_nothing_is_done(
        self, command: str, run: Run, sqs: "SQSClient", queues: dict[str, Queue]
    ) -> None:
        dead_letter_everywhere(sqs, queues)
        (message_id,) = ids_in(sqs, queues["slack"].dead_letters_url)

        unanswered = run(command, message_id, input="")

        assert unanswered.exit_code == 2
        assert "\nagent-credits: nobody answered, so nothing was done" in unanswered.stderr
        assert "; add --yes to do it" in unanswered.stderr
        assert depth_of(sqs, queues["slack"].dead_letters_url).total == 1

    @pytest.mark.parametrize("arguments", [[], ["some-id", "--all"]])
    def test_ids_and_all_exclude_each_other(
        self, command: str, arguments: list[str], run: Run
    ) -> None:
        rejected = run(command, *arguments, "--yes")

        assert rejected.exit_code == 2
        assert "name the messages by their ids, or say --all, and not both" in rejected.stderr

    def test_an_id_that_is_not_there_is_named(
        self, command: str, run: Run, sqs: "SQSClient", queues: dict[str, Queue]
    ) -> None:
        dead_letter_everywhere(sqs, queues)

        rejected = run(command, "no-such-id", "--yes")

        assert rejected.exit_code == 2
        assert "0 dead letters taken, but not found: no-such-id; see" in rejected.stderr
        assert all(depth_of(sqs, q.dead_letters_url).waiting == 1 for q in queues.values())

    def test_an_option_of_the_list_is_not_ignored_in_silence(self, command: str, run: Run) -> None:
        rejected = run("--queue", "slack", command, "--all", "--yes")

        assert rejected.exit_code == 2
        assert f"--queue has no effect in front of {command}" in rejected.stderr


def test_a_stack_without_slack_says_so(
    run: Run, stack: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = stack.outputs.model_copy(
        update={"slack_queue_url": None, "slack_dead_letter_queue_url": None}
    )
    monkeypatch.setattr(dead_letters, "connect", lambda _: replace(stack, outputs=outputs))

    rejected = run("--queue", "slack")

    assert rejected.exit_code == 2
    assert "this stack has no queue slack; it has one where SlackNotices is true" in rejected.stderr
    assert run().stdout == "No dead letters: agent-runs, reloads, sweeps.\n"


def test_a_look_that_fails_shows_the_messages_again(
    sqs: "SQSClient", queues: dict[str, Queue]
) -> None:
    url = queues["agent-runs"].dead_letters_url
    for number in range(15):
        sqs.send_message(QueueUrl=url, MessageBody=f"message {number}")

    def look() -> None:
        with held(sqs, url, 100) as messages:
            next(iter(messages))
            assert depth_of(sqs, url).in_flight == 10
            raise RuntimeError

    with pytest.raises(RuntimeError):
        look()

    assert depth_of(sqs, url).waiting == 15


def test_a_look_ends_where_messages_appear_again(
    sqs: "SQSClient", queues: dict[str, Queue]
) -> None:
    url = queues["agent-runs"].dead_letters_url
    for number in range(12):
        sqs.send_message(QueueUrl=url, MessageBody=f"message {number}")
    # As if each call took longer than messages stay hidden.
    sqs.meta.events.register(
        "provide-client-params.sqs.ReceiveMessage",
        lambda params, **_: params | {"VisibilityTimeout": 0},
    )

    assert 10 <= len(peek(sqs, url, 100)) <= 12
