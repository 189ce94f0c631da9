"""What the synchronous and the asynchronous client are made of alike."""

import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from agent_credits_client.amounts import Credits, credits_text
from agent_credits_client.auth import Bearer
from agent_credits_client.calls import Answer, Call, Clock, Jitter, SystemClock
from agent_credits_client.messages import Queue
from agent_credits_client.requests import RunRequest, Trigger
from agent_credits_client.runs import OnUnavailable, Options, RunCore, Ways

USER_AGENT = "agent-credits-client/0.1.0"
# Short, because the client renews: what a run that was killed holds comes back soon.
TTL_SECONDS = 900
TTL_SECONDS_RANGE = range(60, 86_401)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What every run of a client shares."""

    base_url: str
    source: str
    on_unavailable: OnUnavailable
    auth: httpx.Auth | None
    queue: Queue | None
    journals: Path | None
    options: Options
    clock: Clock = field(default_factory=SystemClock)
    jitter: Jitter = random.random
    token: Callable[[], str] = lambda: secrets.token_hex(6)

    @classmethod
    def of(
        cls,
        base_url: str,
        *,
        source: str,
        on_unavailable: OnUnavailable,
        token: str | Callable[[], str] | None,
        auth: httpx.Auth | None,
        queue: Queue | None,
        journals: Path | str | None,
        options: Options | None,
        clock: Clock,
        jitter: Jitter,
    ) -> "Wiring":
        """Check what a client is made with. Raises `ValueError`."""
        if on_unavailable not in ("deny", "allow"):
            raise ValueError("on_unavailable must be 'deny' or 'allow'")
        if token is not None and auth is not None:
            raise ValueError("pass token or auth, not both")
        parts = urlsplit(base_url)
        is_local = parts.hostname in _LOOPBACK or (parts.hostname or "").endswith(".localhost")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_local):
            raise ValueError(
                "base_url must begin with https://, because requests carry credentials"
            )
        return cls(
            base_url=base_url.rstrip("/"),
            source=source,
            on_unavailable=on_unavailable,
            auth=Bearer(token) if token is not None else auth,
            queue=queue,
            journals=Path(journals) if journals is not None else None,
            options=options or Options(),
            clock=clock,
            jitter=jitter,
        )

    def core(
        self,
        run_id: str,
        *,
        team_id: str,
        trigger: Trigger,
        credits: Credits | None,
        ttl_seconds: int,
        parent_run_id: str | None,
        project_id: str | None,
        started_at: datetime | None,
        request_id: str,
        platform_errors: Sequence[type[BaseException]],
        leave_on: Sequence[type[BaseException]],
    ) -> RunCore:
        """Return a run that has not started. Raises `ValueError` or `TypeError`."""
        if ttl_seconds not in TTL_SECONDS_RANGE:
            raise ValueError("ttl_seconds must be from 60 to 86,400")
        if started_at is not None and started_at.tzinfo is None:
            raise ValueError("started_at must have a time zone")
        request = RunRequest(
            run_id=run_id,
            source=self.source,
            team_id=team_id,
            trigger=trigger,
            credits=credits_text(credits) if credits is not None else None,
            ttl_seconds=ttl_seconds,
            parent_run_id=parent_run_id,
            project_id=project_id,
            started_at=started_at,
            request_id=request_id,
        )
        ways = Ways(self.on_unavailable, tuple(platform_errors), tuple(leave_on))
        return RunCore(
            request,
            ways,
            self.options,
            clock=self.clock,
            jitter=self.jitter,
            token=self.token,
            journals=self.journals,
            uses_queue=self.queue is not None,
        )

    def request_of(self, http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
        return http.build_request(
            call.method,
            f"{self.base_url}{call.path}",
            content=call.body,
            headers={"User-Agent": USER_AGENT, "Accept": "application/json", **call.headers},
            timeout=self.options.timeout_seconds,
        )


def answer_of(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.headers, response.text)
