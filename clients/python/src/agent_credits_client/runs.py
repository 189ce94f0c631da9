"""A run from its start to its end: what is asked, kept, repeated and said to the caller.

This is all of the client that decides anything. It sends nothing itself (see `calls`), and takes
time and randomness from outside.

An event that was made is never made again in another form. It stays in the buffer, and in the
journal if there is one, until the service has said what became of it.
"""

import json
import logging
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from agent_credits_client.amounts import Credits, credits_text
from agent_credits_client.calls import (
    JSON,
    Call,
    Clock,
    Decision,
    Enqueue,
    Flow,
    Jitter,
    Patience,
    Sleep,
    back_off,
    decided,
    patiently,
)
from agent_credits_client.errors import (
    AgentCreditsError,
    Conflict,
    Directive,
    NoAnswer,
    Refused,
    ReloadPending,
    RunEnded,
    RunPaused,
    Unavailable,
    UsageNotReported,
    UsageRejected,
    directed,
)
from agent_credits_client.journal import Journal
from agent_credits_client.messages import Event, Message, calls_of, group_of, pack
from agent_credits_client.requests import SETTLE_ID, RunRequest, Status, segment_of

logger = logging.getLogger("agent_credits_client")

OnUnavailable = Literal["deny", "allow"]

EVENTS_PER_CALL: Final = 100
# A reload takes seconds. The API says when to ask again; this is for an answer that does not.
WAIT_SECONDS: Final = 5.0
# A bound on every loop that time already bounds.
PASSES_MAX: Final = 1_000
# A standard queue keeps no order. The end of a run gives what went before it this much of a lead.
FINISH_DELAY_SECONDS: Final = 5
KEY: Final = re.compile(r"[\x21-\x7e]{1,100}")
# The background looks again at least this often, and no more often than that.
IDLE_SECONDS: Final = 3_600.0
TICK_SECONDS: Final = 0.02
# What begins the ids of usage with a key; no other id does.
_STEP: Final = "step:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Times and bounds. The defaults are for runs of minutes, behind a person who waits.

    `timeout_seconds`: of one attempt. `attempts_max`, `give_up_seconds`: of one call.
    `reload_wait_seconds`: how long a start waits for a reload. `end_wait_seconds`: how long an end
    waits for usage that is not recorded yet. `flush_events`, `flush_seconds`: usage is sent once
    there is so much of it, or it is so old. `poll_seconds`: how often a run whose usage goes
    through the queue asks for its directive. `buffered_events_max`: how much usage is kept for a
    service that does not answer.
    """

    timeout_seconds: float = 10.0
    attempts_max: int = 6
    give_up_seconds: float = 30.0
    reload_wait_seconds: float = 60.0
    end_wait_seconds: float = 60.0
    flush_events: int = 25
    flush_seconds: float = 5.0
    poll_seconds: float = 30.0
    buffered_events_max: int = 10_000

    def __post_init__(self) -> None:
        if self.attempts_max < 1 or self.flush_events < 1 or self.buffered_events_max < 1:
            raise ValueError(
                "attempts_max, flush_events and buffered_events_max must be at least 1"
            )
        if self.timeout_seconds <= 0:
            raise ValueError("timeout_seconds must be more than 0")


@dataclass(frozen=True, slots=True)
class Reservation:
    """A run's reservation as the last answer had it."""

    state: Literal["active", "settled", "released", "expired"]
    reserved_credits: Decimal
    drawn_credits: Decimal
    overdrawn_credits: Decimal
    left_credits: Decimal

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Reservation":
        return cls(
            document["state"],
            Decimal(document["reserved_credits"]),
            Decimal(document["drawn_credits"]),
            Decimal(document["overdrawn_credits"]),
            # One that has ended holds nothing.
            Decimal(document.get("left_credits", "0")),
        )


@dataclass(frozen=True, slots=True)
class Ways:
    """How a run of the caller's ends, and what an outage means."""

    on_unavailable: OnUnavailable
    platform_errors: tuple[type[BaseException], ...] = ()
    leave_on: tuple[type[BaseException], ...] = ()


class RunCore:
    """One start of a run. `token` returns something that no other start ever had.

    Its flows run one at a time; `add` may be called meanwhile, from any thread.
    """

    def __init__(
        self,
        request: RunRequest,
        ways: Ways,
        options: Options,
        *,
        clock: Clock,
        jitter: Jitter,
        token: Callable[[], str],
        journals: Path | None = None,
        uses_queue: bool = False,
    ) -> None:
        self.request = request
        self.ways = ways
        self.options = options
        self.directive: Directive = "continue"
        self.principal: str | None = None
        self.reservation: Reservation | None = None
        self.is_reserved = False
        self.is_open = False
        self._clock = clock
        self._jitter = jitter
        self._journals = journals
        self._uses_queue = uses_queue
        self._journal: Journal | None = None
        # Ids of this start alone; and those of usage, which a journal carries on.
        self._token = token()
        self._session = self._token
        self._lock = threading.Lock()
        self._sequence = 0
        self._buffer: dict[str, Event] = {}
        self._rejected: list[tuple[Event, Mapping[str, Any]]] = []
        self._oldest_at = 0.0
        self._not_before = 0.0
        self._failures = 0
        self._renewals = 0
        self._extensions = 0
        self._renew_at = math.inf
        self._poll_at = math.inf
        self._has_sent_messages = False
        self._has_ended = False

    @property
    def _patience(self) -> Patience:
        return Patience(self.options.attempts_max, self.options.give_up_seconds)

    @property
    def _once(self) -> Patience:
        """Return the patience of the background, which comes by again."""
        return Patience(1, math.inf)

    @property
    def has_journal(self) -> bool:
        """Return whether a step may wait for a disk."""
        return self._journal is not None

    # The start.

    def open_journal(self) -> None:
        """Find what an earlier process left of this run. Raises what `Journal.open` raises."""
        if self._journals is None:
            return
        # Both are what every start of the run has in common.
        self._journal = Journal.open(self._journals, self.request.to_reserve(), self._token)
        left = self._journal.left
        self._session, self._sequence = left.session, left.sequence
        self._buffer = dict(left.events)

    def start(self) -> Flow[None]:
        """Reserve, or find the reservation again. Raises what says that the run must not start."""
        finish = self._journal.left.finish if self._journal else None
        if finish is not None:
            yield from self._finish(finish)
            self.close(is_settled=True)
            raise RunEnded(f"run {self.request.run_id} had ended; its end is now recorded")
        try:
            yield from self._reserve()
        except Conflict as conflict:
            if conflict.error == "run_ended":
                raise RunEnded(f"run {self.request.run_id} has ended") from conflict
            raise
        except Unavailable as fault:
            if self.ways.on_unavailable == "deny":
                raise
            logger.warning("run %s starts without a reservation: %s", self.request.run_id, fault)
        self.is_open = True
        if self._buffer:
            yield from self._flush_quietly()

    def _reserve(self) -> Flow[None]:
        request_id = self.request.request_id
        try:
            answer = yield from self._reserve_under(request_id)
        except Conflict as conflict:
            if conflict.error != "already_reserved":
                raise
            # By an earlier start, under another request id. Renewing it also says what it holds.
            yield from self.extend(None, None, None)
            return
        if not answer["already_recorded"]:
            return
        if answer["reservation"] is None or answer["reservation"]["state"] != "active":
            yield from self._adopt()
        else:
            # It may be about to expire.
            yield from self._renew()

    def _reserve_under(self, request_id: str) -> Flow[Mapping[str, Any]]:
        asked_at = self._clock.monotonic()
        body = self.request.to_reserve()
        answer = yield from self._waited("/v1/reservations", body, request_id)
        self._heard(answer, asked_at)
        return answer

    def _adopt(self) -> Flow[None]:
        """Go on with the reservation of an earlier start, or with a new one if it expired."""
        found = yield from self._found()
        match found["reservation"]["state"]:
            case "active":
                self._heard(found, self._clock.monotonic())
                yield from self._renew()
            case "expired":
                yield from self._reserve_under(f"{self.request.request_id}:{self._token}")
            case state:
                raise RunEnded(f"run {self.request.run_id} is {state}")

    def _found(self) -> Flow[Mapping[str, Any]]:
        """Read the run's reservation."""
        query = f"?principal={quote(self.principal, safe='')}" if self.principal else ""
        decision = yield from self._decided(
            Call("GET", f"/v1/reservations/{self._segment}{query}"), self._patience
        )
        return decision.body

    # While it runs.

    def add(self, credits: Credits, key: str | None = None, at: datetime | None = None) -> None:
        """Keep usage to be sent. Once this returns, it is in the journal, if there is one.

        Raises `Unavailable` if the service has not taken any for so long that no more fits.
        """
        text = credits_text(credits)
        if at is not None and at.tzinfo is None:
            raise ValueError("at must have a time zone")
        if key is not None and not KEY.fullmatch(key):
            raise ValueError("key must be 1 to 100 visible ASCII characters, without spaces")
        if key is not None and at is None and self.request.started_at is None:
            raise ValueError(
                "usage with a key needs a time that is the same when it is repeated: pass `at`, or"
                " start the run with `started_at`"
            )
        with self._lock:
            if not self.is_open:
                raise RuntimeError("use() is for a run that has started and not ended")
            if len(self._buffer) >= self.options.buffered_events_max:
                raise Unavailable(f"usage waits to be reported; events: {len(self._buffer):,}")
            self._sequence += 1
            event_id = f"usage:{self._session}:{self._sequence}"
            if key is not None:
                event_id = f"{_STEP}{key}"
            time = at or (self.request.started_at if key is not None else None)
            event = self.request.event("usage", event_id, time or self._clock.now(), credits=text)
            if self._journal is not None:
                self._journal.used(event)
            if not self._buffer:
                self._oldest_at = self._clock.monotonic()
            self._buffer[event_id] = event

    def due_in(self) -> float:
        """Return in how many seconds `keep_up` has something to do."""
        due = min(self._flush_at, self._renew_at, self._poll_at) - self._clock.monotonic()
        return min(max(due, TICK_SECONDS), IDLE_SECONDS)

    @property
    def _flush_at(self) -> float:
        with self._lock:
            if not self._buffer:
                return math.inf
            is_full = len(self._buffer) >= self.options.flush_events
            at = 0.0 if is_full else self._oldest_at + self.options.flush_seconds
        return max(at, self._not_before)

    def keep_up(self) -> Flow[None]:
        """Do what is due, one attempt each. Nothing is raised; it is due again instead."""
        now = self._clock.monotonic()
        if self._renew_at <= now:
            yield from self._renew()
        if self._flush_at <= now:
            yield from self._flush_quietly()
        if self._poll_at <= now:
            yield from self._poll()

    def flush(self) -> Flow[None]:
        """Send all usage. What waits for a reload stays. Raises `Refused` or `Unavailable`."""
        try:
            yield from self._flush(self._patience)
        except Unavailable as fault:
            if self.ways.on_unavailable == "deny":
                raise
            logger.warning("usage of run %s waits: %s", self.request.run_id, fault)

    def extend(
        self,
        credits: Credits | None,
        ttl_seconds: int | None,
        key: str | None,
    ) -> Flow[None]:
        """Ask for more credits, more time, or both. Raises `Refused` and the like."""
        self._extensions += 1
        asked_at = self._clock.monotonic()
        more: dict[str, Any] = {"ttl_seconds": ttl_seconds or self.request.ttl_seconds}
        if credits is not None:
            more["credits"] = credits_text(credits)
        event_id = f"extend:{key or f'{self._token}:{self._extensions}'}"
        body = {**self.request.to_change(), **more}
        answer = yield from self._waited(f"/v1/reservations/{self._segment}/extend", body, event_id)
        self._heard(answer, asked_at)

    def _renew(self) -> Flow[None]:
        asked_at = self._clock.monotonic()
        body = {**self.request.to_change(), "ttl_seconds": self.request.ttl_seconds}
        path = f"/v1/reservations/{self._segment}/extend"
        call = _post(path, body, f"renew:{self._token}:{self._renewals}")
        try:
            decision = yield from self._decided(call, self._once)
        except Unavailable as fault:
            self._renew_at = asked_at + self._pause(fault)
            logger.warning("run %s is not renewed: %s", self.request.run_id, fault)
        except Refused as refused:
            # It expired, or somebody released it. Usage counts all the same.
            self._renew_at, self.is_reserved = math.inf, False
            logger.warning("run %s has lost its reservation: %s", self.request.run_id, refused)
        else:
            if decision.status == 202:
                self._renew_at = asked_at + WAIT_SECONDS
                return
            self._renewals += 1
            self._heard(decision.body, asked_at)

    def _poll(self) -> Flow[None]:
        """Ask for the directive: no answer has said it, or only one to a repeat."""
        self._poll_at = math.inf
        try:
            found = yield from self._found()
        except AgentCreditsError as fault:
            self._poll_at = self._clock.monotonic() + self.options.poll_seconds
            logger.warning("the directive of run %s is not known: %s", self.request.run_id, fault)
        else:
            self.reservation = Reservation.of(found["reservation"])
            self.directive = found["reservation"].get("directive", self.directive)

    def _flush_quietly(self) -> Flow[None]:
        try:
            yield from self._flush(self._once)
        except Unavailable as fault:
            self._not_before = self._clock.monotonic() + self._pause(fault)
            logger.warning("usage of run %s waits: %s", self.request.run_id, fault)
        except Refused as refused:
            # The credentials, most likely. They may be corrected while the run goes on.
            self._not_before = self._clock.monotonic() + self.options.give_up_seconds
            logger.error("usage of run %s is refused: %s", self.request.run_id, refused)

    def _flush(self, patience: Patience) -> Flow[None]:
        if self._uses_queue:
            yield from self._enqueue(pack(self.unreported(), self._group), patience)
            return
        waiting: set[str] = set()
        for _ in range(PASSES_MAX):
            batch = [e for e in self.unreported() if e["id"] not in waiting][:EVENTS_PER_CALL]
            if not batch:
                return
            call = _post("/v1/events", batch, None, "application/cloudevents-batch+json")
            decision = yield from self._decided(call, patience)
            self._failures = 0
            waiting |= self._settle_results(batch, decision.body["results"])
            if self._poll_at <= self._clock.monotonic():
                yield from self._poll()

    def _settle_results(
        self, batch: Sequence[Event], results: Sequence[Mapping[str, Any]]
    ) -> set[str]:
        """Take what is decided out of the buffer. Return the ids of what has to be sent again."""
        done: list[str] = []
        waiting: set[str] = set()
        for event, result in zip(batch, results, strict=True):
            status = result["status"]
            if status == 202 or status == 429 or status >= 500:
                waiting.add(event["id"])
                continue
            done.append(event["id"])
            if status == 200:
                self.directive = result["directive"]
                if result["already_recorded"] and self.directive != "continue":
                    # So it was when the event was new. The run may have been extended since.
                    self._poll_at = self._clock.monotonic()
                self.principal = self.principal or result["principal"]
            elif status == 409 and event["id"].startswith(_STEP):
                # The step was repeated and used something else. What came first counts.
                logger.warning("%s of run %s was recorded before", event["id"], event["subject"])
            else:
                problem = result["problem"] or {}
                self._rejected.append((event, problem))
                logger.error("%s of run %s is rejected: %s", event["id"], event["subject"], problem)
        self._delivered(done)
        if waiting:
            self._not_before = self._clock.monotonic() + WAIT_SECONDS
        return waiting

    def _enqueue(self, messages: Sequence[Message], patience: Patience) -> Flow[None]:
        for call in calls_of(messages):
            left = list(call)

            def attempt(left: list[Message] = left) -> Flow[None]:
                failed = yield Enqueue(tuple(left))
                taken = [message for message in left if message not in failed]
                self._delivered([i for message in taken for i in message.event_ids])
                left[:] = failed
                if left:
                    raise NoAnswer(f"SQS did not take {len(left)} messages")

            yield from patiently(attempt, patience, self._clock, self._jitter)
            self._failures = 0
            self._has_sent_messages = True
            self._poll_at = min(self._poll_at, self._clock.monotonic() + self.options.poll_seconds)

    # The end.

    def status_after(self, error: BaseException | None) -> Status | None:
        """Return how a block that was left like this ended its run; None if the run goes on."""
        if error is None:
            return "ok"
        if isinstance(error, (RunPaused, *self.ways.leave_on)):
            return None
        if isinstance(error, self.ways.platform_errors):
            return "error"
        return "cancelled"

    def end(self, status: Status) -> Flow[None]:
        """Deliver all usage, then settle. Raises `UsageNotReported` and the like.

        Settling gives back what the reservation holds. So it comes last, and not at all while usage
        is missing: what that needs stays reserved until the reservation expires.
        """
        with self._lock:
            if not self.is_open:
                raise RuntimeError("the run has not started, or has ended")
            self.is_open, self._has_ended = False, True
        finish = self.request.event("finished", SETTLE_ID, self._clock.now(), status=status)
        if self._journal is not None:
            self._journal.finished(finish)
        yield from self._finish(finish)
        self.close(is_settled=True)
        if self._rejected:
            raise UsageRejected(self.request.run_id, self._rejected)

    def leave(self) -> Flow[None]:
        """Deliver all usage and end nothing: another process starts the run again."""
        with self._lock:
            self.is_open = False
        yield from self._deliver_all()

    def is_tolerable(self, fault: AgentCreditsError, error: BaseException | None) -> bool:
        """Return whether what an end met is only logged, because the caller has said so.

        A block's own `error` is never replaced by one of ours.
        """
        if error is not None:
            return True
        is_outage = isinstance(fault, Unavailable | UsageNotReported)
        return is_outage and self.ways.on_unavailable == "allow"

    def close(self, *, is_settled: bool = False) -> None:
        """Let go of the journal. One that holds nothing of a run is removed."""
        with self._lock:
            self.is_open = False
            if self._journal is not None:
                knows_nothing = self._sequence == 0 and self.principal is None
                is_empty = knows_nothing and not self._has_ended
                self._journal.close(is_settled=is_settled or is_empty)
                self._journal = None

    def _finish(self, finish: Event) -> Flow[None]:
        if self._uses_queue:
            yield from self._enqueue_end(finish)
            return
        yield from self._deliver_all()
        body = {**self.request.to_change(), "status": finish["data"]["status"]}
        call = _post(f"/v1/reservations/{self._segment}/settle", body, SETTLE_ID)
        try:
            decision = yield from self._decided(call, self._patience)
        except Conflict as conflict:
            if conflict.error != "run_ended":
                raise
            logger.warning("run %s had ended already", self.request.run_id)
        else:
            if decision.body.get("ended"):
                self.reservation = Reservation.of(decision.body["ended"])

    def _enqueue_end(self, finish: Event) -> Flow[None]:
        messages = pack([*self.unreported(), finish], self._group)
        if len(messages) > 1 or self._has_sent_messages:
            messages[-1] = replace(messages[-1], delay_seconds=FINISH_DELAY_SECONDS)
        try:
            yield from self._enqueue(messages, self._patience)
        except (Unavailable, Refused) as fault:
            raise UsageNotReported(self.request.run_id, [*self.unreported(), finish]) from fault

    def _deliver_all(self) -> Flow[None]:
        gives_up_at = self._clock.monotonic() + self.options.end_wait_seconds
        cause: AgentCreditsError | None = None
        for _ in range(PASSES_MAX):
            try:
                yield from self._flush(self._patience)
            except (Unavailable, Refused) as fault:
                cause = fault
                break
            wait = self._not_before - self._clock.monotonic()
            if not self.unreported():
                return
            if self._clock.monotonic() + wait > gives_up_at:
                break
            yield Sleep(max(wait, TICK_SECONDS))
        raise UsageNotReported(self.request.run_id, self.unreported()) from cause

    # What the above have in common.

    @property
    def _segment(self) -> str:
        return segment_of(self.request.run_id)

    @property
    def _group(self) -> str:
        return group_of(self.request.team_id, self.request.trigger)  # type: ignore[arg-type]

    def unreported(self) -> list[Event]:
        """Return the usage that is not delivered."""
        with self._lock:
            return list(self._buffer.values())

    def _delivered(self, ids: Sequence[str]) -> None:
        with self._lock:
            found = [event_id for event_id in ids if self._buffer.pop(event_id, None) is not None]
            if found and self._journal is not None:
                self._journal.delivered(found)
            self._oldest_at = self._clock.monotonic()

    def _pause(self, fault: Unavailable) -> float:
        self._failures += 1
        wait = back_off(self._failures, self._jitter)
        cause = fault.__cause__
        asked_for = cause.retry_after_seconds if isinstance(cause, NoAnswer) else None
        return max(wait, asked_for or 0.0)

    def _heard(self, answer: Mapping[str, Any], asked_at: float) -> None:
        """Take over what an answer says of the run."""
        self.principal = answer["principal"]
        reservation = answer["reservation"]
        if reservation is None:
            return
        self.reservation = Reservation.of(reservation)
        self.is_reserved = self.reservation.state == "active"
        if self.is_reserved:
            self.directive = reservation["directive"]
            # Early enough for several more attempts.
            self._renew_at = asked_at + self.request.ttl_seconds / 2

    def _decided(self, call: Call, patience: Patience) -> Flow[Decision]:
        return patiently(partial(decided, call), patience, self._clock, self._jitter)

    def _waited(self, path: str, body: object, event_id: str) -> Flow[Mapping[str, Any]]:
        """Make a call, again while a reload is under way. Raises `ReloadPending` after a while."""
        gives_up_at = self._clock.monotonic() + self.options.reload_wait_seconds
        reload_id = ""
        for _ in range(PASSES_MAX):
            decision = yield from self._decided(_post(path, body, event_id), self._patience)
            if decision.status != 202:
                return decision.body
            reload_id = decision.body["reload_id"]
            wait = max(decision.retry_after_seconds or WAIT_SECONDS, TICK_SECONDS)
            if self._clock.monotonic() + wait > gives_up_at:
                break
            yield Sleep(wait)
        raise ReloadPending(self.request.run_id, reload_id)


def _post(path: str, body: object, event_id: str | None, content_type: str = JSON) -> Call:
    headers = {"Content-Type": content_type}
    if event_id is not None:
        headers["Idempotency-Key"] = event_id
    return Call("POST", path, json.dumps(body, separators=(",", ":")).encode(), headers)


class RunView:
    """What both kinds of runs tell."""

    def __init__(self, core: RunCore, on_directive: Callable[[Directive], None] | None) -> None:
        self._core = core
        self._on_directive = on_directive
        self._told: Directive = core.directive

    @property
    def run_id(self) -> str:
        return self._core.request.run_id

    @property
    def directive(self) -> Directive:
        """Return what to do with the run, as the last answer had it."""
        return self._core.directive

    @property
    def principal(self) -> str | None:
        """Return who pays, as `user:<id>` or `team:<id>`, once that is known."""
        return self._core.principal

    @property
    def reservation(self) -> Reservation | None:
        """Return the reservation, as the last answer had it. After the end, its sums."""
        return self._core.reservation

    @property
    def is_reserved(self) -> bool:
        """Return whether credits are held for the run. They are not after a start in an outage."""
        return self._core.is_reserved

    @property
    def unreported(self) -> tuple[Event, ...]:
        """Return the usage that is not delivered, as it has to be sent. After the end: none.

        Unless the end failed, and that was only logged.
        """
        return tuple(self._core.unreported())

    def check(self) -> None:
        """Raise `RunPaused` or `RunStopped` if that is what the run was told last."""
        error = directed(self.run_id, self.directive)
        if error is not None:
            raise error

    def _tell(self) -> None:
        """Call the caller back if the directive has changed."""
        if self.directive == self._told:
            return
        self._told = self.directive
        if self._on_directive is None:
            return
        try:
            self._on_directive(self.directive)
        except Exception:
            # It may be called in the background, where nobody would catch it, and renewing would
            # end with it.
            logger.exception("on_directive of run %s has raised", self.run_id)
