"""`agent-credits notices`: what was published, and whether it reaches its recipients."""

import itertools
import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, get_args

import typer

from agent_credits.aws.kept_notices import KEPT_FOR, KeptNotice, KeptNotices
from agent_credits.aws.topic import NoticesTopic
from agent_credits.notices.channel_tests import channel_test
from agent_credits.notices.facts import instant_of
from agent_credits.notices.notice import Channel, NoticeType
from agent_credits.notices.slack_messages import slack_message
from agent_credits.values.display import time_text
from agent_credits_cli.conventions import Command
from agent_credits_cli.errors import CommandError, CommandGroup, has_subcommand
from agent_credits_cli.slack_view import slack_view
from agent_credits_cli.tables import LIMIT_MAX, AsJson, err, out, print_json, print_json_line
from agent_credits_cli.target import Target, connect

app = typer.Typer(
    cls=CommandGroup,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND] [ARGS]...",
    help=(
        "Print the notices that were published, newest first, as Slack shows them.\n\n"
        "Also those that were published while nobody watched. Each is kept for 30 days. With "
        "--json, print the CloudEvents as NDJSON."
    ),
)

PROTOCOLS: Final[dict[Channel, str]] = {"slack": "sqs", "email": "email"}
HOW_TO_SUBSCRIBE: Final[dict[Channel, str]] = {
    "slack": "deploy with the parameter SlackNotices=true",
    "email": "deploy with the parameter BillingEmail or OnCallEmail",
}
# A topic of this stack always has fewer.
SUBSCRIPTIONS_MAX: Final = 1_000
# Where a subscriber has not confirmed yet, SNS says this instead of naming the subscription.
PENDING: Final = "PendingConfirmation"
ARRIVES_SECONDS_MAX: Final = 20.0
LOOK_EVERY_SECONDS: Final = 0.2
LISTED_DEFAULT: Final = 20
# An age: 90s, 15m, 24h, 7d.
AGE: Final = re.compile(r"(\d{1,5})([smhd])")
UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Recipient:
    """A subscription that takes the test."""

    name: str
    is_confirmed: bool


@app.callback()
def notices(
    context: typer.Context,
    since: Annotated[
        str,
        typer.Option(metavar="WHEN", help="From an age on, such as 2h or 7d, or a time with zone."),
    ] = f"{KEPT_FOR.days}d",
    notice_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only notices of this type.")
    ] = None,
    team: Annotated[str | None, typer.Option(help="Only notices that name this team.")] = None,
    limit: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=LIMIT_MAX, help="Stop after this many notices."),
    ] = LISTED_DEFAULT,
    as_json: AsJson = False,
) -> None:
    if has_subcommand(context):
        return
    if notice_type not in (None, *get_args(NoticeType)):
        raise CommandError(
            f"no notice is of type {notice_type!r}; the types are {', '.join(get_args(NoticeType))}"
        )
    target, now = connect(context), datetime.now(UTC)
    kept = KeptNotices(target.dynamodb, target.outputs.notices_table_name)
    found = kept.newest_first(instant_from(since, now), now, notice_type, team)
    # One more, to know whether there are more.
    listed = list(itertools.islice(found, limit + 1))
    for notice in listed[:limit]:
        if as_json:
            print_json_line(notice.published.notice)
        else:
            _print(notice)
    if not listed:
        err().print(f"no such notice was published since {time_text(instant_from(since, now))}")
    elif len(listed) > limit:
        err().print(f"there are more than {limit:,}; raise --limit")


def instant_from(text: str, now: datetime) -> datetime:
    """Return the instant that an age or a time names."""
    age = AGE.fullmatch(text)
    if age:
        return now - timedelta(**{UNITS[age[2]]: int(age[1])})
    instant = instant_of(text)
    if instant is None:
        raise CommandError(
            f"{text!r} is neither an age, such as 90s, 15m, 24h or 7d, nor a time with its zone,"
            " such as 2026-12-01T00:00:00Z"
        )
    return instant


def _print(notice: KeptNotice) -> None:
    attachment = slack_message(notice.published).to_dict()
    out().print(f"Published {time_text(notice.published_at)}", slack_view(attachment), "", sep="\n")


@app.command("test", cls=Command)
def send_test(
    context: typer.Context,
    channel: Annotated[
        Channel, typer.Option(help=f"The channel to test: {' or '.join(PROTOCOLS)}.")
    ],
    team: Annotated[
        str,
        typer.Option(help="Test this team's webhook; a team without one uses the default webhook."),
    ] = "test",
    as_json: AsJson = False,
) -> None:
    """Send a notice that is marked as a test through the topic, to one channel's subscribers.

    Other channels do not receive it: the notice is not critical, and it names its channel.
    """
    target = connect(context)
    recipients = list(recipients_of(target, channel))
    if not recipients:
        raise CommandError(
            f"no subscription to the notices of {target.name} takes tests of {channel};"
            f" {HOW_TO_SUBSCRIBE[channel]}, or add the channel to your filter policy"
        )
    posted_before = target.posted_to_slack() if channel == "slack" else None
    notice = channel_test(channel, team, uuid.uuid4().hex, datetime.now(UTC))
    NoticesTopic(target.sns, target.outputs.notices_topic_arn).publish(notice)
    kept = KeptNotices(target.dynamodb, target.outputs.notices_table_name)
    kept.put_all([notice], datetime.now(UTC))
    arrived = None
    if posted_before is not None:
        arrived = _wait_for(target, len(posted_before), notice.email_subject)
    if as_json:
        report: dict[str, Any] = {
            "notice": notice.to_cloudevent(),
            "recipients": [asdict(recipient) for recipient in recipients],
        }
        print_json(report | ({"message": arrived} if arrived else {}))
        return
    out().print(f"Sent the test notice {notice.id} to:", soft_wrap=True)
    for recipient in recipients:
        state = "" if recipient.is_confirmed else ": not confirmed yet, so it receives nothing"
        out().print(f"  {recipient.name}{state}", soft_wrap=True)
    if arrived:
        out().print("\nThe stand-in for Slack received:\n")
        out().print(slack_view(arrived))
    elif channel == "slack":
        out().print(
            "\nIf it is not in Slack within a minute, the log of NotifySlack says why.",
            soft_wrap=True,
        )


def recipients_of(target: Target, channel: Channel) -> Iterator[Recipient]:
    """Yield the subscriptions of this channel that take tests of it."""
    pages = target.sns.get_paginator("list_subscriptions_by_topic").paginate(
        TopicArn=target.outputs.notices_topic_arn,
        PaginationConfig={"MaxItems": SUBSCRIPTIONS_MAX},
    )
    for subscription in (one for page in pages for one in page["Subscriptions"]):
        if subscription["Protocol"] != PROTOCOLS[channel]:
            continue
        arn = subscription["SubscriptionArn"]
        name = _name_of(channel, subscription["Endpoint"])
        if arn == PENDING:
            yield Recipient(name, is_confirmed=False)
            continue
        attributes = target.sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"]
        if takes_test(attributes.get("FilterPolicy", ""), channel):
            is_pending = attributes.get("PendingConfirmation", "false") == "true"
            yield Recipient(name, is_confirmed=not is_pending)


def takes_test(filter_policy: str, channel: Channel) -> bool:
    """Tell whether a filter policy names the channel.

    A subscription without a policy takes everything, so it does not belong to one channel.
    """
    policy = json.loads(filter_policy or "{}")
    alternatives = policy.get("$or", [policy])
    return any(channel in alternative.get("channel", []) for alternative in alternatives)


def _name_of(channel: Channel, endpoint: str) -> str:
    if channel == "slack":
        return f"the queue {endpoint.rpartition(':')[2]}"
    # The address is personal data, and the output may end up in a log.
    user, _, host = endpoint.partition("@")
    return f"{user[:1]}…@{host}"


def _wait_for(target: Target, posted_before: int, subject: str) -> Mapping[str, Any]:
    """Return the test's message as the stand-in received it."""
    gives_up_at = time.monotonic() + ARRIVES_SECONDS_MAX
    while time.monotonic() < gives_up_at:
        for attachment in (target.posted_to_slack() or ())[posted_before:]:
            if subject in attachment["fallback"]:
                return attachment
        time.sleep(LOOK_EVERY_SECONDS)
    raise CommandError(
        f"the test was not posted within {ARRIVES_SECONDS_MAX:.0f} s;"
        " the log of notify_slack says why"
    )
