"""The synchronous client. A thread for each run sends its usage and renews its reservation."""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import httpx

from agent_credits_client.amounts import Credits
from agent_credits_client.calls import (
    Answer,
    Call,
    Clock,
    Done,
    Enqueue,
    Flow,
    Jitter,
    Sleep,
    SystemClock,
    advance,
)
from agent_credits_client.errors import AgentCreditsError, Directive, NoAnswer
from agent_credits_client.messages import Message, Queue
from agent_credits_client.requests import RESERVE_ID, Status, Trigger
from agent_credits_client.runs import OnUnavailable, Options, RunCore, RunView
from agent_credits_client.wiring import TTL_SECONDS, Wiring, answer_of

logger = logging.getLogger("agent_credits_client")

Result = TypeVar("Result")


class Sleeper(Protocol):
    """How the client waits, as a test may want to do it."""

    def sleep(self, seconds: float) -> None: ...

    def wait(self, event: threading.Event, seconds: float) -> None:
        """Return when the event is set, or after so many seconds."""
        ...


class _SystemSleeper:
    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> None:
        event.wait(seconds)


class AgentCredits:
    """Runs that are paid for: reserved at their start, metered, settled at their end.

    `base_url`: the output `PeopleApiUrl` with a `token`, or `ProducersApiUrl` with
    `auth=SigV4(...)`. `source`: who you are, as in all events of yours.

    `on_unavailable` is yours to choose. Where the service does not answer, `deny` raises
    `Unavailable` and no run starts; `allow` starts it without a reservation, and what it uses is
    reported once the service answers.

    `queue`: send usage through SQS instead of HTTP. `journals`: a folder that outlives the process,
    where each run keeps what it used until that is delivered. `background=False`: no threads; call
    `run.keep_up()` at least every `flush_seconds` yourself.
    """

    def __init__(
        self,
        base_url: str,
        *,
        source: str,
        on_unavailable: OnUnavailable,
        token: str | Callable[[], str] | None = None,
        auth: httpx.Auth | None = None,
        queue: Queue | None = None,
        journals: Path | str | None = None,
        options: Options | None = None,
        background: bool = True,
        http: httpx.Client | None = None,
        clock: Clock | None = None,
        sleeper: Sleeper | None = None,
        jitter: Jitter = random.random,
    ) -> None:
        self._wiring = Wiring.of(
            base_url,
            source=source,
            on_unavailable=on_unavailable,
            token=token,
            auth=auth,
            queue=queue,
            journals=journals,
            options=options,
            clock=clock or SystemClock(),
            jitter=jitter,
        )
        self._background = background
        self._http = http or httpx.Client()
        self._owns_http = http is None
        self._sleeper = sleeper or _SystemSleeper()

    def run(
        self,
        run_id: str,
        *,
        team_id: str,
        trigger: Trigger,
        credits: Credits | None = None,
        ttl_seconds: int = TTL_SECONDS,
        parent_run_id: str | None = None,
        project_id: str | None = None,
        started_at: datetime | None = None,
        request_id: str = RESERVE_ID,
        platform_errors: Sequence[type[BaseException]] = (),
        leave_on: Sequence[type[BaseException]] = (),
        on_directive: Callable[[Directive], None] | None = None,
    ) -> "Run":
        """Return a run; `with` starts it.

        `credits`: what to reserve; without it, the policy's default. `platform_errors`: exceptions
        that are the platform's fault, after which the customer gets everything back. `leave_on`:
        exceptions after which another process goes on with the run. `on_directive`: called, from
        the run's own thread, when the directive changes; what it raises is logged. Without it,
        `use` and `flush` raise `RunPaused` or `RunStopped`.
        """
        core = self._wiring.core(
            run_id,
            team_id=team_id,
            trigger=trigger,
            credits=credits,
            ttl_seconds=ttl_seconds,
            parent_run_id=parent_run_id,
            project_id=project_id,
            started_at=started_at,
            request_id=request_id,
            platform_errors=platform_errors,
            leave_on=leave_on,
        )
        return Run(core, self._perform, self._sleeper, on_directive, background=self._background)

    def close(self) -> None:
        """Close the connections. Runs have ended by then."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _perform(self, flow: Flow[Result]) -> Result:
        """Do what a flow says, step by step, and return what it returns."""
        done: Answer | Sequence[Message] | None = None
        fault: AgentCreditsError | None = None
        while True:
            step = advance(flow, done, fault)
            if isinstance(step, Done):
                return step.value
            done, fault = None, None
            try:
                done = self._do(step)
            except AgentCreditsError as raised:
                fault = raised

    def _do(self, step: Call | Sleep | Enqueue) -> Answer | Sequence[Message] | None:
        match step:
            case Sleep(seconds):
                self._sleeper.sleep(seconds)
                return None
            case Enqueue(messages):
                if self._wiring.queue is None:
                    raise TypeError("a run without a queue enqueues nothing")
                return self._wiring.queue.send(messages)
            case Call():
                request = self._wiring.request_of(self._http, step)
                try:
                    response = self._http.send(
                        request, auth=self._wiring.auth, follow_redirects=False
                    )
                except httpx.TransportError as fault:
                    raise NoAnswer(f"{type(fault).__name__}: {fault}") from fault
                return answer_of(response)


class Run(RunView):
    """A run. Threads of one process may share it; two processes may not."""

    def __init__(
        self,
        core: RunCore,
        perform: Callable[[Flow[None]], None],
        sleeper: Sleeper,
        on_directive: Callable[[Directive], None] | None,
        *,
        background: bool,
    ) -> None:
        super().__init__(core, on_directive)
        self._perform_flow = perform
        self._sleeper = sleeper
        self._background = background
        self._flows = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    def start(self) -> Self:
        """Reserve. `with` does it for you. Raises `InsufficientCredits` and the like."""
        self._core.open_journal()
        try:
            self._perform(self._core.start())
        except BaseException:
            self._core.close()
            raise
        if self._background:
            # A daemon: a run that is never ended keeps no process alive.
            name = f"agent-credits {self.run_id}"
            self._thread = threading.Thread(target=self._keep_up_always, name=name, daemon=True)
            self._thread.start()
        return self

    def use(
        self,
        credits: Credits,
        *,
        key: str | None = None,
        at: datetime | None = None,
    ) -> None:
        """Report usage; it is sent with other usage soon. Raises `RunPaused` and `RunStopped`.

        With a `key`, usage counts once per run and key, whoever repeats it: its repeat must be of
        the same credits and, unless the run has `started_at`, at the same time `at`.

        The usage is kept first, so it is also reported where this raises.
        """
        self._core.add(credits, key, at)
        if self._background:
            self._wake.set()
        else:
            self.keep_up()
        if self._on_directive is None:
            self.check()

    def keep_up(self) -> None:
        """Send usage and renew the reservation if it is time. Only for `background=False`."""
        self._perform(self._core.keep_up())

    def flush(self) -> None:
        """Send all usage now, and raise `RunPaused` or `RunStopped` if that is the answer.

        Raises `Unavailable` if there is none, unless the client allows that.
        """
        self._perform(self._core.flush())
        if self._on_directive is None:
            self.check()

    def extend(
        self,
        credits: Credits | None = None,
        *,
        ttl_seconds: int | None = None,
        key: str | None = None,
    ) -> None:
        """Reserve more credits, for longer, or both; all of it or nothing.

        With a `key`, it is done once per run and key. Raises `InsufficientCredits` and the like.
        """
        self._perform(self._core.extend(credits, ttl_seconds, key))

    def end(self, status: Status = "ok") -> None:
        """Report what is left, and settle. `with` does it for you. Raises `UsageNotReported`."""
        self._stop()
        try:
            self._perform(self._core.end(status))
        finally:
            self._core.close()

    def leave(self) -> None:
        """Report what is left, and end nothing: another process goes on with the run."""
        self._stop()
        try:
            self._perform(self._core.leave())
        finally:
            self._core.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._core.is_open:
            return
        status = self._core.status_after(error)
        try:
            if status is None:
                self.leave()
            else:
                self.end(status)
        except AgentCreditsError as fault:
            if not self._core.is_tolerable(fault, error):
                raise
            logger.error("run %s: %s", self.run_id, fault)

    def _stop(self) -> None:
        """Let the thread finish what it is doing, so that nothing is sent beside the end."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._is_stopping = True
            self._wake.set()
            thread.join()

    def _keep_up_always(self) -> None:
        while not self._is_stopping:
            self._perform(self._core.keep_up())
            self._sleeper.wait(self._wake, self._core.due_in())
            self._wake.clear()

    def _perform(self, flow: Flow[None]) -> None:
        with self._flows:
            try:
                self._perform_flow(flow)
            finally:
                self._tell()
