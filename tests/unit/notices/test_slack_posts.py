"""What Slack's answers mean, how long each webhook is left alone, and which URL is one at all."""

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
    """Stands for the network: answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.told: list[WebhookResponse | Exception] = []
        self.asked: list[str] = []

    def tell(self, status: int, body: str = "ok", **headers: str) -> None:
        self.told.append(WebhookResponse(url="", status_code=status, body=body, headers=headers))

    def answer(self, client: WebhookClient, **_: Any) -> WebhookResponse:
        self.asked.append(client.url)
        answer = self.told.pop(0)
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


def test_an_ok_is_all_there_is_to_a_post(posts: SlackPosts, slack: Slack) -> None:
    slack.tell(200)

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
def test_slacks_wait_is_taken_as_it_is_within_bounds(
    posts: SlackPosts, slack: Slack, header: str, seconds: int
) -> None:
    slack.tell(429, "rate_limited", **{"Retry-After": header})

    assert seconds_asked(posts) == seconds


def test_notices_wait_for_one_webhook_and_no_other_webhook_waits(
    posts: SlackPosts, slack: Slack, clock: Clock
) -> None:
    slack.tell(429, **{"Retry-After": "10"})
    assert seconds_asked(posts) == 10

    clock.later(4)
    assert [seconds_asked(posts) for _ in range(3)] == [6, 6, 6]

    slack.tell(200)
    posts.post(OTHER_URL, MESSAGE)
    assert slack.asked == [URL, OTHER_URL]


def test_slack_is_asked_again_when_the_wait_is_over_and_not_before(
    posts: SlackPosts, slack: Slack, clock: Clock
) -> None:
    slack.tell(429, **{"Retry-After": "10"})
    seconds_asked(posts)

    clock.later(9.999)
    seconds_asked(posts)
    assert slack.asked == [URL]
    clock.later(0.001)
    slack.tell(200)
    posts.post(URL, MESSAGE)

    assert slack.asked == [URL, URL]


def test_a_notice_comes_again_when_slack_asked_for_it_and_never_earlier() -> None:
    assert {retry_in_seconds(RateLimited(7), 1) for _ in range(50)} == {7}


@pytest.mark.parametrize(("receives", "spread"), [(2, 3), (4, 27), (20, SPREAD_SECONDS_MAX)])
def test_notices_that_are_held_up_again_and_again_are_spread_ever_wider(
    receives: int, spread: int
) -> None:
    waits = [retry_in_seconds(RateLimited(7), receives) for _ in range(500)]

    assert min(waits) >= 7
    assert 7 + spread * 3 // 5 < max(waits) < 7 + spread
    assert len(set(waits)) >= min(spread, 300)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_webhook_that_is_gone_is_left_alone_for_a_while(
    posts: SlackPosts, slack: Slack, clock: Clock, status: int
) -> None:
    slack.tell(status, "no_service")
    for _ in range(3):
        with pytest.raises(PostRejected, match=f"{status} .no_service."):
            posts.post(URL, MESSAGE)
    assert slack.asked == [URL]

    clock.later(REVOKED_FOR.total_seconds())
    slack.tell(200)
    posts.post(URL, MESSAGE)

    assert slack.asked == [URL, URL]


@pytest.mark.parametrize("status", [400, 401, 413, 302])
def test_a_message_that_is_rejected_says_nothing_about_the_webhook(
    posts: SlackPosts, slack: Slack, status: int
) -> None:
    slack.tell(status, "invalid_blocks")
    with pytest.raises(PostRejected):
        posts.post(URL, MESSAGE)

    slack.tell(200)
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
def test_no_answer_is_no_rejection_and_its_reason_does_not_name_the_webhook(
    posts: SlackPosts, slack: Slack, fault: Exception
) -> None:
    slack.told.append(fault)

    with pytest.raises(SlackUnavailable, match=type(fault).__name__) as unavailable:
        posts.post(URL, MESSAGE)

    assert "secret" not in str(unavailable.value)


def test_an_answer_that_is_no_code_is_not_quoted(posts: SlackPosts, slack: Slack) -> None:
    slack.tell(400, f"<html>you sent {URL}</html>")

    with pytest.raises(PostRejected) as rejected:
        posts.post(URL, MESSAGE)

    assert str(rejected.value) == "Slack answered 400 (no code)"


def test_a_page_that_says_200_and_not_ok_is_no_success(posts: SlackPosts, slack: Slack) -> None:
    slack.tell(200, "<html>Welcome to the portal</html>")

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
def test_each_reason_says_when_to_come_again(reason: Exception, seconds: list[int]) -> None:
    assert [retry_in_seconds(reason, receives) for receives in (1, 2, 20)] == seconds


@pytest.mark.parametrize("secret", [URL, f'{{"default": "{URL}"}}'])
def test_one_webhook_for_all(secret: str) -> None:
    webhooks = parse_webhooks(secret, "")

    assert webhooks.url_for("acme") == webhooks.url_for("") == URL


def test_a_webhook_for_each_team_and_none_for_the_others() -> None:
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
def test_customers_data_goes_to_slack_or_nowhere(url: str) -> None:
    with pytest.raises(SecretUnavailable) as rejected:
        parse_webhooks(f'{{"default": "{URL}", "teams": {{"acme": "{url}"}}}}', "")

    assert not url or url not in str(rejected.value)


def test_a_stand_in_takes_slacks_place_altogether() -> None:
    base = "http://127.0.0.1:8421"

    assert parse_webhooks(f"{base}/services/T/B/x", base).default == f"{base}/services/T/B/x"
    for elsewhere in (URL, "http://127.0.0.1:84219/services/T/B/x", f"{base}.evil/services/T/B/x"):
        with pytest.raises(SecretUnavailable):
            parse_webhooks(elsewhere, base)
