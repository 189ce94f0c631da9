"""A message for Slack in a terminal: what Slack shows, without its markup."""

import io
from typing import Any

import pytest
from rich.console import Console

from agent_credits_cli.slack_view import slack_view
from tests.unit.notices.every_notice import EXAMPLES, slack_payload


def shown(attachment: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=120, markup=False, emoji=False, highlight=False)
    console.print(slack_view(attachment))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def attachment(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"color": "#E01E5A", "blocks": list(blocks)}


def section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_notice_is_shown_in_full_without_markup(name: str) -> None:
    notice = EXAMPLES[name]()
    (message,) = slack_payload(notice)["attachments"]

    text = shown(message)

    assert notice.email_subject in text
    for step in notice.data.get("fix", []):
        # A long step is wrapped: its first words are enough to find it.
        assert step[:40] in text
    for markup in ("<!date", "*", "&lt;", "&amp;", ":rotating_light:", ":warning:"):
        assert markup not in text


def test_facts_stand_in_two_columns_under_their_labels() -> None:
    fields = [{"type": "mrkdwn", "text": f"*Fact {n}*\nvalue {n}"} for n in (1, 2, 3)]

    lines = shown(attachment({"type": "section", "fields": fields})).splitlines()

    assert [line for line in lines if "Fact 1" in line and "Fact 2" in line]
    assert [line for line in lines if "value 1" in line and "value 2" in line]
    assert [line for line in lines if "Fact 3" in line]


def test_an_escaped_name_is_shown_as_it_is_and_an_instant_in_utc() -> None:
    text = shown(
        attachment(section("a &lt;!channel&gt; &amp;amp; <!date^1^{time}|2026-12-01T00:00:00Z>"))
    )

    assert "a <!channel> &amp; 2026-12-01T00:00:00Z" in text


def test_an_unknown_block_is_shown_as_not_displayable() -> None:
    assert "can't be displayed" in shown(attachment({"type": "rich_text", "elements": []}))
