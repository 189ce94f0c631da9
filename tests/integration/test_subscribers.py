"""The filter policies of docs/how-to/subscribers.md match the notices they should, and no others.

Every type of notice is published to a topic with a queue subscribed.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from agent_credits.aws.topic import NoticesTopic
from agent_credits.notices.notice import Notice
from tests.unit.notices.every_notice import EXAMPLES

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "subscribers.md"
ATTRIBUTES = re.compile(r"--attributes '(\{.*\})'")
ACME = "acme"


def documented_policies() -> list[dict[str, Any]]:
    """Return the filter policies of the commands, in their order."""
    attributes = map(json.loads, ATTRIBUTES.findall(DOCS.read_text()))
    return [json.loads(found["FilterPolicy"]) for found in attributes]


@pytest.fixture(scope="module")
def notices() -> list[Notice]:
    return [example() for example in EXAMPLES.values()]


def received(aws: boto3.Session, policy: dict[str, Any], notices: list[Notice]) -> list[str]:
    """Publish the notices to a topic with one subscriber; return the ids that arrive, sorted."""
    sns, sqs = aws.client("sns"), aws.client("sqs")
    topic_arn = sns.create_topic(Name="notices")["TopicArn"]
    queue_url = sqs.create_queue(QueueName="subscriber")["QueueUrl"]
    queue = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    sns.subscribe(
        TopicArn=topic_arn,
        Protocol="sqs",
        Endpoint=queue["Attributes"]["QueueArn"],
        Attributes={"FilterPolicy": json.dumps(policy), "RawMessageDelivery": "true"},
    )
    topic = NoticesTopic(sns, topic_arn)
    for notice in notices:
        topic.publish(notice)
    return sorted(json.loads(body)["id"] for body in bodies(sqs, queue_url))


def bodies(sqs: "SQSClient", queue_url: str) -> list[str]:
    found: list[str] = []
    while messages := sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get(
        "Messages"
    ):
        found += [message["Body"] for message in messages]
    return found


def test_the_table_of_severities_lists_every_type_under_its_severity(notices: list[Notice]) -> None:
    rows = [line.split("|")[1:3] for line in DOCS.read_text().splitlines() if "| `" in line]
    documented = {severity.strip(" `"): types for severity, types in rows}

    missing = [n.type for n in notices if f"`{n.type}`" not in documented[n.severity]]
    assert missing == []


def ids(notices: list[Notice]) -> list[str]:
    return sorted(notice.id for notice in notices)


def exhaustion_warnings_and_news() -> list[Notice]:
    """What a demo of exhaustion publishes: failed runs, a low account, and its recovery."""
    return [
        EXAMPLES[name]()
        for name in (
            "insufficient_credits",
            "insufficient_credits--enterprise",
            "credits_low",
            "auto_reload.declined",
            "auto_reload.succeeded",
            "credits_restored",
        )
    ]


def test_a_filter_by_critical_matches_no_warning_and_no_info(aws: boto3.Session) -> None:
    published = exhaustion_warnings_and_news()

    arrived = received(aws, {"severity": ["critical"]}, published)

    assert arrived == ids([n for n in published if n.type == "insufficient_credits"])
    assert len(arrived) == 2


def test_a_filter_by_critical_matches_every_critical_notice(
    aws: boto3.Session, notices: list[Notice]
) -> None:
    arrived = received(aws, {"severity": ["critical"]}, notices)

    assert arrived == ids([n for n in notices if n.severity == "critical"])
    assert len({n.type for n in notices if n.id in arrived}) > 1


def test_the_policy_for_a_pager_matches_critical_notices(
    aws: boto3.Session, notices: list[Notice]
) -> None:
    pager, _, _ = documented_policies()

    assert received(aws, pager, notices) == ids([n for n in notices if n.severity == "critical"])


def test_the_policy_for_a_channel_matches_one_teams_severe_notices(
    aws: boto3.Session, notices: list[Notice]
) -> None:
    _, channel, _ = documented_policies()

    expected = [n for n in notices if n.team_id == ACME and n.severity != "info"]
    assert received(aws, channel, notices) == ids(expected)
    # Of another team there are notices too, or this would prove nothing.
    assert [n for n in notices if n.team_id != ACME and n.severity != "info"]


def test_the_policy_for_a_queue_matches_failed_runs_only(
    aws: boto3.Session, notices: list[Notice]
) -> None:
    _, _, queue = documented_policies()

    expected = [n for n in notices if n.type == "insufficient_credits"]
    assert received(aws, queue, notices) == ids(expected)
