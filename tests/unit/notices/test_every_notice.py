"""What holds for every type of notice: how it is worded, and whom it reaches."""

import json
import re
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
    has_golden_file,
    slack_payload,
    text_of,
    type_of,
)

# Types that concern neither a balance nor money and are not critical: only Slack shows them.
FOR_SLACK_ONLY = {
    "agent_run.overdrawn",
    "notices.test",
    "provider_error",
    "provider_overloaded",
    "provider_rate_limited",
}


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


def test_the_slack_message_matches_its_golden_file(name: str, notice: Notice) -> None:
    assert text_of(slack_payload(notice)) == (SLACK / f"{name}.json").read_text()


def test_every_golden_slack_message_has_an_example() -> None:
    assert {path.stem for path in SLACK.iterdir()} == set(EXAMPLES)


def test_slack_accepts_the_message(notice: Notice) -> None:
    assert code_of(slack_payload(notice)) is None


def test_the_email_matches_a_golden_file(notice: Notice) -> None:
    assert has_golden_file(email_of(notice)), email_of(notice)


def test_the_email_can_be_understood_without_anything_else(notice: Notice) -> None:
    assert len(notice.email_subject) <= SUBJECT_LENGTH_MAX
    assert notice.team_id in notice.email_subject + notice.email_text
    for step in notice.data.get("fix", []):
        assert step in notice.email_text
    # A code of ours is for machines.
    assert notice.data.get("cause", "no cause") not in notice.email_text


def facts_of_email(notice: Notice) -> dict[str, str]:
    lines = re.findall(r"^([A-Z][\w -]*): +(.+)$", notice.email_text, re.MULTILINE)
    return {label: value for label, value in lines if label != "What to do now"}


def facts_in_slack(notice: Notice) -> dict[str, str]:
    blocks = slack_payload(notice)["attachments"][0]["blocks"]
    fields = [field["text"] for block in blocks for field in block.get("fields", [])]
    facts = dict(field[1:].split("*\n", 1) for field in fields)
    # What Slack shows where it does not know the reader's time zone.
    return {label: re.sub(r"<!date[^|]*\|(.*)>", r"\1", value) for label, value in facts.items()}


def test_email_and_slack_word_a_fact_alike(notice: Notice) -> None:
    email, slack = facts_of_email(notice), facts_in_slack(notice)

    for label in email.keys() & slack.keys():
        # An e-mail may say more about an account or a model provider, but never something else.
        shown = slack[label] if label in ("Account", "Model provider") else f"{slack[label]}$"
        assert re.search(shown.replace("(", r"\(").replace(")", r"\)"), email[label]), label
    pools = [f"{label[5:]} {text}" for label, text in slack.items() if label.startswith("Pool ")]
    if pools:
        assert email["Pools"] == ", ".join(pools)


def test_people_read_times_amounts_and_plurals_in_one_format(notice: Notice) -> None:
    slack = json.dumps(slack_payload(notice), ensure_ascii=False)

    for text in (notice.email_subject, notice.email_text, slack):
        assert not re.search(r"\d{4}-\d\d-\d\dT", text), "a time for machines"
        assert not re.search(r"\b\d{4,}(\.\d+)? credits", text), "no thousands separator"
        assert not re.search(r"\b1 (credits|packs|days)\b|\(s\)", text), "a wrong plural"
        assert not re.search(r"\d %", text), "a space before the percent sign"


def policy_of(subscription: str) -> Any:
    template = load_template()
    policy = template["Resources"][subscription]["Properties"]["FilterPolicy"]
    severities = template["Parameters"]["SlackSeverities"]["Default"].split(",")
    # What CloudFormation makes of the parameter.
    return json.loads(
        json.dumps(policy).replace('{"Ref": "SlackSeverities"}', json.dumps(severities))
    )


def receives(subscription: str, notice: Notice) -> bool:
    """Return whether the notice matches the policy, by the SNS rules that are used here."""

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
    concerns_money = not notice.type.startswith(("provider_", "drift", "notices.", "agent_run."))

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
    # A test pages nobody.
    assert notice.attributes["severity"] == "info"


def test_every_severe_notice_reaches_an_email_audience(notice: Notice) -> None:
    audiences = ("BillingEmailSubscription", "OnCallEmailSubscription")

    reached = any(receives(audience, notice) for audience in audiences)
    assert reached or notice.type in FOR_SLACK_ONLY
