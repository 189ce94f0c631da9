"""Credentials: tokens that refresh, signatures of what is really sent, nothing in plain text."""

import asyncio
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from agent_credits_client import AgentCredits, InsufficientCredits
from agent_credits_client.auth import Bearer
from agent_credits_client.aws import SigV4
from tests.api_world import token
from tests.client.world import World

CREDENTIALS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI", "a-session-token")
SIGNED = "content-type;host;idempotency-key;x-amz-date;x-amz-security-token"


def test_a_token_is_asked_for_before_each_request() -> None:
    world = World()
    tokens = iter([token(role="operator", jti=str(n)) for n in range(9)])
    asked: list[str] = []

    def fresh() -> str:
        asked.append(next(tokens))
        return asked[-1]

    with world.run(token=fresh) as run:
        run.use("10")

    assert len(asked) == len(world.seen) == 3
    assert world.drawn() == "10"


def test_a_token_of_one_run_reserves_and_reports_for_that_run() -> None:
    world = World()

    with world.run(token=token(run_id="run-1")) as run:
        run.use("10")

    assert (world.available(), world.reserved()) == ("490", "0")


def test_a_token_is_not_in_what_is_printed() -> None:
    assert "secret" not in repr(Bearer("secret"))


class Verifying(World):
    """Verifies signatures as AWS does: from what arrived, with a secret of its own."""

    def deliver(self, request: httpx.Request) -> Any:
        names = request.headers["authorization"].split("SignedHeaders=")[1].split(",")[0]
        expected = AWSRequest(
            request.method,
            str(request.url),
            {n: request.headers[n] for n in names.split(";") if not n.startswith("x-amz-")},
            data=request.content,
        )
        expected.context["timestamp"] = request.headers["x-amz-date"]
        signer = SigV4Auth(CREDENTIALS, "execute-api", "eu-central-1")
        expected.headers["X-Amz-Date"] = request.headers["x-amz-date"]
        expected.headers["X-Amz-Security-Token"] = request.headers["x-amz-security-token"]
        signature = signer.signature(
            signer.string_to_sign(expected, signer.canonical_request(expected)), expected
        )
        assert request.headers["authorization"].endswith(f"Signature={signature}")
        assert set(names.split(";")) >= {"host", "x-amz-date", "x-amz-security-token"}
        return super().deliver(request)


@pytest.mark.parametrize("run_id", ["run-1", "a/b c", "run:1@x"])
def test_a_signature_is_of_what_arrives(run_id: str) -> None:
    world = Verifying()
    auth = SigV4(CREDENTIALS, "eu-central-1")

    run = world.run(run_id.replace(" ", "_"), auth=auth).start()
    run.leave()
    with world.run(run_id.replace(" ", "_"), auth=auth, ttl_seconds=900) as run:
        run.use("10")

    assert (world.drawn(), world.reserved()) == ("10", "0")


def test_a_query_is_signed_as_it_arrives() -> None:
    world = Verifying()
    auth = SigV4(CREDENTIALS, "eu-central-1")
    world.run(auth=auth, ttl_seconds=60).start()
    world.clock.advance(61)

    # Looks for what became of the first reservation, as `?principal=user%3Aana`.
    with world.run(auth=auth, ttl_seconds=60) as run:
        assert run.is_reserved

    assert "GET" in {seen.method for seen in world.seen}


def test_the_asynchronous_client_signs_alike() -> None:
    world = Verifying()

    async def main() -> None:
        async with world.async_run(auth=SigV4(CREDENTIALS, "eu-central-1")) as run:
            await run.use("10")

    asyncio.run(main())

    assert world.drawn() == "10"


def test_the_headers_that_make_a_request_what_it_is_are_signed() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(403, json={"error": "insufficient_credits", "title": "no"})

    credits = AgentCredits(
        "https://abc.execute-api.eu-central-1.amazonaws.com",
        source="/s",
        on_unavailable="deny",
        auth=SigV4(CREDENTIALS, "eu-central-1"),
        http=httpx.Client(transport=httpx.MockTransport(answer)),
    )
    with pytest.raises(InsufficientCredits):
        credits.run("r", team_id="t", trigger={"kind": "user", "user_id": "u"}).start()

    assert f"SignedHeaders={SIGNED}" in seen[0]
    assert "/eu-central-1/execute-api/aws4_request" in seen[0]


@pytest.mark.parametrize(
    "url", ["http://credits.example.com", "ftp://x", "credits.example.com", "http://localhost.evil"]
)
def test_credentials_are_never_sent_in_plain_text(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        AgentCredits(url, source="/s", on_unavailable="deny", token="t")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:4566", "http://localhost", "http://[::1]:1", "http://a.localhost:1"]
)
def test_a_local_stack_needs_no_tls(url: str) -> None:
    AgentCredits(url, source="/s", on_unavailable="deny", token="t").close()


def test_a_redirect_is_not_followed_with_the_credentials() -> None:
    hosts: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(302, headers={"Location": "https://evil.example.com"})

    world = World()
    http = httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True)
    run = world.credits(http=http, token="t", on_unavailable="allow").run(
        "r", team_id="t", trigger={"kind": "user", "user_id": "u"}
    )

    run.start()

    assert set(hosts) == {"credits.example.com"}


def test_a_client_has_one_kind_of_credentials() -> None:
    with pytest.raises(ValueError, match="not both"):
        AgentCredits(
            "https://x",
            source="/s",
            on_unavailable="deny",
            token="t",
            auth=httpx.BasicAuth("a", "b"),
        )
