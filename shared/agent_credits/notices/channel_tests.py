"""The notice that tests a channel: is anybody there, and does it get through?

It is news, whatever the channel filters by, and names the channel that it is for: subscriptions of
that channel take it, and whoever is paged by severity or type is left in peace.
"""

from datetime import datetime

from agent_credits.notices.notice import Channel, Notice, iso
from agent_credits.values.principals import Principal


def channel_test(channel: Channel, team_id: str, key: str, now: datetime) -> Notice:
    """Return a test notice; `key` tells it from every other test, which would count as a repeat."""
    words = {"slack": "Slack", "email": "e-mail"}[channel]
    return Notice(
        type="notices.test",
        severity="info",
        principal=Principal("team", team_id),
        team_id=team_id,
        key=key,
        subject=channel,
        time=now,
        retryable=False,
        data={
            "team_id": team_id,
            "channel": channel,
            "fix": ["Nothing: this is a test, and nothing has happened."],
        },
        email_subject=f"TEST: notices of Agent Credits reach you by {words}",
        email_text=(
            f"This is a test of the notices by {words}, as team {team_id} would get them.\n"
            "\n"
            "What to do now:\n"
            "- Nothing: this is a test, and nothing has happened.\n"
            "\n"
            f"Sent:      {iso(now)}\n"
        ),
        channel=channel,
    )
