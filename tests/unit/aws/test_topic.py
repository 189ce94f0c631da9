import json
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.aws.topic import NoticesTopic
from agent_credits.notices.notice import Notice
from tests.unit.builders import ANA, NOW

NOTICE = Notice(
    type="insufficient_credits",
    severity="critical",
    principal=ANA,
    team_id="acme",
    key="run-1",
    subject="run-1",
    time=NOW,
    retryable=False,
    data={"run_id": "run-1"},
    email_subject="Run run-1 failed",
    email_text="Run run-1 failed.\n",
)


class Published:
    """A fake of the SNS client that records what was published."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def publish(self, **request: Any) -> None:
        self.requests.append(request)


def published(notice: Notice) -> dict[str, Any]:
    client = Published()
    NoticesTopic(client, "arn:notices").publish(notice)  # type: ignore[arg-type]
    (request,) = client.requests
    return request


def test_people_get_text_and_everything_else_gets_the_cloudevent() -> None:
    request = published(NOTICE)

    assert request["TopicArn"] == "arn:notices"
    assert request["MessageStructure"] == "json"
    message = json.loads(request["Message"])
    assert message.keys() == {"default", "email"}
    assert message["email"] == "Run run-1 failed.\n"
    assert json.loads(message["default"]) == {
        "specversion": "1.0",
        "id": NOTICE.id,
        "source": "/agent-credits/accounts/user:ana",
        "type": "insufficient_credits",
        "subject": "run-1",
        "time": "2025-11-21T10:00:00Z",
        "datacontenttype": "application/json",
        "data": {"run_id": "run-1"},
    }


def test_the_attributes_that_subscribers_filter_by_are_strings() -> None:
    attributes = published(NOTICE)["MessageAttributes"]

    assert {name: a["StringValue"] for name, a in attributes.items()} == {
        "type": "insufficient_credits",
        "severity": "critical",
        "team_id": "acme",
        "principal": "user:ana",
        "retryable": "false",
    }
    assert {a["DataType"] for a in attributes.values()} == {"String"}


@pytest.mark.parametrize("length", [1, 99, 100, 101, 300])
def test_a_subject_is_shorter_than_sns_allows(length: int) -> None:
    subject = published(replace(NOTICE, email_subject="x" * length))["Subject"]

    # "Less than 100 characters long", says the reference of Publish.
    assert len(subject) == min(length, 99)


def test_a_notices_id_is_derived_from_what_it_is_about() -> None:
    same = replace(NOTICE, email_text="other words", data={})
    others = [
        replace(NOTICE, key="run-2"),
        replace(NOTICE, type="credits_recovered"),
        replace(NOTICE, principal=replace(ANA, id="ben")),
        replace(NOTICE, principal=replace(ANA, kind="team")),
    ]

    assert same.id == NOTICE.id == "4a773386-5721-56cc-a371-a024aff08963"
    assert len({NOTICE.id, *(other.id for other in others)}) == 5


def test_the_log_fields_of_a_notice_hold_no_address_and_no_text() -> None:
    assert NOTICE.log_fields == {
        "notice_id": NOTICE.id,
        "notice_type": "insufficient_credits",
        "team_id": "acme",
        "principal": "user:ana",
        "notice_subject": "run-1",
    }
