"""The notice that tests whether a channel delivers.

Its severity is `info` and it names its channel: subscriptions of that channel take it whatever
severities they filter by, and people who are paged by severity or type do not get it.
"""

from datetime import datetime

from agent_credits.notices.facts import step_lines
from agent_credits.notices.notice import Channel, Notice
from agent_credits.values.display import time_text
from agent_credits.values.principals import Principal


def channel_test(channel: Channel, team_id: str, key: str, now: datetime) -> Notice:
    """Return a test notice; its `key` differs from that of every other test, or it is a repeat."""
    words = {"slack": "Slack", "email": "e-mail"}[channel]
    fix = ["No action is needed: this is a test, and nothing has happened."]
    lines = [
        f"This is a test. Team {team_id} gets its notices by {words} like this one.",
        "",
        *step_lines(fix),
        "",
        f"Sent: {time_text(now)}",
    ]
    return Notice(
        type="notices.test",
        severity="info",
        principal=Principal("team", team_id),
        team_id=team_id,
        key=key,
        subject=channel,
        time=now,
        retryable=False,
        data={"team_id": team_id, "channel": channel, "fix": fix},
        email_subject=f"TEST: notices of Agent Credits reach you by {words}",
        email_text="\n".join(lines) + "\n",
        channel=channel,
    )
