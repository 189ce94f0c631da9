"""How the times of the Slack section of template.yaml fit the code, and that it is optional."""

from typing import Any

import pytest

from agent_credits.notices.slack_posts import (
    POST_SECONDS_MAX,
    POSTED_ELSEWHERE_SECONDS,
    RETRY_AFTER_SECONDS_MAX,
    SlackUnavailable,
    retry_in_seconds,
)
from tests.template import Template, load_template

OUTAGE_SECONDS_MIN = 10 * 60 * 60
# Where NotifySlack has used up its receives on what Slack rejects, before anybody looks.
REJECTED_RECEIVES_MAX = 50


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template()


def properties(template: Template, name: str) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"][name]["Properties"]
    return found


def test_a_notice_outlasts_an_outage_and_a_rejected_one_is_soon_set_aside(
    template: Template,
) -> None:
    receives = properties(template, "SlackQueue")["RedrivePolicy"]["maxReceiveCount"]

    waits = [retry_in_seconds(SlackUnavailable("down"), n) for n in range(1, receives)]

    assert sum(waits) >= OUTAGE_SECONDS_MIN
    assert receives <= REJECTED_RECEIVES_MAX


def test_no_wait_outlives_the_queue(template: Template) -> None:
    queue = properties(template, "SlackQueue")
    receives = queue["RedrivePolicy"]["maxReceiveCount"]

    assert receives * RETRY_AFTER_SECONDS_MAX < queue["MessageRetentionPeriod"]


def test_a_post_fits_into_the_timeout_and_another_delivery_waits_for_less(
    template: Template,
) -> None:
    timeout = properties(template, "NotifySlack")["Timeout"]

    assert timeout >= POST_SECONDS_MAX * 2
    receives = properties(template, "SlackQueue")["RedrivePolicy"]["maxReceiveCount"]
    # A delivery that was cut off blocks the notice for one timeout: others outlast that.
    assert POSTED_ELSEWHERE_SECONDS * (receives - 1) > timeout


def test_whoever_does_not_use_slack_deploys_nothing_of_it_but_its_secret(
    template: Template,
) -> None:
    of_slack = {
        name: resource.get("Condition")
        for name, resource in template["Resources"].items()
        if "Slack" in name
    }

    # The URL outlasts turning Slack off.
    assert of_slack.pop("SlackSecret") is None
    assert len(of_slack) >= 14
    assert set(of_slack.values()) == {"HasSlackNotices"}
    assert template["Parameters"]["SlackNotices"]["Default"] == "false"
    assert "Condition" not in template["Outputs"]["SlackSecretArn"]


def test_the_queue_gets_what_is_severe_and_what_tests_slack(template: Template) -> None:
    subscription = properties(template, "SlackSubscription")

    assert subscription["FilterPolicy"] == {
        "$or": [{"severity": {"Ref": "SlackSeverities"}}, {"channel": ["slack"]}]
    }
    assert template["Parameters"]["SlackSeverities"]["Default"] == "critical,warning"
    # Raw delivery would leave out the subject and the severity.
    assert subscription["RawMessageDelivery"] is False
