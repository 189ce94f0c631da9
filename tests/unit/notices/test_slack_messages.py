"""Any notice becomes a message that Slack takes and that does nothing but tell."""

import re
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_credits.notices.notice import Severity
from agent_credits.notices.published import Published
from agent_credits.notices.slack_messages import LOOKS, escape, slack_message
from agent_credits_local.slack_server import code_of

# The one thing in angle brackets that we write ourselves: an instant, in UTC for old clients.
DATE = re.compile(r"<!date\^-?\d+\^\{date_short_pretty\} at \{time\}\|[^<>]*>")


def published(
    data: dict[str, Any], *, severity: Severity = "critical", subject: str = "It happened"
) -> Published:
    notice = {
        "specversion": "1.0",
        "id": "n-1",
        "type": "of.the_future",
        "subject": "s",
        "time": "2026-11-23T10:00:00Z",
        "data": data,
    }
    return Published(subject, severity, notice)


def payload(notice: Published) -> dict[str, Any]:
    return {"attachments": [slack_message(notice).to_dict()]}


def texts(value: object) -> list[str]:
    match value:
        case dict():
            return [text for inner in value.values() for text in texts(inner)]
        case list():
            return [text for inner in value for text in texts(inner)]
        case str():
            return [value]
        case _:
            return []


def all_text(notice: Published) -> str:
    return "\n".join(texts(payload(notice)))


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5_000)
documents = st.dictionaries(
    st.text(max_size=40),
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=15) | st.dictionaries(st.text(), inner, max_size=15),
        max_leaves=30,
    ),
    max_size=40,
)
known = st.fixed_dictionaries(
    {},
    optional={
        name: scalars | documents | st.lists(scalars | documents, max_size=60)
        for name in ("pools", "fix", "problem", "run_id", "team_id", "traceparent", "currency")
    },
)


@settings(max_examples=50)
@given(documents, known, st.sampled_from(get_args(Severity)), st.text(max_size=300))
def test_slack_takes_whatever_a_notice_may_hold(
    data: dict[str, Any], more: dict[str, Any], severity: Severity, subject: str
) -> None:
    notice = published(data | more, severity=severity, subject=subject)

    assert code_of(payload(notice)) is None


@settings(max_examples=50)
@given(documents, known, st.text(max_size=300))
def test_nothing_in_a_notice_can_mention_link_or_format_as_slacks_own(
    data: dict[str, Any], more: dict[str, Any], subject: str
) -> None:
    written = all_text(published(data | more, subject=subject))

    rest = DATE.sub("", written)
    assert "<" not in rest
    assert ">" not in rest
    assert not re.search(r"&(?!amp;|lt;|gt;)", rest)


@pytest.mark.parametrize("place", ["run_id", "principal", "any_new_member", "team_id"])
def test_a_name_that_would_ping_everybody_is_only_a_name(place: str) -> None:
    notice = published({place: "<!channel>&<https://evil.example|click>"})

    assert "&lt;!channel&gt;&amp;&lt;https://evil.example|click&gt;" in all_text(notice)
    markdown = [
        text
        for block in payload(notice)["attachments"][0]["blocks"]
        for text in [*block.get("fields", []), *block.get("elements", [])]
    ]
    # Else a bare @here, #channel or address would be linked.
    assert all(text["verbatim"] for text in markdown)


@given(st.text())
def test_escaped_text_is_the_text_again_when_it_is_shown(text: str) -> None:
    shown = escape(text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")

    assert shown == text


def test_each_severity_has_a_look_of_its_own() -> None:
    messages = [
        payload(published({}, severity=severity))["attachments"][0]
        for severity in get_args(Severity)
    ]

    assert len({message["color"] for message in messages}) == len(messages)
    assert len({message["fallback"] for message in messages}) == len(messages)
    for severity, message in zip(get_args(Severity), messages, strict=True):
        assert LOOKS[severity].words in "\n".join(texts(message["blocks"][-1]))


def test_a_type_of_the_future_is_shown_by_the_names_and_units_of_its_data() -> None:
    notice = published(
        {
            "principal": "user:ana",
            "threshold_percent": 10,
            "available_credits": "12.5",
            "spent_cents": 1999,
            "currency": "usd",
            "expires_at": "2026-11-30T00:00:00Z",
            "provider": {"name": "openai", "quota": None},
            "grants": [{"id": "order-1", "left_credits": "5"}, "order-2"],
        }
    )

    written = all_text(notice)

    assert "*Billed*\nuser:ana" in written
    assert "*Threshold percent*\n10" in written
    assert "*Left*\n12.5 credits" in written
    assert "*Spent*\n19.99 USD" in written
    assert "*Expires*\n<!date^1795996800^" in written
    assert "*Provider: name*\nopenai" in written
    assert "quota" not in written
    assert "*Grants*\n• id order-1, left credits 5\n• order-2" in written


def test_two_facts_never_get_the_same_label() -> None:
    written = all_text(published({"threshold": "30%", "threshold_credits": "120"}))

    assert "*Threshold*\n30%" in written
    assert "*Threshold credits*\n120 credits" in written


@pytest.mark.parametrize("subject", ["x" * 300, "&" * 300])
def test_a_headline_is_cut_to_what_slack_takes_and_never_within_an_escape(subject: str) -> None:
    message = payload(published({}, subject=subject))

    assert code_of(message) is None
    headline = message["attachments"][0]["blocks"][0]["text"]["text"]
    assert 140 < len(headline) <= 150
    assert headline.endswith(("x…", "&amp;…"))


def test_long_lists_say_how_much_they_leave_out() -> None:
    written = all_text(published({"accounts": [f"user:{n}" for n in range(25)]}))

    assert "user:9" in written
    assert "user:10" not in written
    assert "… and 15 more" in written


def test_the_context_leads_to_run_team_project_and_trace() -> None:
    notice = published(
        {
            "run_id": "run-1",
            "team_id": "acme",
            "project_id": "web",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        }
    )

    context = payload(notice)["attachments"][0]["blocks"][-1]

    assert [element["text"] for element in context["elements"][:-1]] == [
        "*Critical: act now*",
        "run run-1",
        "team acme",
        "project web",
        "trace 0af7651916cd43dd8448eb211c80319c",
    ]


def test_what_has_to_be_done_stands_in_the_message_and_whether_a_retry_helps() -> None:
    fix = ["ana: purchase add-on credits."]

    never = all_text(published({"fix": fix, "problem": {"retryable": False}}))
    perhaps = all_text(published({"fix": fix}))

    assert "*What to do now*\n• ana: purchase add-on credits." in never
    assert "Until then a retry fails as well." in never
    assert "retry" not in perhaps
