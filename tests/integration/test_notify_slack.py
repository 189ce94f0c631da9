"""The function notify_slack from its cold start on: what a queue holds, and what Slack receives.

The topic, the queues and the table are moto's, made from the template; Slack is the stand-in, over
real HTTP.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from msgspec.structs import replace

from agent_credits.aws.topic import NoticesTopic
from agent_credits.notices.notice import Notice
from agent_credits_local.slack_server import Answer, Message, SlackServer
from tests.emitted_metrics import emitted, of_stack, watched
from tests.integration.lambda_runtime import Function, cold_start
from tests.integration.stack_tables import create_table_request
from tests.template import load_template
from tests.unit.builders import ANA, CARD, NOW
from tests.unit.notices.every_notice import EXAMPLES

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

HOOK = "/services/T000/B000/default-secret"
ACME_HOOK = "/services/T000/B000/acme-secret"
RECEIVES_MAX = load_template()["Resources"]["SlackQueue"]["Properties"]["RedrivePolicy"][
    "maxReceiveCount"
]
# The longest that a test waits; only a hang takes this long.
SECONDS_MAX = 30.0

NOTICE = Notice(
    type="insufficient_credits",
    severity="critical",
    principal=ANA,
    team_id="acme",
    key="run-1",
    subject="run-1",
    time=NOW,
    retryable=False,
    data={"run_id": "run-1", "team_id": "acme", "principal": "user:ana"},
    email_subject="Run run-1 failed: user:ana is out of credits",
    email_text="Run run-1 failed.\n",
)


@pytest.fixture
def slack() -> Iterator[SlackServer]:
    server = SlackServer(0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def base_of(slack: SlackServer) -> str:
    return f"http://127.0.0.1:{slack.server_port}"


def answers(slack: SlackServer, status: int, body: str, **more: Any) -> None:
    """Prepare an answer of Slack, for one post or for `times` posts."""
    answer: Answer = {"path": HOOK, "status": status, "body": body, "retry_after": "", "times": 1}
    slack.memory.answers.append({**answer, **more})  # type: ignore[typeddict-item]


@dataclass
class SlackFlow:
    """The function with its queues, and Lambda's poller between them."""

    function: Function
    sqs: "SQSClient"
    topic: NoticesTopic
    queue_url: str
    dead_letters_url: str
    slack: SlackServer

    def publish(self, *notices: Notice) -> None:
        for notice in notices:
            self.topic.publish(notice)

    def receive(self) -> dict[str, Any] | None:
        """Return the next visible message as Lambda delivers it, or None."""
        messages = self.sqs.receive_message(
            QueueUrl=self.queue_url, AttributeNames=["ApproximateReceiveCount"]
        ).get("Messages", [])
        return next(iter(map(_record, messages)), None)

    def deliver(self, record: dict[str, Any]) -> bool:
        """Hand one message to the function and delete it if that is its answer."""
        failed = self.function.failed_ids({"Records": [record]})
        if not failed:
            self.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=record["receiptHandle"])
        return not failed

    def deliver_visible(self) -> int:
        """Deliver what is visible until nothing is; return how many deliveries that took."""
        deliveries = 0
        while (record := self.receive()) is not None:
            self.deliver(record)
            deliveries += 1
            assert deliveries <= 10 * RECEIVES_MAX, "a message is delivered again forever"
        return deliveries

    def deliver_all(self) -> None:
        """Deliver until no message is left, visible or waiting."""
        gives_up_at = time.monotonic() + SECONDS_MAX
        while self.left(self.queue_url):
            assert time.monotonic() < gives_up_at, "messages are left in the queue"
            self.deliver_visible()
            time.sleep(0.02)

    def left(self, queue_url: str) -> int:
        """Count the messages of a queue, visible or waiting.

        The waiting are counted first: one whose wait ends in between is counted twice, where the
        other way round it would be counted nowhere.
        """
        names: Any = ("ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessages")
        counts = [
            self.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=[name])["Attributes"]
            for name in names
        ]
        return sum(int(count[name]) for count, name in zip(counts, names, strict=True))

    @property
    def posted(self) -> list[Message]:
        return self.slack.memory.messages

    @property
    def reasons(self) -> list[str]:
        return [line["reason"] for line in self.function.lines("not posted")]


def _record(message: Any) -> dict[str, Any]:
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
    }


@pytest.fixture
def environment(aws: boto3.Session, sqs: "SQSClient", slack: SlackServer) -> dict[str, str]:
    resources = load_template()["Resources"]
    dead_letters = sqs.create_queue(QueueName="slack-dead-letters")["QueueUrl"]
    redrive = {"deadLetterTargetArn": arn_of(sqs, dead_letters), "maxReceiveCount": RECEIVES_MAX}
    queue_url = sqs.create_queue(
        QueueName="slack",
        Attributes={
            "RedrivePolicy": json.dumps(redrive),
            "VisibilityTimeout": str(resources["SlackQueue"]["Properties"]["VisibilityTimeout"]),
        },
    )["QueueUrl"]
    aws.client("dynamodb").create_table(
        TableName="slack-posts", **create_table_request(resources["SlackPostsTable"]["Properties"])
    )
    secret = aws.client("secretsmanager").create_secret(
        Name="slack", SecretString=f"{base_of(slack)}{HOOK}\n"
    )
    return {
        "STACK_NAME": "agent-credits",
        "SLACK_QUEUE_URL": queue_url,
        "SLACK_SECRET_ARN": secret["ARN"],
        "SLACK_POSTS_TABLE": "slack-posts",
        "SLACK_API_BASE": base_of(slack),
    }


def arn_of(sqs: "SQSClient", queue_url: str) -> str:
    queue = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    return queue["Attributes"]["QueueArn"]


@pytest.fixture
def sns(aws: boto3.Session) -> "SNSClient":
    return aws.client("sns")


@pytest.fixture
def flow(
    environment: dict[str, str],
    sqs: "SQSClient",
    sns: "SNSClient",
    slack: SlackServer,
    monkeypatch: pytest.MonkeyPatch,
) -> SlackFlow:
    properties = load_template()["Resources"]["SlackSubscription"]["Properties"]
    severities = load_template()["Parameters"]["SlackSeverities"]["Default"].split(",")
    policy = json.loads(
        json.dumps(properties["FilterPolicy"]).replace(
            '{"Ref": "SlackSeverities"}', json.dumps(severities)
        )
    )
    topic_arn = sns.create_topic(Name="notices")["TopicArn"]
    sns.subscribe(
        TopicArn=topic_arn,
        Protocol=properties["Protocol"],
        Endpoint=arn_of(sqs, environment["SLACK_QUEUE_URL"]),
        Attributes={"FilterPolicy": json.dumps(policy)},
    )
    return SlackFlow(
        cold_start("notify_slack", environment, monkeypatch),
        sqs,
        NoticesTopic(sns, topic_arn),
        environment["SLACK_QUEUE_URL"],
        sqs.get_queue_url(QueueName="slack-dead-letters")["QueueUrl"],
        slack,
    )


def headers_of(messages: list[Message]) -> list[str]:
    return [m["payload"]["attachments"][0]["blocks"][0]["text"]["text"] for m in messages]


def test_a_notice_is_posted_in_slacks_format(flow: SlackFlow) -> None:
    flow.publish(NOTICE)

    flow.deliver_all()

    (message,) = flow.posted
    assert message["path"] == HOOK
    assert headers_of([message]) == [
        ":rotating_light: Run run-1 failed: user:ana is out of credits"
    ]
    (line,) = flow.function.lines("posted")
    assert (line["notice_id"], line["team_id"]) == (NOTICE.id, "acme")


def test_an_info_notice_is_not_posted_unless_the_operator_asks_for_it(flow: SlackFlow) -> None:
    news = replace(NOTICE, type="auto_reload.succeeded", severity="info")
    warning = replace(NOTICE, type="auto_reload.declined", severity="warning")

    flow.publish(news, warning)

    flow.deliver_all()
    assert len(flow.posted) == 1
    assert [line["notice_type"] for line in flow.function.lines("posted")] == [warning.type]


def test_a_rate_limited_notice_is_posted_once_after_the_wait(flow: SlackFlow) -> None:
    answers(flow.slack, 429, "rate_limited", retry_after="2")
    flow.publish(NOTICE)
    asked_at = time.monotonic()

    flow.deliver_all()

    assert time.monotonic() - asked_at >= 2
    assert len(flow.posted) == 1
    assert flow.reasons == ["rate limited for 2 s"]
    (line,) = flow.function.lines("not posted")
    assert line["retry_in_seconds"] == 2
    assert flow.left(flow.dead_letters_url) == 0


def test_during_a_rate_limit_no_other_notice_is_tried(flow: SlackFlow) -> None:
    answers(flow.slack, 429, "rate_limited", retry_after="2", times=1)
    flow.publish(*(replace(NOTICE, key=f"run-{n}", subject=f"run-{n}") for n in range(3)))

    flow.deliver_visible()

    assert flow.posted == []
    assert [line["retry_in_seconds"] for line in flow.function.lines("not posted")] == [2, 2, 2]
    assert flow.slack.memory.answers[0]["times"] == 0
    flow.deliver_all()
    assert len(flow.posted) == 3


@pytest.mark.parametrize(
    ("status", "code"), [(404, "no_service"), (403, "action_prohibited"), (410, "channel_is_gone")]
)
def test_a_notice_for_a_revoked_webhook_is_dead_lettered(
    flow: SlackFlow, status: int, code: str
) -> None:
    answers(flow.slack, status, code, times=1)
    flow.publish(NOTICE)

    deliveries = flow.deliver_visible()

    assert deliveries == RECEIVES_MAX
    assert flow.left(flow.queue_url) == 0
    assert flow.left(flow.dead_letters_url) == 1
    assert flow.posted == []
    # Slack was asked once: the answer of a revoked webhook is cached for a minute.
    assert set(flow.reasons) == {f"Slack answered {status} ({code})"}
    assert flow.slack.memory.answers[0]["times"] == 0


def test_a_message_that_slack_rejects_is_dead_lettered(
    flow: SlackFlow,
) -> None:
    answers(flow.slack, 400, "invalid_blocks", times=1_000)
    flow.publish(NOTICE)

    assert flow.deliver_visible() == RECEIVES_MAX

    assert flow.left(flow.dead_letters_url) == 1
    assert set(flow.reasons) == {"Slack answered 400 (invalid_blocks)"}


def test_a_redriven_notice_is_posted(flow: SlackFlow) -> None:
    answers(flow.slack, 400, "invalid_blocks", times=RECEIVES_MAX)
    flow.publish(NOTICE)
    flow.deliver_visible()
    (letter,) = flow.sqs.receive_message(QueueUrl=flow.dead_letters_url)["Messages"]

    flow.sqs.send_message(QueueUrl=flow.queue_url, MessageBody=letter["Body"])

    flow.deliver_visible()
    assert len(flow.posted) == 1


def test_a_notice_is_posted_when_slack_is_available_again(flow: SlackFlow) -> None:
    answers(flow.slack, 503, "service_unavailable")
    flow.publish(NOTICE)

    flow.deliver_all()

    assert len(flow.posted) == 1
    (line,) = flow.function.lines("not posted")
    assert (line["reason"], line["retry_in_seconds"]) == (
        "Slack answered 503 (service_unavailable)",
        2,
    )
    assert flow.left(flow.dead_letters_url) == 0


def test_a_notice_that_is_delivered_twice_is_posted_once(flow: SlackFlow) -> None:
    flow.publish(NOTICE)
    flow.deliver_all()

    flow.publish(NOTICE)

    flow.deliver_all()
    assert len(flow.posted) == 1
    assert len(flow.function.lines("posted")) == 2


def test_two_notices_of_one_type_are_both_posted(flow: SlackFlow) -> None:
    flow.publish(NOTICE, replace(NOTICE, key="run-2", subject="run-2"))

    flow.deliver_all()

    assert len(flow.posted) == 2


def test_two_concurrent_deliveries_post_once_and_lose_nothing(
    flow: SlackFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second delivery comes while the first one is being posted."""
    flow.publish(NOTICE, NOTICE)
    first, second = flow.receive(), flow.receive()
    assert first is not None
    assert second is not None
    post = flow.function.app.posts.post
    outcomes: list[bool] = []

    def deliver_the_other_first(*arguments: Any) -> None:
        monkeypatch.setattr(flow.function.app.posts, "post", post)
        outcomes.append(flow.deliver(second))
        post(*arguments)

    monkeypatch.setattr(flow.function.app.posts, "post", deliver_the_other_first)
    outcomes.append(flow.deliver(first))

    assert outcomes == [False, True]
    assert len(flow.posted) == 1
    (line,) = flow.function.lines("not posted")
    assert line["retry_in_seconds"] == 5
    flow.deliver_all()
    assert len(flow.posted) == 1
    assert flow.left(flow.dead_letters_url) == 0


def set_secret(aws: boto3.Session, environment: dict[str, str], value: str) -> None:
    aws.client("secretsmanager").put_secret_value(
        SecretId=environment["SLACK_SECRET_ARN"], SecretString=value
    )


def test_a_team_with_a_webhook_of_its_own_gets_its_notices_there(
    flow: SlackFlow, aws: boto3.Session, environment: dict[str, str]
) -> None:
    base = base_of(flow.slack)
    webhooks = {"default": f"{base}{HOOK}", "teams": {"acme": f"{base}{ACME_HOOK}"}}
    set_secret(aws, environment, json.dumps(webhooks))

    flow.publish(NOTICE, replace(NOTICE, team_id="other", key="2", data={"team_id": "other"}))

    flow.deliver_all()
    assert sorted(message["path"] for message in flow.posted) == [ACME_HOOK, HOOK]


def test_a_team_without_a_webhook_is_left_out_and_logged(
    flow: SlackFlow, aws: boto3.Session, environment: dict[str, str]
) -> None:
    base = base_of(flow.slack)
    set_secret(aws, environment, json.dumps({"teams": {"other": f"{base}{HOOK}"}}))

    flow.publish(NOTICE)

    flow.deliver_all()
    assert flow.posted == []
    (line,) = flow.function.lines("no webhook")
    assert (line["level"], line["team_id"]) == ("INFO", "acme")
    assert flow.left(flow.dead_letters_url) == 0


@pytest.mark.parametrize(
    "secret",
    [
        "aPlaceholder1",
        "https://hooks.slack.com/services/T000/B000/real",
        "https://evil.example.com/services/T000/B000/x",
        '{"default": "http://127.0.0.1:1/services/T0/B0/x"}',
        '{"default": 5}',
        "{}",
    ],
)
def test_notices_wait_until_the_secret_holds_a_webhook(
    flow: SlackFlow, aws: boto3.Session, environment: dict[str, str], secret: str
) -> None:
    set_secret(aws, environment, secret)
    flow.publish(NOTICE)

    assert flow.deliver_visible() == 1

    assert flow.posted == []
    assert flow.left(flow.queue_url) == 1
    (line,) = flow.function.lines("not posted")
    assert line["retry_in_seconds"] == 2
    assert line["reason"].startswith("the secret ")
    assert secret not in flow.function.log.getvalue()
    assert "T000" not in flow.function.log.getvalue()


@pytest.mark.parametrize(
    ("metric", "cause", "answer", "secret"),
    [
        ("MessagesPostponed", "SecretUnavailable", None, "aPlaceholder1"),
        ("MessagesPostponed", "SecretUnavailable", None, None),
        ("MessagesPostponed", "SlackUnavailable", (503, "service_unavailable"), ""),
        ("MessagesWaiting", "RateLimited", (429, "rate_limited"), ""),
        ("MessagesRejected", "PostRejected", (404, "no_service"), ""),
    ],
    ids=["no URL", "no secret", "outage", "rate limit", "revoked"],
)
def test_a_notice_that_is_not_posted_is_counted_by_cause(
    flow: SlackFlow,
    aws: boto3.Session,
    environment: dict[str, str],
    metric: str,
    cause: str,
    answer: tuple[int, str] | None,
    secret: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if answer is not None:
        answers(flow.slack, *answer)
    if secret is None:
        aws.client("secretsmanager").delete_secret(
            SecretId=environment["SLACK_SECRET_ARN"], ForceDeleteWithoutRecovery=True
        )
    elif secret:
        set_secret(aws, environment, secret)
    flow.publish(NOTICE)
    record = flow.receive()
    assert record is not None

    assert not flow.deliver(record)

    alarm = load_template()["Resources"]["SlackPostponedAlarm"]["Properties"]
    metrics = emitted(capsys.readouterr().out)
    assert metrics[of_stack(metric, "notify_slack")] == 1
    assert metrics[of_stack(metric, "notify_slack", cause=cause)] == 1
    assert metrics[watched(alarm)] == (metric == "MessagesPostponed")
    assert metrics[of_stack("NoticesPosted", "notify_slack")] == 0


def test_a_posted_notice_is_counted(flow: SlackFlow, capsys: pytest.CaptureFixture[str]) -> None:
    flow.publish(NOTICE)

    flow.deliver_all()

    metrics = emitted(capsys.readouterr().out)
    assert metrics[of_stack("NoticesPosted", "notify_slack")] == 1
    assert not any(name.startswith("Messages") for _, name, _ in metrics)


def test_a_message_that_is_not_a_notice_is_dead_lettered_without_being_quoted(
    flow: SlackFlow,
) -> None:
    flow.sqs.send_message(QueueUrl=flow.queue_url, MessageBody='{"Message": "a-body"}')

    assert flow.deliver_visible() == RECEIVES_MAX

    assert flow.left(flow.dead_letters_url) == 1
    assert flow.posted == []
    assert "a-body" not in flow.function.log.getvalue()


def test_no_log_and_no_message_holds_a_secret_an_address_or_a_body(
    flow: SlackFlow,
) -> None:
    """Every type of notice, with teams that pay by card, while Slack fails in every way."""
    # Two examples may be of the same fact; that one is posted once.
    notices = list({notice.id: notice for notice in (e() for e in EXAMPLES.values())}.values())
    answers(flow.slack, 503, f"at {HOOK} you sent billing@example.com")
    answers(flow.slack, 400, f"at {HOOK} you sent billing@example.com")
    answers(flow.slack, 429, "rate_limited", retry_after="1")

    flow.publish(*(replace(notice, channel="slack") for notice in notices))

    flow.deliver_all()
    assert len(flow.posted) == len(notices)
    assert len(flow.reasons) >= 3
    log = flow.function.log.getvalue()
    emails = [notice.email_subject + notice.email_text for notice in notices]
    written = "\n".join(
        [
            log,
            *emails,
            *(json.dumps(notice.to_cloudevent()) for notice in notices),
            *(json.dumps(message["payload"]) for message in flow.posted),
        ]
    )
    secrets = {CARD.customer, CARD.payment_method, HOOK, "default-secret", base_of(flow.slack)}
    assert [secret for secret in secrets if secret and secret in written] == []
    assert "@" not in written
    # Neither the body of an event of the platform's, nor in the log the text of a notice.
    sent = ("requested", "extended", "usage", "finished", "released", "provider_error")
    assert [name for name in sent if f'"agent_run.{name}"' in written] == []
    assert [email for email in emails if email.splitlines()[-1] in log] == []
