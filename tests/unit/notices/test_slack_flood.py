"""A flood of notices against a Slack that accepts one a second: all are posted, none is lost.

Time is simulated: a queue that shows messages when their wait is over, two copies of the function,
each with its own memory, and Slack's limit.
"""

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from slack_sdk.models.attachments import BlockAttachment
from slack_sdk.models.blocks import DividerBlock
from slack_sdk.webhook import WebhookClient, WebhookResponse

from agent_credits.notices.slack_posts import NotPosted, SlackPosts, retry_in_seconds
from tests.template import load_template

RECEIVES_MAX = load_template()["Resources"]["SlackQueue"]["Properties"]["RedrivePolicy"][
    "maxReceiveCount"
]
COPIES = load_template()["Resources"]["NotifySlack"]["Properties"]["Events"]["Notices"][
    "Properties"
]["ScalingConfig"]["MaximumConcurrency"]
URL = "https://hooks.slack.com/services/T0/B0/secret"
MESSAGE = BlockAttachment(blocks=[DividerBlock()])
START = datetime(2026, 11, 23, 10, tzinfo=UTC)
A_POST = timedelta(milliseconds=100)


@dataclass
class SlowSlack:
    """Slack and the queue before it; `retry_after` is what Slack asks for, in seconds."""

    retry_after: int
    now: datetime = START
    taken_at: list[datetime] = field(default_factory=list)
    waits_asked_for: int = 0
    asked_too_early: int = 0
    wait_until: datetime = START

    def answer(self, _client: WebhookClient, **_: Any) -> WebhookResponse:
        if self.now < self.wait_until:
            self.asked_too_early += 1
            return self._ask_to_wait()
        if self.taken_at and self.now < self.taken_at[-1] + timedelta(seconds=1):
            self.waits_asked_for += 1
            self.wait_until = self.now + timedelta(seconds=self.retry_after)
            return self._ask_to_wait()
        self.taken_at.append(self.now)
        return WebhookResponse(url="", status_code=200, body="ok", headers={})

    def _ask_to_wait(self) -> WebhookResponse:
        seconds = math.ceil((self.wait_until - self.now).total_seconds())
        headers = {"Retry-After": str(seconds)}
        return WebhookResponse(url="", status_code=429, body="rate_limited", headers=headers)

    def deliver_all(self, notices: int) -> int:
        """Deliver until nothing is left; return the most often that one message was received."""
        copies = itertools.cycle([SlackPosts(lambda: self.now) for _ in range(COPIES)])
        numbers = itertools.count()
        queue = [(START, next(numbers), 1) for _ in range(notices)]
        heapq.heapify(queue)
        most = 0
        while queue:
            visible_at, _, receives = heapq.heappop(queue)
            self.now = max(self.now, visible_at)
            most = max(most, receives)
            try:
                next(copies).post(URL, MESSAGE)
            except NotPosted as reason:
                wait = timedelta(seconds=retry_in_seconds(reason, receives))
                heapq.heappush(queue, (self.now + wait, next(numbers), receives + 1))
            self.now += A_POST / COPIES
        return most


@pytest.mark.parametrize("retry_after", [1, 5, 30])
@pytest.mark.parametrize("notices", [50, 500])
def test_a_flood_of_notices_is_posted_in_full_without_exhausting_receives(
    retry_after: int, notices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slack = SlowSlack(retry_after)
    monkeypatch.setattr(WebhookClient, "_perform_http_request", lambda c, **k: slack.answer(c, **k))
    random.seed(notices + retry_after)

    receives = slack.deliver_all(notices)

    assert len(slack.taken_at) == notices
    # Half of what there are, so that as many again are left for faults.
    assert receives <= RECEIVES_MAX // 2
    # A copy of the function that knows of Slack's wait does not post: each finds out once per wait.
    assert slack.asked_too_early <= slack.waits_asked_for * (COPIES - 1)
