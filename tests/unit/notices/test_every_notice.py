"""What holds for every type of notice: it is worded, reaches somebody, and tells no secret."""

import json
from typing import Any, get_args

import pytest

from agent_credits.notices.channel_tests import channel_test
from agent_credits.notices.notice import SUBJECT_LENGTH_MAX, Channel, Notice, NoticeType
from agent_credits_local.slack_server import code_of
from tests.template import load_template
from tests.unit.builders import NOW
from tests.unit.notices.every_notice import (
    EXAMPLES,
    SLACK,
    email_of,
    is_agreed_on,
    slack_payload,
    text_of,
    type_of,
)

# Types that concern no balance and no money, and are not critical: Slack alone tells them.
FOR_SLACK_ONLY = {"notices.test", "provider_error", "provider_overloaded", "provider_rate_limited"}


@pytest.fixture(params=EXAMPLES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def notice(name: str) -> Notice:
    return EXAMPLES[name]()


def test_every_type_has_an_example() -> None:
    assert {type_of(name) for name in EXAMPLES} == set(get_args(NoticeType)), (
        "add an example of the new type to tests/unit/notices/every_notice.py and run that module"
    )


def test_an_example_is_of_its_type(name: str, notice: Notice) -> None:
    assert notice.type == type_of(name)


def test_the_message_for_slack_is_the_one_that_was_agreed_on(name: str, notice: Notice) -> None:
    assert text_of(slack_payload(notice)) == (SLACK / f"{name}.json").read_text()


def test_no_message_was_agreed_on_for_what_is_not_announced() -> None:
    assert {path.stem for path in SLACK.iterdir()} == set(EXAMPLES)


def test_slack_takes_the_message(notice: Notice) -> None:
    assert code_of(slack_payload(notice)) is None


def test_the_email_is_one_that_was_agreed_on(notice: Notice) -> None:
    assert is_agreed_on(email_of(notice)), email_of(notice)


def test_the_email_stands_alone(notice: Notice) -> None:
    """Whoever gets it may know nothing but that there is such a thing as credits."""
    assert len(notice.email_subject) <= SUBJECT_LENGTH_MAX
    assert notice.team_id in notice.email_subject + notice.email_text
    for step in notice.data.get("fix", []):
        assert step in notice.email_text
    # No code of ours without words beside it.
    assert "cause" not in notice.data or f": {notice.data['cause']}\n" not in notice.email_text


def policy_of(subscription: str) -> Any:
    template = load_template()
    policy = template["Resources"][subscription]["Properties"]["FilterPolicy"]
    severities = template["Parameters"]["SlackSeverities"]["Default"].split(",")
    # What CloudFormation makes of the parameter.
    return json.loads(
        json.dumps(policy).replace('{"Ref": "SlackSeverities"}', json.dumps(severities))
    )


def receives(subscription: str, notice: Notice) -> bool:
    """Tell whether the notice passes the policy, by as much of SNS's rules as is used here."""

    def passes(rules: list[Any], value: str | None) -> bool:
        return any(
            value is not None
            and (value.startswith(rule["prefix"]) if isinstance(rule, dict) else value == rule)
            for rule in rules
        )

    return any(
        all(passes(rules, notice.attributes.get(key)) for key, rules in alternative.items())
        for alternative in policy_of(subscription)["$or"]
    )


def test_it_reaches_the_audiences_that_it_concerns(notice: Notice) -> None:
    concerns_money = not notice.type.startswith(("provider_", "drift", "notices."))

    assert receives("BillingEmailSubscription", notice) == concerns_money
    assert receives("OnCallEmailSubscription", notice) == (notice.severity == "critical")
    is_severe = notice.severity != "info"
    assert receives("SlackSubscription", notice) == (is_severe or notice.channel == "slack")


@pytest.mark.parametrize("channel", get_args(Channel))
def test_a_test_reaches_its_channel_and_no_other(channel: Channel) -> None:
    notice = channel_test(channel, "acme", "1", NOW)

    assert receives("SlackSubscription", notice) == (channel == "slack")
    assert receives("BillingEmailSubscription", notice) == (channel == "email")
    assert receives("OnCallEmailSubscription", notice) == (channel == "email")
    # Whoever is paged for what is critical is left in peace.
    assert notice.attributes["severity"] == "info"


def test_no_severe_notice_reaches_nobody_by_email(notice: Notice) -> None:
    audiences = ("BillingEmailSubscription", "OnCallEmailSubscription")

    reached = any(receives(audience, notice) for audience in audiences)
    assert reached or notice.type in FOR_SLACK_ONLY
