"""The asynchronous client. A task for each run sends its usage and renews its reservation."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

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


class AsyncSleeper(Protocol):
    """How the client waits, as a test may want to do it."""

    async def sleep(self, seconds: float) -> None: ...

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Return when the event is set, or after so many seconds."""
        ...


class _SystemSleeper:
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)


class AsyncAgentCredits:
    """`AgentCredits` for asyncio: the same parameters, and runs for `async with`.

    The queue's client and the journals block, so they are called in threads.
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
        http: httpx.AsyncClient | None = None,
        clock: Clock | None = None,
        sleeper: AsyncSleeper | None = None,
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
        self._http = http or httpx.AsyncClient()
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
    ) -> "AsyncRun":
        """Return a run; `async with` starts it. As `AgentCredits.run`."""
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
        return AsyncRun(core, self._perform, self._sleeper, on_directive, self._background)

    async def close(self) -> None:
        """Close the connections. Runs have ended by then."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _perform(self, flow: Flow[Result], *, blocks: bool) -> Result:
        """Do what a flow says, step by step, and return what it returns."""
        done: Answer | Sequence[Message] | None = None
        fault: AgentCreditsError | None = None
        while True:
            if blocks:
                step = await asyncio.to_thread(advance, flow, done, fault)
            else:
                step = advance(flow, done, fault)
            if isinstance(step, Done):
                return step.value
            done, fault = None, None
            try:
                done = await self._do(step)
            except AgentCreditsError as raised:
                fault = raised

    async def _do(self, step: Call | Sleep | Enqueue) -> Answer | Sequence[Message] | None:
        match step:
            case Sleep(seconds):
                await self._sleeper.sleep(seconds)
                return None
            case Enqueue(messages):
                if self._wiring.queue is None:
                    raise TypeError("a run without a queue enqueues nothing")
                return await asyncio.to_thread(self._wiring.queue.send, messages)
            case Call():
                request = self._wiring.request_of(self._http, step)
                try:
                    response = await self._http.send(
                        request, auth=self._wiring.auth, follow_redirects=False
                    )
                except httpx.TransportError as fault:
                    raise NoAnswer(f"{type(fault).__name__}: {fault}") from fault
                return answer_of(response)


class _Perform(Protocol):
    def __call__(self, flow: Flow[None], *, blocks: bool) -> Coroutine[Any, Any, None]: ...


class AsyncRun(RunView):
    """A run. Tasks of one process may share it; two processes may not."""

    def __init__(
        self,
        core: RunCore,
        perform: _Perform,
        sleeper: AsyncSleeper,
        on_directive: Callable[[Directive], None] | None,
        background: bool,
    ) -> None:
        super().__init__(core, on_directive)
        self._perform_flow = perform
        self._sleeper = sleeper
        self._background = background
        self._flows = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False

    async def start(self) -> Self:
        """Reserve. `async with` does it for you. Raises `InsufficientCredits` and the like."""
        self._core.open_journal()
        try:
            await self._perform(self._core.start())
        except BaseException:
            self._core.close()
            raise
        if self._background:
            name = f"agent-credits {self.run_id}"
            self._task = asyncio.create_task(self._keep_up_always(), name=name)
        return self

    async def use(
        self,
        credits: Credits,
        *,
        key: str | None = None,
        at: datetime | None = None,
    ) -> None:
        """Report usage. As `Run.use`."""
        if self._core.has_journal:
            await asyncio.to_thread(self._core.add, credits, key, at)
        else:
            self._core.add(credits, key, at)
        if self._background:
            self._wake.set()
        else:
            await self.keep_up()
        if self._on_directive is None:
            self.check()

    async def keep_up(self) -> None:
        """Send usage and renew the reservation if it is time. Only for `background=False`."""
        await self._perform(self._core.keep_up())

    async def flush(self) -> None:
        """Send all usage now, and raise what the answer is. As `Run.flush`."""
        await self._perform(self._core.flush())
        if self._on_directive is None:
            self.check()

    async def extend(
        self,
        credits: Credits | None = None,
        *,
        ttl_seconds: int | None = None,
        key: str | None = None,
    ) -> None:
        """Reserve more credits, for longer, or both. As `Run.extend`."""
        await self._perform(self._core.extend(credits, ttl_seconds, key))

    async def end(self, status: Status = "ok") -> None:
        """Report what is left, and settle. `async with` does it for you."""
        await self._stop()
        try:
            await self._perform(self._core.end(status))
        finally:
            self._core.close()

    async def leave(self) -> None:
        """Report what is left, and end nothing: another process goes on with the run."""
        await self._stop()
        try:
            await self._perform(self._core.leave())
        finally:
            self._core.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._core.is_open:
            return
        status = self._core.status_after(error)
        ending: Awaitable[None] = self.leave() if status is None else self.end(status)
        try:
            await ending
        except AgentCreditsError as fault:
            if not self._core.is_tolerable(fault, error):
                raise
            logger.error("run %s: %s", self.run_id, fault)

    async def _stop(self) -> None:
        """Let the task finish what it is doing, so that nothing is sent beside the end."""
        task, self._task = self._task, None
        if task is not None:
            self._is_stopping = True
            self._wake.set()
            await asyncio.wait([task])

    async def _keep_up_always(self) -> None:
        while not self._is_stopping:
            await self._perform(self._core.keep_up())
            await self._sleeper.wait(self._wake, self._core.due_in())
            self._wake.clear()

    async def _perform(self, flow: Flow[None]) -> None:
        try:
            async with self._flows:
                await self._perform_flow(flow, blocks=self._core.has_journal)
        finally:
            self._tell()
