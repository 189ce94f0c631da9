"""Usage through the queue: packed, signed, repeated where SQS did not take it, and settled last."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError
from botocore.stub import Stubber

from agent_credits.billing.directory import Directory
from agent_credits.events.signatures import why_not_authentic
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits_client import (
    Invalid,
    NoAnswer,
    NotAllowed,
    Options,
    RunPaused,
    UsageNotReported,
    hmac_sha256,
)
from agent_credits_client.aws import SqsQueue
from agent_credits_client.messages import MESSAGE_BYTES_MAX, Message, calls_of, group_of, pack
from agent_credits_client.requests import RunRequest
from tests.client.world import TRIGGER, Fault, World
from tests.dispositions import rejected
from tests.integration.locked_moto import locked_moto
from tests.unit.builders import NOW, pause
from tests.unit.reservation_world import NO_STEP, policy

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

KEY = b"k" * 32


class QueueOfWorld:
    """The queue and its consumer. `faults` are met in order: a number is how many it does take."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.messages: list[Message] = []
        self.faults: list[NoAnswer | int] = []
        self._debits = Debits(world.api.rows, Directory(world.api.rows), pause)

    def send(self, messages: Sequence[Message]) -> Sequence[Message]:
        fault = self.faults.pop(0) if self.faults else len(messages)
        if isinstance(fault, NoAnswer):
            # It did arrive: only its answer is lost.
            self.messages += messages
            raise fault
        self.messages += messages[:fault]
        return messages[fault:]

    def consume(self) -> None:
        """Record all messages, in an order that a standard queue may well deliver them in."""
        first = [message for message in self.messages if not message.delay_seconds]
        random.Random(7).shuffle(first)
        waiting = first + [message for message in self.messages if message.delay_seconds]
        deliveries = [Delivery(str(n), m.body) for n, m in enumerate(waiting)]
        batch = self._debits.debit(
            deliveries, now=self.world.clock.now(), time_is_left=lambda: True
        )
        assert rejected(batch) == {}
        self.messages.clear()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def queue(world: World) -> QueueOfWorld:
    return QueueOfWorld(world)


def test_usage_and_the_end_of_a_run_go_through_the_queue(world: World, queue: QueueOfWorld) -> None:
    with world.run(queue=queue) as run:
        assert world.reserved() == "75"
        run.use("10")
        run.use("5")

    assert world.paths == ["/v1/reservations"]
    (message,) = queue.messages
    assert [event["type"] for event in json.loads(message.body)] == [
        "agent_run.usage",
        "agent_run.usage",
        "agent_run.finished",
    ]
    assert (message.group, message.delay_seconds) == ("user:ana", 0)
    queue.consume()
    assert world.drawn() == "15"
    assert (world.available(), world.reserved()) == ("485", "0")


def test_events_are_packed_and_the_end_comes_after_them(world: World, queue: QueueOfWorld) -> None:
    with world.run(queue=queue) as run:
        for _ in range(60):
            run.use("0.5")

    assert [len(json.loads(message.body)) for message in queue.messages] == [25, 25, 11]
    # A standard queue keeps no order, so the end lets the others go ahead.
    assert [message.delay_seconds for message in queue.messages] == [0, 0, 5]
    queue.consume()
    assert (world.drawn(), world.reserved()) == ("30", "0")


@pytest.mark.parametrize(
    "fault", [NoAnswer("SQS: timeout"), 0], ids=["an answer that is lost", "not taken"]
)
def test_a_message_that_sqs_may_not_have_taken_is_sent_again_and_counts_once(
    fault: NoAnswer | int, world: World, queue: QueueOfWorld
) -> None:
    with world.run(queue=queue) as run:
        run.use("10")
        queue.faults = [fault] * 3

    assert queue.faults == []
    queue.consume()
    assert (world.drawn(), world.reserved()) == ("10", "0")


def test_of_several_messages_only_those_that_were_not_taken_are_sent_again(
    world: World, queue: QueueOfWorld
) -> None:
    run = world.run(queue=queue, options=Options(flush_events=1_000)).start()
    for _ in range(250):
        run.use("0.1")
    queue.faults = [1, 0, 1]

    run.end()

    ids = [event["id"] for message in queue.messages for event in json.loads(message.body)]
    assert len(ids) == len(set(ids)) == 251
    queue.consume()
    assert world.drawn() == "25"


def test_a_queue_that_is_down_leaves_all_events_with_the_caller(
    world: World, queue: QueueOfWorld
) -> None:
    queue_is_down: list[NoAnswer | int] = [0] * 100

    with pytest.raises(UsageNotReported) as raised, world.run(queue=queue) as run:
        run.use("10")
        queue.faults = queue_is_down

    assert [event["type"] for event in raised.value.events] == [
        "agent_run.usage",
        "agent_run.finished",
    ]


def test_the_directive_is_asked_for_while_usage_goes_through_the_queue() -> None:
    world = World(policy=policy(**NO_STEP, overrun="pause"))
    queue = QueueOfWorld(world)
    options = Options(flush_events=1, poll_seconds=30)

    with pytest.raises(RunPaused), world.run(credits="10", queue=queue, options=options) as run:
        run.use("15")
        queue.consume()
        world.clock.advance(29)
        run.keep_up()
        assert "/v1/reservations/run-1" not in world.paths
        world.clock.advance(1)
        run.keep_up()
        run.check()

    assert run.reservation is not None
    assert (run.directive, run.reservation.state) == ("pause", "active")


def test_a_directive_that_cannot_be_asked_for_stops_nothing(
    world: World, queue: QueueOfWorld
) -> None:
    with world.run(queue=queue, options=Options(flush_events=1, poll_seconds=30)) as run:
        run.use("10")
        world.faults = [Fault("not_sent")] * 10
        world.clock.advance(30)
        run.keep_up()

    world.faults = []
    assert run.directive == "continue"


def event(number: int, **data: str) -> dict[str, Any]:
    request = RunRequest("run-1", "/s", "acme", {"kind": "user", "user_id": "ana"}, "1", 900)
    return request.event("usage", f"usage:{number}", NOW, credits="1", **data)


def test_a_message_is_never_longer_than_sqs_accepts() -> None:
    events = [event(n, padding="é" * 10_000) for n in range(60)]

    messages = pack(events, "user:ana")

    assert len(messages) > 1
    assert [e for m in messages for e in json.loads(m.body)] == events
    assert [i for m in messages for i in m.event_ids] == [e["id"] for e in events]
    assert all(len(m.body.encode()) <= MESSAGE_BYTES_MAX - 256 for m in messages)


def test_a_call_holds_at_most_ten_messages_and_no_more_than_sqs_accepts() -> None:
    small = [Message("x", "g", ()) for _ in range(25)]
    large = [Message("x" * 400_000, "g", ()) for _ in range(5)]

    assert [len(call) for call in calls_of(small)] == [10, 10, 5]
    assert [len(call) for call in calls_of(large)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("trigger", "group"),
    [
        (TRIGGER, "user:ana"),
        ({"kind": "team_api_key", "key_id": "k"}, "team:acme"),
        ({"kind": "schedule", "schedule_id": "s"}, "team:acme"),
        ({"kind": "user", "user_id": "u" * 128}, f"user:{'u' * 123}"),
    ],
)
def test_a_group_is_the_likely_payer(trigger: dict[str, str], group: str) -> None:
    assert group_of("acme", trigger) == group


@pytest.fixture
def sqs() -> Iterator["SQSClient"]:
    with locked_moto():
        yield boto3.Session().client("sqs", config=Config(retries={"total_max_attempts": 1}))


def test_sqs_gets_the_messages_with_their_signatures(sqs: "SQSClient") -> None:
    url = sqs.create_queue(QueueName="agent-runs")["QueueUrl"]
    messages = pack([event(1), event(2)], "user:ana") + pack([event(3)], "user:ben")

    assert SqsQueue(sqs, url, hmac_sha256("k1", KEY)).send(messages) == []

    received = sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    )["Messages"]
    assert sorted(m["Body"] for m in received) == sorted(m.body for m in messages)
    for message in received:
        signature = message["MessageAttributes"]["signature"]["StringValue"]
        assert why_not_authentic(message["Body"], signature, {"k1": KEY}.get) is None


def stubbed(sqs: "SQSClient", answer: Callable[[Stubber], None]) -> SqsQueue:
    stubber = Stubber(sqs)
    answer(stubber)
    stubber.activate()
    return SqsQueue(sqs, "https://sqs.us-east-1.amazonaws.com/1/q")


def test_messages_that_sqs_did_not_take_are_returned(sqs: "SQSClient") -> None:
    messages = [Message(f"[{n}]", "g", (str(n),)) for n in range(3)]
    taken = [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": "x"}]
    failed = [{"Id": str(n), "SenderFault": False, "Code": "InternalError"} for n in (1, 2)]
    answer = {"Successful": taken, "Failed": failed}

    queue = stubbed(sqs, lambda stub: stub.add_response("send_message_batch", answer))

    assert queue.send(messages) == messages[1:]


def test_a_message_that_sqs_will_never_take_is_refused(sqs: "SQSClient") -> None:
    failed = [{"Id": "0", "SenderFault": True, "Code": "InvalidMessageContents", "Message": "no"}]
    answer: dict[str, Any] = {"Successful": [], "Failed": failed}
    queue = stubbed(sqs, lambda stub: stub.add_response("send_message_batch", answer))

    with pytest.raises(Invalid, match="InvalidMessageContents"):
        queue.send([Message("[]", "g", ())])


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("AccessDenied", 403, NotAllowed),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, Invalid),
        ("ThrottlingException", 400, NoAnswer),
        ("RequestThrottled", 403, NoAnswer),
        ("InternalFailure", 500, NoAnswer),
        ("ServiceUnavailable", 503, NoAnswer),
    ],
)
def test_an_error_of_sqs_is_a_no_or_no_answer(
    code: str, status: int, error: type[Exception], sqs: "SQSClient"
) -> None:
    def fail(stub: Stubber) -> None:
        stub.add_client_error("send_message_batch", code, "why", status)

    with pytest.raises(error):
        stubbed(sqs, fail).send([Message("[]", "g", ())])


def test_a_timeout_of_sqs_is_no_answer(sqs: "SQSClient", monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(**_: object) -> None:
        raise ReadTimeoutError(endpoint_url="https://sqs")

    monkeypatch.setattr(sqs, "send_message_batch", time_out)

    with pytest.raises(NoAnswer, match="Read timeout"):
        SqsQueue(sqs, "https://sqs/q").send([Message("[]", "g", ())])
