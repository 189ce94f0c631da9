"""Any notice becomes a message that Slack accepts, and that cannot ping, link or format."""

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
limits = st.fixed_dictionaries(
    dict.fromkeys(("scope", "period", "limit_credits"), st.text()),
    optional=dict.fromkeys(
        (
            *("id", "action", "used_credits", "used_percent", "reserved_credits"),
            *("previous_credits", "resets_at", "lifted_until"),
        ),
        scalars,
    ),
)
known = st.fixed_dictionaries(
    {},
    optional={
        "limit": scalars | documents | limits,
        "limits": st.lists(documents | limits, max_size=60),
    }
    | {
        name: scalars | documents | st.lists(scalars | documents, max_size=60)
        for name in (
            *("pools", "fix", "problem", "run_id", "team_id", "traceparent", "currency"),
            *("auto_reload", "cause", "trigger", "trigger_id", "threshold", "resets_at"),
            *("credits", "spent_cents", "accounts", "accounts_count"),
        )
    },
)


@settings(max_examples=50)
@given(documents, known, st.sampled_from(get_args(Severity)), st.text(max_size=300))
def test_slack_accepts_any_notice(
    data: dict[str, Any], more: dict[str, Any], severity: Severity, subject: str
) -> None:
    notice = published(data | more, severity=severity, subject=subject)

    assert code_of(payload(notice)) is None


@settings(max_examples=50)
@given(documents, known, st.text(max_size=300))
def test_no_text_of_a_notice_can_mention_link_or_format(
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
def test_escaped_text_is_shown_as_the_original_text(text: str) -> None:
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


def test_an_unknown_type_is_shown_by_the_names_and_units_of_its_data() -> None:
    notice = published(
        {
            "principal": "user:ana",
            "threshold_percent": 10,
            "available_credits": "12.5",
            "spent_cents": 1999,
            "currency": "usd",
            "expires_at": "2026-11-30T00:00:00Z",
            "provider": {"name": "openai", "quota": None},
            "waited_seconds": 1,
            "runs": 2_000,
            "key_id": "k-1",
            "grants": [{"id": "order-1", "left_credits": "5000"}, "order-2"],
        }
    )

    written = all_text(notice)

    assert "*Account*\nuser:ana" in written
    assert "*Threshold percent*\n10%" in written
    assert "*Left*\n12.5 credits" in written
    assert "*Spent*\n19.99 USD" in written
    assert "*Expires*\n<!date^1795996800^" in written
    assert "*Provider: name*\nopenai" in written
    assert "*Waited*\n1 second" in written
    assert "*Runs*\n2,000" in written
    assert "*Key ID*\nk-1" in written
    assert "quota" not in written
    assert "*Grants*\n• ID: order-1; Left: 5,000 credits\n• order-2" in written


def test_what_is_called_a_limit_and_is_none_is_shown_like_other_data() -> None:
    assert "*Limit*\n100" in all_text(published({"limit": "100"}))
    assert "*Limit: colour*\nred" in all_text(published({"limit": {"colour": "red"}}))


def test_the_only_limit_of_a_run_is_shown_once() -> None:
    one = {"scope": "member", "id": "ana", "period": "day", "limit_credits": "5"}
    other = {**one, "id": "ben"}
    text = "5 credits per day for member ana"

    assert all_text(published({"limit": one, "limits": [one]})).count(text) == 1
    assert all_text(published({"limit": one, "limits": [one, other]})).count(text) == 2


def test_a_new_run_helps_where_a_limit_counts_each_run_by_itself() -> None:
    problem = {"problem": {"retryable": False}, "fix": ["Wait."]}
    of_month = {"scope": "member", "id": "ana", "period": "month", "limit_credits": "5"}
    of_run = {**of_month, "period": "run"}

    assert "retrying will not help" in all_text(published({**problem, "limit": of_month}))
    assert "retrying will not help" not in all_text(published({**problem, "limit": of_run}))


def test_two_facts_never_get_the_same_label() -> None:
    written = all_text(published({"overdraft": "none", "overdraft_credits": "120"}))

    assert "*Overdraft*\nnone" in written
    assert "*Overdraft credits*\n120 credits" in written


@pytest.mark.parametrize("subject", ["x" * 300, "&" * 300])
def test_a_long_word_in_a_headline_is_cut_and_never_inside_an_escape(subject: str) -> None:
    message = payload(published({}, subject=subject))

    assert code_of(message) is None
    headline = message["attachments"][0]["blocks"][0]["text"]["text"]
    assert 140 < len(headline) <= 150
    assert headline.endswith(("x…", "&amp;…"))


def test_a_headline_is_cut_behind_a_whole_word() -> None:
    message = payload(published({}, subject="the account is out of credits " * 10))

    headline = message["attachments"][0]["blocks"][0]["text"]["text"]
    assert 100 < len(headline) <= 150
    assert headline.removesuffix("…").split()[-1] in {
        "the",
        "account",
        "is",
        "out",
        "of",
        "credits",
    }
    assert headline.endswith("…")


@pytest.mark.parametrize(("count", "more"), [({}, "15"), ({"accounts_count": 2_000}, "1,990")])
def test_long_lists_say_how_much_they_leave_out(count: dict[str, int], more: str) -> None:
    written = all_text(published({"accounts": [f"user:{n}" for n in range(25)], **count}))

    assert "user:9" in written
    assert "user:10" not in written
    assert f"… and {more} more" in written
    assert "Accounts count" not in written


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


def test_the_message_says_what_to_do_and_that_retrying_does_not_help() -> None:
    fix = ["ana: purchase add-on credits."]

    never = all_text(published({"fix": fix, "problem": {"retryable": False}}))
    perhaps = all_text(published({"fix": fix}))

    assert "*What to do now*\n• ana: purchase add-on credits." in never
    assert "Until then, retrying will not help." in never
    assert "retry" not in perhaps
