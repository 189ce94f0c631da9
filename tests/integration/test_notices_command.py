"""`agent-credits notices test`: who receives a test, who does not, and what is printed."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agent_credits_cli.commands import notices
from agent_credits_cli.main import app
from agent_credits_cli.target import Target
from tests.template import load_template

Run = Callable[..., Result]


@pytest.fixture
def topic(target: Target, monkeypatch: pytest.MonkeyPatch) -> Target:
    """Return the target, with a topic without subscriptions."""
    arn = target.sns.create_topic(Name="notices")["TopicArn"]
    outputs = target.outputs.model_copy(update={"notices_topic_arn": arn})
    connected = replace(target, outputs=outputs)
    monkeypatch.setattr(notices, "connect", lambda _: connected)
    return connected


@pytest.fixture
def run() -> Run:
    return lambda *arguments: CliRunner().invoke(app, ["notices", "test", *arguments])


def policy_of(subscription: str) -> Any:
    """The filter policy as the template has it, with the severities of its parameter."""
    template = load_template()
    policy = template["Resources"][subscription]["Properties"]["FilterPolicy"]
    severities = template["Parameters"]["SlackSeverities"]["Default"].split(",")
    text = json.dumps(policy).replace('{"Ref": "SlackSeverities"}', json.dumps(severities))
    return json.loads(text)


def subscribe(target: Target, name: str, policy: Any) -> str:
    """Subscribe a queue with this filter policy, and return its URL."""
    url = target.sqs.create_queue(QueueName=name)["QueueUrl"]
    queue = target.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    target.sns.subscribe(
        TopicArn=target.outputs.notices_topic_arn,
        Protocol="sqs",
        Endpoint=queue["Attributes"]["QueueArn"],
        Attributes={"FilterPolicy": json.dumps(policy)} if policy else {},
    )
    return url


def subscribe_email(target: Target, address: str, policy: Any) -> None:
    target.sns.subscribe(
        TopicArn=target.outputs.notices_topic_arn,
        Protocol="email",
        Endpoint=address,
        Attributes={"FilterPolicy": json.dumps(policy)},
    )


def received(target: Target, url: str) -> list[dict[str, Any]]:
    messages = target.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(json.loads(message["Body"])["Message"]) for message in messages]


def test_an_option_of_the_list_is_not_ignored_in_silence(topic: Target) -> None:
    slack = subscribe(topic, "stack-slack", policy_of("SlackSubscription"))

    rejected = CliRunner().invoke(app, ["notices", "--since", "1h", "test", "--channel", "slack"])

    assert rejected.exit_code == 2
    assert "--since has no effect in front of test" in rejected.stderr
    assert received(topic, slack) == []


def test_a_test_of_slack_reaches_only_the_queue_of_slack(topic: Target, run: Run) -> None:
    slack = subscribe(topic, "stack-slack", policy_of("SlackSubscription"))
    pager = subscribe(topic, "pager", {"severity": ["critical"]})

    result = run("--channel", "slack", "--team", "acme")

    assert result.exit_code == 0, result.output
    assert "the queue stack-slack" in result.stdout
    assert "pager" not in result.stdout
    (notice,) = received(topic, slack)
    assert (notice["type"], notice["data"]["team_id"]) == ("notices.test", "acme")
    assert received(topic, pager) == []


def test_two_tests_are_two_notices(topic: Target, run: Run) -> None:
    slack = subscribe(topic, "stack-slack", policy_of("SlackSubscription"))

    run("--channel", "slack")
    run("--channel", "slack")

    assert len({notice["id"] for notice in received(topic, slack)}) == 2


def test_an_email_test_names_its_recipients_without_their_addresses(
    topic: Target, run: Run
) -> None:
    subscribe_email(topic, "billing@example.com", policy_of("BillingEmailSubscription"))
    subscribe_email(topic, "pager@example.com", {"severity": ["critical"]})
    slack = subscribe(topic, "stack-slack", policy_of("SlackSubscription"))

    result = run("--channel", "email")

    assert result.exit_code == 0, result.output
    assert "b…@example.com" in result.stdout
    assert "billing@" not in result.stdout
    assert "p…@example.com" not in result.stdout
    assert received(topic, slack) == []


def test_the_report_for_programs_names_notice_and_recipients(topic: Target, run: Run) -> None:
    subscribe_email(topic, "oncall@example.com", policy_of("OnCallEmailSubscription"))

    report = json.loads(run("--channel", "email", "--json").stdout)

    assert report["notice"]["type"] == "notices.test"
    assert [recipient["name"] for recipient in report["recipients"]] == ["o…@example.com"]


@pytest.mark.parametrize(
    ("channel", "what_to_do"), [("slack", "SlackNotices=true"), ("email", "BillingEmail")]
)
def test_without_subscribers_nothing_is_sent_and_the_error_says_how_to_subscribe(
    topic: Target, run: Run, channel: str, what_to_do: str
) -> None:
    everything = subscribe(topic, "everything", None)

    result = run("--channel", channel)

    assert result.exit_code == 2
    assert what_to_do in result.stderr
    assert received(topic, everything) == []


@pytest.mark.usefixtures("topic")
def test_an_unknown_channel_is_rejected(run: Run) -> None:
    assert run("--channel", "pigeon").exit_code == 2
