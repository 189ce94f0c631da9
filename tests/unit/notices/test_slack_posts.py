"""What Slack's answers mean, how long a webhook is not used, and which URLs are accepted."""

import http.client
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
)
from slack_sdk.models.attachments import BlockAttachment
from slack_sdk.models.blocks import DividerBlock
from slack_sdk.webhook import WebhookClient, WebhookResponse

from agent_credits.notices.published import NotAnEnvelope
from agent_credits.notices.slack_posts import (
    RETRY_AFTER_SECONDS_DEFAULT,
    RETRY_AFTER_SECONDS_MAX,
    REVOKED_FOR,
    SPREAD_SECONDS_MAX,
    PostRejected,
    RateLimited,
    SlackPosts,
    SlackUnavailable,
    parse_webhooks,
    retry_in_seconds,
)
from agent_credits.values.errors import SecretUnavailable

URL = "https://hooks.slack.com/services/T0/B0/secret"
OTHER_URL = "https://hooks.slack.com/services/T0/B1/other"
MESSAGE = BlockAttachment(blocks=[DividerBlock()])


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Slack:
    """A fake of the network: gives the prepared answers, and records the URLs of its calls."""

    def __init__(self) -> None:
        self.answers: list[WebhookResponse | Exception] = []
        self.asked: list[str] = []

    def will_answer(self, status: int, body: str = "ok", **headers: str) -> None:
        self.answers.append(WebhookResponse(url="", status_code=status, body=body, headers=headers))

    def answer(self, client: WebhookClient, **_: Any) -> WebhookResponse:
        self.asked.append(client.url)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Slack:
    slack = Slack()
    monkeypatch.setattr(WebhookClient, "_perform_http_request", lambda c, **k: slack.answer(c, **k))
    return slack


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def posts(clock: Clock) -> SlackPosts:
    return SlackPosts(clock)


def seconds_asked(posts: SlackPosts, url: str = URL) -> int:
    with pytest.raises(RateLimited) as waits:
        posts.post(url, MESSAGE)
    return waits.value.seconds


def test_a_post_succeeds_when_slack_answers_ok(posts: SlackPosts, slack: Slack) -> None:
    slack.will_answer(200)

    posts.post(URL, MESSAGE)

    assert slack.asked == [URL]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2),
        ("30", 30),
        ("0", 1),
        ("999999", RETRY_AFTER_SECONDS_MAX),
        ("soon", RETRY_AFTER_SECONDS_DEFAULT),
        ("", RETRY_AFTER_SECONDS_DEFAULT),
    ],
)
def test_slacks_retry_after_is_honoured_within_bounds(
    posts: SlackPosts, slack: Slack, header: str, seconds: int
) -> None:
    slack.will_answer(429, "rate_limited", **{"Retry-After": header})

    assert seconds_asked(posts) == seconds


def test_a_rate_limit_holds_back_its_own_webhook_only(
    posts: SlackPosts, slack: Slack, clock: Clock
) -> None:
    slack.will_answer(429, **{"Retry-After": "10"})
    assert seconds_asked(posts) == 10

    clock.later(4)
    assert [seconds_asked(posts) for _ in range(3)] == [6, 6, 6]

    slack.will_answer(200)
    posts.post(OTHER_URL, MESSAGE)
    assert slack.asked == [URL, OTHER_URL]


def test_slack_is_posted_to_again_when_the_wait_is_over_and_not_before(
    posts: SlackPosts, slack: Slack, clock: Clock
) -> None:
    slack.will_answer(429, **{"Retry-After": "10"})
    seconds_asked(posts)

    clock.later(9.999)
    seconds_asked(posts)
    assert slack.asked == [URL]
    clock.later(0.001)
    slack.will_answer(200)
    posts.post(URL, MESSAGE)

    assert slack.asked == [URL, URL]


def test_a_notice_is_delivered_again_after_the_wait_that_slack_asked_for() -> None:
    assert {retry_in_seconds(RateLimited(7), 1) for _ in range(50)} == {7}


@pytest.mark.parametrize(("receives", "spread"), [(2, 3), (4, 27), (20, SPREAD_SECONDS_MAX)])
def test_each_further_rate_limit_spreads_notices_wider(receives: int, spread: int) -> None:
    waits = [retry_in_seconds(RateLimited(7), receives) for _ in range(500)]

    assert min(waits) >= 7
    assert 7 + spread * 3 // 5 < max(waits) < 7 + spread
    assert len(set(waits)) >= min(spread, 300)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_revoked_webhook_is_not_tried_again_for_a_minute(
    posts: SlackPosts, slack: Slack, clock: Clock, status: int
) -> None:
    slack.will_answer(status, "no_service")
    for _ in range(3):
        with pytest.raises(PostRejected, match=f"{status} .no_service."):
            posts.post(URL, MESSAGE)
    assert slack.asked == [URL]

    clock.later(REVOKED_FOR.total_seconds())
    slack.will_answer(200)
    posts.post(URL, MESSAGE)

    assert slack.asked == [URL, URL]


@pytest.mark.parametrize("status", [400, 401, 413, 302])
def test_a_rejected_message_does_not_close_its_webhook(
    posts: SlackPosts, slack: Slack, status: int
) -> None:
    slack.will_answer(status, "invalid_blocks")
    with pytest.raises(PostRejected):
        posts.post(URL, MESSAGE)

    slack.will_answer(200)
    posts.post(URL, MESSAGE)

    assert slack.asked == [URL, URL]


@pytest.mark.parametrize(
    "fault",
    [
        TimeoutError("timed out"),
        ConnectionResetError(f"reset by {URL}"),
        http.client.RemoteDisconnected("gone"),
        http.client.IncompleteRead(b"half"),
    ],
)
def test_no_answer_counts_as_unavailable_and_the_reason_does_not_name_the_webhook(
    posts: SlackPosts, slack: Slack, fault: Exception
) -> None:
    slack.answers.append(fault)

    with pytest.raises(SlackUnavailable, match=type(fault).__name__) as unavailable:
        posts.post(URL, MESSAGE)

    assert "secret" not in str(unavailable.value)


def test_an_answer_that_is_not_a_code_is_not_quoted(posts: SlackPosts, slack: Slack) -> None:
    slack.will_answer(400, f"<html>you sent {URL}</html>")

    with pytest.raises(PostRejected) as rejected:
        posts.post(URL, MESSAGE)

    assert str(rejected.value) == "Slack answered 400 (no code)"


def test_a_200_without_ok_is_not_a_success(posts: SlackPosts, slack: Slack) -> None:
    slack.will_answer(200, "<html>Welcome to the portal</html>")

    with pytest.raises(PostRejected):
        posts.post(URL, MESSAGE)


def test_the_address_and_the_message_are_never_logged(
    posts: SlackPosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")

    def reject(*_: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(WebhookClient, "_perform_http_request_internal", reject)
    with pytest.raises(SlackUnavailable):
        posts.post(URL, MESSAGE)

    assert caplog.text == ""


@pytest.mark.parametrize(
    ("reason", "seconds"),
    [
        (PostRejected("no"), [0, 0, 0]),
        (NotAnEnvelope("no"), [0, 0, 0]),
        (IdempotencyAlreadyInProgressError("busy"), [5, 5, 5]),
        (SlackUnavailable("down"), [2, 4, 900]),
        (SecretUnavailable("none yet"), [2, 4, 900]),
    ],
)
def test_each_reason_has_its_own_retry_delay(reason: Exception, seconds: list[int]) -> None:
    assert [retry_in_seconds(reason, receives) for receives in (1, 2, 20)] == seconds


@pytest.mark.parametrize("secret", [URL, f'{{"default": "{URL}"}}'])
def test_one_webhook_for_all(secret: str) -> None:
    webhooks = parse_webhooks(secret, "")

    assert webhooks.url_for("acme") == webhooks.url_for("") == URL


def test_each_team_has_its_webhook_and_other_teams_have_none() -> None:
    webhooks = parse_webhooks(f'{{"teams": {{"acme": "{URL}"}}}}', "")

    assert webhooks.url_for("acme") == URL
    assert webhooks.url_for("other") is None


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.slack.com/services/T0/B0/x",
        "https://hooks.slack.com.evil.example/services/T0/B0/x",
        "https://hooks.slack.com@evil.example/services/T0/B0/x",
        "https://evil.example/services/T0/B0/x",
        "https://hooks.slack.com:8443/services/T0/B0/x",
        "https://hooks.slack.com/other/T0",
        "file:///etc/passwd",
        "https://[hooks.slack.com/services/T0/B0/x",
        "",
    ],
)
def test_a_url_of_any_other_host_is_rejected(url: str) -> None:
    with pytest.raises(SecretUnavailable) as rejected:
        parse_webhooks(f'{{"default": "{URL}", "teams": {{"acme": "{url}"}}}}', "")

    assert not url or url not in str(rejected.value)


def test_with_a_stand_in_a_url_of_slack_is_rejected() -> None:
    base = "http://127.0.0.1:8421"

    assert parse_webhooks(f"{base}/services/T/B/x", base).default == f"{base}/services/T/B/x"
    for elsewhere in (URL, "http://127.0.0.1:84219/services/T/B/x", f"{base}.evil/services/T/B/x"):
        with pytest.raises(SecretUnavailable):
            parse_webhooks(elsewhere, base)
