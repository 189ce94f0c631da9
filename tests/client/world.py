"""A client in front of the API itself, without a network: faults between them are what a test says.

Client and service share one clock, which moves when the client sleeps or the test says so.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx

from agent_credits.billing.policy import BillingPolicy
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import available_microcredits, reserved_microcredits
from agent_credits.ledger.entries import Entry
from agent_credits.values.credits import format_credits
from agent_credits_client import AgentCredits, AsyncAgentCredits, AsyncRun, Run
from tests.api_world import ApiWorld, Got
from tests.ledger_of_reservations import check_row
from tests.unit.builders import ANA, NOW, POOLS, grant_change, history, open_account, pause

URL = "https://credits.example.com"
SOURCE = "/platform/agents"
# Half a minute of real time, for what takes milliseconds.
IDLE_LOOKS_MAX = 15_000
TRIGGER: dict[str, str] = {"kind": "user", "user_id": "ana"}


class SharedClock:
    """The clock of both sides. A sleep takes no time and moves it; waiting threads see it move."""

    def __init__(self) -> None:
        self._seconds = 1_000.0
        self._moved = threading.Condition()
        # What the run in the background waits for, and until when.
        self._waits_for: tuple[asyncio.Event | threading.Event, float] | None = None
        self.sleeps: list[float] = []

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self._seconds - 1_000)

    def monotonic(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        with self._moved:
            self._seconds += seconds
            self._moved.notify_all()

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)

    def wait(self, event: threading.Event, seconds: float) -> None:
        ends_at = self.begin_wait(event, seconds)
        while not event.is_set() and self._seconds < ends_at:
            with self._moved:
                self._moved.wait(0.005)
        self.end_wait()

    def begin_wait(self, event: asyncio.Event | threading.Event, seconds: float) -> float:
        self._waits_for = (event, self._seconds + seconds)
        return self._waits_for[1]

    def end_wait(self) -> None:
        self._waits_for = None

    def is_idle(self) -> bool:
        """Return whether the run in the background has nothing to do before time moves on."""
        waits_for = self._waits_for
        if waits_for is None:
            return False
        event, ends_at = waits_for
        return not event.is_set() and self._seconds < ends_at

    def advance_idle(self, seconds: float) -> None:
        """Move time once the run in the background waits, and return once it waits again."""
        self.until_idle()
        self.advance(seconds)
        self.until_idle()

    def until_idle(self) -> None:
        for _ in range(IDLE_LOOKS_MAX):
            if self.is_idle():
                return
            time.sleep(0.002)
        raise AssertionError("the run in the background never comes to rest")


class AsyncSleeper:
    def __init__(self, clock: SharedClock) -> None:
        self._clock = clock

    async def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)
        await asyncio.sleep(0)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        ends_at = self._clock.begin_wait(event, seconds)
        while not event.is_set() and self._clock.monotonic() < ends_at:
            await asyncio.sleep(0.005)
        self._clock.end_wait()


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request: it never arrives, its answer is lost, or the gateway answers.

    `part` is in the path of the request that it is for.
    """

    kind: Literal["not_sent", "lost", "timeout", "answer"]
    part: str = ""
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    text: str = '{"message": "Service Unavailable"}'


@dataclass(frozen=True)
class Seen:
    """A request that the service got, and how it answered."""

    method: str
    path: str
    key: str | None
    body: Any
    status: int


class World(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """`faults` are met in order; `before` is called with each request that arrives."""

    def __init__(
        self,
        credits: str = "500",
        policy: BillingPolicy | None = None,
    ) -> None:
        self.api = ApiWorld()
        if policy is not None:
            self.api.rows.policies[policy.version] = policy
        if credits != "0":
            open_account(self.api.rows, grant_change("g-1", credits=credits))
        self.clock = SharedClock()
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.before: Callable[[str], None] = lambda _: None
        # Until it is set, requests of asynchronous clients are on their way.
        self.gate: asyncio.Event | None = None
        self.service_is_ahead = timedelta(0)
        self._lock = threading.Lock()

    def credits(self, **options: Any) -> AgentCredits:
        given: dict[str, Any] = {
            "source": SOURCE,
            "on_unavailable": "deny",
            "background": False,
            "http": httpx.Client(transport=self),
            "clock": self.clock,
            "sleeper": self.clock,
            "jitter": lambda: 1.0,
        }
        return AgentCredits(URL, **{**given, **options})

    def async_credits(self, **options: Any) -> AsyncAgentCredits:
        given: dict[str, Any] = {
            "source": SOURCE,
            "on_unavailable": "deny",
            "background": False,
            "http": httpx.AsyncClient(transport=self),
            "clock": self.clock,
            "sleeper": AsyncSleeper(self.clock),
            "jitter": lambda: 1.0,
        }
        return AsyncAgentCredits(URL, **{**given, **options})

    def run(self, run_id: str = "run-1", **arguments: Any) -> Run:
        """Return a run of Ana's; what the client takes is told from what the run takes."""
        options, run = _told_apart(arguments)
        return self.credits(**options).run(run_id, **run)

    def async_run(self, run_id: str = "run-1", **arguments: Any) -> AsyncRun:
        options, run = _told_apart(arguments)
        return self.async_credits(**options).run(run_id, **run)

    def grant(self, grant_id: str, credits: str) -> None:
        change = grant_change(grant_id, credits=credits)
        commit(self.api.rows, ANA, [change], now=self.clock.now(), pause=pause)

    # The wire.

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return self._answer(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if self.gate is not None:
            await self.gate.wait()
        return self._answer(request)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        fault = self._fault_of(path)
        if fault is not None and fault.kind == "not_sent":
            raise httpx.ConnectError("connection refused", request=request)
        if fault is not None and fault.kind == "answer":
            return httpx.Response(fault.status, headers=fault.headers, text=fault.text)
        self.before(path)
        got = self.deliver(request)
        if fault is not None and fault.kind == "lost":
            raise httpx.RemoteProtocolError("no answer", request=request)
        if fault is not None:
            raise httpx.ReadTimeout("no answer in time", request=request)
        return httpx.Response(got.status, headers=dict(got.headers), text=got.text)

    def _fault_of(self, path: str) -> Fault | None:
        with self._lock:
            if self.faults and self.faults[0].part in path:
                return self.faults.pop(0)
        return None

    def deliver(self, request: httpx.Request) -> Got:
        """Let the API answer a request, and remember both. One at a time, as rows in memory are."""
        headers = dict(request.headers)
        authorization = headers.pop("authorization", "")
        bearer = authorization.removeprefix("Bearer ") if "Bearer " in authorization else None
        text = request.content.decode()
        path, query = request.url.path, dict(request.url.params)
        body = json.loads(text) if text else None
        key = headers.get("idempotency-key")
        with self._lock:
            self.api.now = self.clock.now() + self.service_is_ahead
            got = self.api.call(
                request.method,
                path,
                text or None,
                door="people" if bearer else "producers",
                bearer=bearer,
                headers=headers,
                content_type=headers.get("content-type", "application/json"),
                query=query,
            )
            self.seen.append(Seen(request.method, path, key, body, got.status))
        return got

    # What came of it.

    @property
    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]

    def entries(self) -> list[Entry]:
        """Return Ana's entries apart from her grant, once the ledger is found to be in order."""
        account = self.api.rows.accounts[ANA]
        entries = history(self.api.rows, ANA)
        check_row(account, entries)
        return [entry for entry in entries if entry.outcome != "granted"]

    def outcomes(self) -> list[tuple[str, str]]:
        """Return each entry's outcome and what it drew."""
        return [(e.outcome, format_credits(e.drawn_microcredits)) for e in self.entries()]

    def drawn(self) -> str:
        return format_credits(
            sum(
                entry.drawn_microcredits
                for entry in self.entries()
                if entry.type == "agent_run.usage"
            )
        )

    def available(self) -> str:
        account = self.api.rows.accounts[ANA]
        return format_credits(available_microcredits(account, POOLS, self.clock.now()))

    def reserved(self) -> str:
        account = self.api.rows.accounts[ANA]
        return format_credits(reserved_microcredits(account, POOLS, self.clock.now()))


def _told_apart(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    of_client = (
        "on_unavailable",
        "token",
        "auth",
        "queue",
        "journals",
        "options",
        "background",
    )
    options = {name: value for name, value in arguments.items() if name in of_client}
    run = {name: value for name, value in arguments.items() if name not in of_client}
    return options, {"team_id": "acme", "trigger": TRIGGER, "credits": "75", **run}


def journal_files(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("*.jsonl"))
