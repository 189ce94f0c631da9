"""Posting to Slack: which webhook a team's notices go to, and what Slack's answers mean.

Nothing here sleeps or tries again: what was not posted is raised with the time after which the
message is to come again from its queue, so that no function is paid for waiting.
"""

import http.client
import logging
import math
import random
import re
from collections.abc import Callable
from datetime import datetime, timedelta
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

# Slack itself, and its separate world for the government of the United States.
SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
WEBHOOK_PATH = "/services/"

POST_SECONDS_MAX = 10
# Where Slack asks to wait and does not say for how long.
RETRY_AFTER_SECONDS_USUAL = 30
RETRY_AFTER_SECONDS_MAX = 3_600
# By how much a notice waits longer than Slack asks, at most, so that not all come at once.
SPREAD_SECONDS_MAX = 1_800
# A webhook that was revoked is not tried again for so long, however many notices come.
REVOKED_FOR = timedelta(minutes=1)
UNAVAILABLE_SECONDS_LONGEST = 900
# By when another delivery of the same notice has mostly been posted, or has failed.
POSTED_ELSEWHERE_SECONDS = 5

# The client logs the address it posts to, which is a secret, and the message: it may log nothing.
_SILENT = logging.getLogger("slack_sdk of notify_slack")
_SILENT.setLevel(logging.CRITICAL + 1)
# Slack's codes, such as `no_service`; anything else in an answer may quote what was sent.
_CODE = re.compile(r"[a-z_]{1,64}")


class NotPosted(AgentCreditsError):
    """Slack did not take the message. Let it come again after `again_in_seconds`."""


class RateLimited(NotPosted):
    """Slack asked to wait, or others wait for the same webhook already."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"rate limited for {seconds} s")
        self.seconds = seconds


class SlackUnavailable(NotPosted):
    """No definite answer: the message may have been posted, or not."""


class PostRejected(NotPosted):
    """A definite no. Posting again will not help."""


def again_in_seconds(reason: Exception, receives: int) -> int:
    """Return when a message that was received so many times is to come again.

    What never succeeds comes again at once: its receives are used up, and SQS sets it aside.
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


def _spread(receives: int) -> int:
    """Return over how many seconds notices that Slack holds up are spread: at first over none.

    It triples each time: Slack takes about one a second, so hundreds that came at once have to be
    minutes apart before few of them meet.
    """
    spread: int = 3 ** min(receives - 1, 10)
    return min(spread, SPREAD_SECONDS_MAX)


class SlackWebhooks(BaseModel):
    """What the secret holds: the URL of each team's webhook, and one for all others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: str | None = None
    teams: dict[str, str] = {}

    def url_for(self, team_id: str) -> str | None:
        """Return the webhook for the notices of this team; None where nobody wants them."""
        return self.teams.get(team_id, self.default)


def parse_webhooks(secret: str, api_base: str) -> SlackWebhooks:
    """Read one URL, or {"default": URL, "teams": {team id: URL}}. Raises `SecretUnavailable`.

    `api_base` is empty for Slack itself; a stand-in's address takes Slack's place altogether, so
    that customers' data is posted to no third host, and from a local stack never to Slack.
    """
    try:
        webhooks = (
            SlackWebhooks.model_validate_json(secret)
            if secret.startswith("{")
            else SlackWebhooks(default=secret)
        )
    except ValidationError:
        # Without the cause, which quotes the secret.
        raise SecretUnavailable(
            'the secret is neither a webhook URL nor {"default": URL, "teams": {team id: URL}}'
        ) from None
    urls = [*webhooks.teams.values(), *([webhooks.default] if webhooks.default else [])]
    if not urls or not all(_is_webhook(url, api_base) for url in urls):
        where = api_base or f"https://{SLACK_HOSTS[0]}"
        raise SecretUnavailable(f"the secret holds what is no URL below {where}{WEBHOOK_PATH}")
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
    """A webhook that is not to be posted to until then: Slack asked to wait, or rejected it."""

    until: datetime
    rejected: PostRejected | None = None


class SlackPosts:
    """Posts messages, and remembers which webhook wants to be left alone until when."""

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
        # It may have been posted or not. The kind of fault alone: its text may name the URL.
        raise SlackUnavailable(f"no answer ({type(fault).__name__})") from None


def _retry_after(answer: WebhookResponse) -> int:
    seconds = answer.headers.get("Retry-After", "")
    if not seconds.isdecimal():
        return RETRY_AFTER_SECONDS_USUAL
    return max(1, min(int(seconds), RETRY_AFTER_SECONDS_MAX))
