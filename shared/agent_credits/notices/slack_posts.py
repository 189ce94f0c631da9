"""Posting to Slack: which webhook gets a team's notices, and what Slack's answers mean.

Nothing here sleeps or retries, so that no function is paid for waiting. A failed post is raised,
and the queue delivers its message again after `retry_in_seconds`.
"""

import http.client
import logging
import math
import random
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import urlsplit

from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
)
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, ValidationError
from slack_sdk.models.attachments import BlockAttachment
from slack_sdk.webhook import WebhookClient, WebhookResponse

from agent_credits.notices.published import NotAnEnvelope
from agent_credits.values.errors import AgentCreditsError, SecretUnavailable

# Slack itself, and its separate deployment for the government of the United States.
SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
WEBHOOK_PATH = "/services/"

POST_SECONDS_MAX = 10
# Used where Slack asks to wait and does not say for how long.
RETRY_AFTER_SECONDS_DEFAULT = 30
RETRY_AFTER_SECONDS_MAX = 3_600
# A notice waits up to this much longer than Slack asks, so that notices do not all return at once.
SPREAD_SECONDS_MAX = 1_800
# A revoked webhook is not tried again for this long, however many notices arrive.
REVOKED_FOR = timedelta(minutes=1)
UNAVAILABLE_SECONDS_LONGEST = 900
# By then another delivery of the same notice has usually been posted, or has failed.
POSTED_ELSEWHERE_SECONDS = 5

# The client would log the URL that it posts to, which is a secret, and the message.
_SILENT = logging.getLogger("slack_sdk of notify_slack")
_SILENT.setLevel(logging.CRITICAL + 1)
# Slack's codes, such as `no_service`. Any other text of an answer may quote what was sent.
_CODE = re.compile(r"[a-z_]{1,64}")


class NotPosted(AgentCreditsError):
    """Slack did not accept the message. Retry after `retry_in_seconds`."""


class RateLimited(NotPosted):
    """Slack asked to wait, or other notices already wait for the same webhook."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"rate limited for {seconds} s")
        self.seconds = seconds


class SlackUnavailable(NotPosted):
    """No definite answer: the message may have been posted, or not."""


class PostRejected(NotPosted):
    """Slack rejected the message or the webhook. Posting again will not help."""


def retry_in_seconds(reason: Exception, receives: int) -> int:
    """Return after how long a message that was received this many times is delivered again.

    A message that can never be posted is delivered again at once: that uses up its receives, and
    SQS moves it to the dead-letter queue.
    """
    match reason:
        case RateLimited():
            return reason.seconds + random.randrange(_spread(receives))
        case PostRejected() | NotAnEnvelope():
            return 0
        case IdempotencyAlreadyInProgressError():
            return POSTED_ELSEWHERE_SECONDS
        case _:
            return min(1 << min(receives, 10), UNAVAILABLE_SECONDS_LONGEST)


def metric_of(
    reason: Exception,
) -> Literal["MessagesPostponed", "MessagesRejected", "MessagesWaiting"]:
    """Return as what a message that was not posted is counted.

    Waiting ends by itself. A rejected message is in the dead-letter queue within seconds. What is
    postponed stays for hours, and somebody may have to fix something.
    """
    match reason:
        case RateLimited() | IdempotencyAlreadyInProgressError():
            return "MessagesWaiting"
        case PostRejected() | NotAnEnvelope():
            return "MessagesRejected"
        case _:
            return "MessagesPostponed"


def _spread(receives: int) -> int:
    """Return over how many seconds rate-limited notices are spread: none for the first receive.

    The spread triples with each receive. Slack accepts about one message a second, so hundreds that
    arrived together must be spread over minutes before few of them collide.
    """
    spread: int = 3 ** min(receives - 1, 10)
    return min(spread, SPREAD_SECONDS_MAX)


class SlackWebhooks(BaseModel):
    """The secret's content: the webhook URL of each team, and one for all other teams."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: str | None = None
    teams: dict[str, str] = {}

    def url_for(self, team_id: str) -> str | None:
        """Return the webhook for this team's notices, or None where none is configured."""
        return self.teams.get(team_id, self.default)


def parse_webhooks(secret: str, api_base: str) -> SlackWebhooks:
    """Read one URL, or {"default": URL, "teams": {team id: URL}}. Raises `SecretUnavailable`.

    `api_base` is empty for Slack itself. A stand-in's address replaces Slack completely: customers'
    data is posted to no third host, and a local stack never posts to Slack.
    """
    try:
        webhooks = (
            SlackWebhooks.model_validate_json(secret)
            if secret.startswith("{")
            else SlackWebhooks(default=secret)
        )
    except ValidationError:
        # Not `from` the error, which quotes the secret.
        raise SecretUnavailable(
            'the secret is neither a webhook URL nor {"default": URL, "teams": {team id: URL}}'
        ) from None
    urls = [*webhooks.teams.values(), *([webhooks.default] if webhooks.default else [])]
    if not urls or not all(_is_webhook(url, api_base) for url in urls):
        where = api_base or f"https://{SLACK_HOSTS[0]}"
        raise SecretUnavailable(
            f"the secret holds a URL that does not start with {where}{WEBHOOK_PATH}, or holds none"
        )
    return webhooks


def _is_webhook(url: str, api_base: str) -> bool:
    if api_base:
        return url.startswith(f"{api_base}{WEBHOOK_PATH}")
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return (
        parts.scheme == "https"
        and parts.netloc in SLACK_HOSTS
        and parts.path.startswith(WEBHOOK_PATH)
    )


class _Closed(Struct, frozen=True):
    """A webhook that is not used until then: Slack asked to wait, or rejected the webhook."""

    until: datetime
    rejected: PostRejected | None = None


class SlackPosts:
    """Posts messages, and remembers which webhooks are not used for a while."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._closed: dict[str, _Closed] = {}

    def post(self, url: str, message: BlockAttachment) -> None:
        """Post a message once. Raises a kind of `NotPosted`."""
        self._require_open(url)
        answer = _send(url, message)
        if answer.status_code == http.client.OK and answer.body.strip() == "ok":
            return
        code = answer.body if _CODE.fullmatch(answer.body) else "no code"
        reason = f"Slack answered {answer.status_code} ({code})"
        if answer.status_code == http.client.TOO_MANY_REQUESTS:
            seconds = _retry_after(answer)
            self._closed[url] = _Closed(self._clock() + timedelta(seconds=seconds))
            raise RateLimited(seconds)
        if answer.status_code >= http.client.INTERNAL_SERVER_ERROR:
            raise SlackUnavailable(reason)
        rejected = PostRejected(reason)
        if answer.status_code in (http.client.FORBIDDEN, http.client.NOT_FOUND, http.client.GONE):
            until = self._clock() + REVOKED_FOR
            self._closed[url] = _Closed(until, rejected)
        raise rejected

    def _require_open(self, url: str) -> None:
        closed, now = self._closed.get(url), self._clock()
        if closed is None or now >= closed.until:
            return
        raise closed.rejected or RateLimited(math.ceil((closed.until - now).total_seconds()))


def _send(url: str, message: BlockAttachment) -> WebhookResponse:
    client = WebhookClient(url, timeout=POST_SECONDS_MAX, logger=_SILENT, retry_handlers=[])
    try:
        return client.send(attachments=[message])
    except (OSError, http.client.HTTPException) as fault:
        # The message may have been posted. Only the kind of fault is named: its text may hold the
        # URL.
        raise SlackUnavailable(f"no answer ({type(fault).__name__})") from None


def _retry_after(answer: WebhookResponse) -> int:
    seconds = answer.headers.get("Retry-After", "")
    if not seconds.isdecimal():
        return RETRY_AFTER_SECONDS_DEFAULT
    return max(1, min(int(seconds), RETRY_AFTER_SECONDS_MAX))
