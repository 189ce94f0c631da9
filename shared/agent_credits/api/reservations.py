"""`/v1/reservations`: credits put aside for a run before it starts, and what becomes of them.

Each call is the change that the event of the same meaning makes, decided at once. A repeat gets the
first answer: what it must be equal in is the body, not the time at which the server received it.
"""

from datetime import UTC, datetime
from typing import Any, Final, Literal, Self

from msgspec import Struct
from pydantic import model_validator

from agent_credits.api.callers import Caller, no_run, trigger_of
from agent_credits.api.fields import Answer, Credits, CreditsIn, EstimateIn, TimeIn, TimeOut
from agent_credits.api.problems import Refused
from agent_credits.api.recorded_runs import RecordedRun, find_run
from agent_credits.api.recording import Decided, Recorder, Waits
from agent_credits.commit.rows import Rows
from agent_credits.events.agent_runs import (
    AgentRunEvent,
    Rejection,
    RunStatus,
    Trigger,
    TtlSeconds,
    parse_event,
)
from agent_credits.intake.debited_batch import DebitedBatch
from agent_credits.intake.debits import TimeIsLeft
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Directive, EndedReservation
from agent_credits.ledger.reservations import Overrun, Reservation, reservation_of
from agent_credits.values.credits import format_credits
from agent_credits.values.identifiers import Identifier, PrincipalText, SourceUri
from agent_credits.values.principals import Principal
from agent_credits.values.strict import Strict

# The ids of events that are made once per run. With an Idempotency-Key, that is the id.
RESERVE_ID: Final = "reservation"
SETTLE_ID: Final = "reservation:settle"
RELEASE_ID: Final = "reservation:release"


class ReserveBody(Strict):
    """What to reserve, for which run. Without `credits`, the policy's default estimate counts."""

    run_id: Identifier
    source: SourceUri
    team_id: Identifier
    trigger: Trigger
    project_id: Identifier | None = None
    started_at: TimeIn | None = None
    credits: EstimateIn | None = None
    ttl_seconds: TtlSeconds | None = None
    parent_run_id: Identifier | None = None


class _OfRun(Strict):
    """Which run, where the path alone leaves a question.

    With `source`, `team_id` and `trigger`, nothing has to be looked up. What is left out is read
    from the run's recorded request, which is found fastest on the account of `principal`.
    """

    source: SourceUri | None = None
    team_id: Identifier | None = None
    trigger: Trigger | None = None
    project_id: Identifier | None = None
    started_at: TimeIn | None = None
    principal: PrincipalText | None = None


class ExtendBody(_OfRun):
    """More credits, more time from now on, or both."""

    credits: CreditsIn | None = None
    ttl_seconds: TtlSeconds | None = None

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.credits is None and self.ttl_seconds is None:
            raise ValueError("must ask for credits or ttl_seconds, or both")
        return self


class SettleBody(_OfRun):
    """How the run ended. `error` is a platform error and returns what the run drew."""

    status: RunStatus = "ok"


class ReleaseBody(_OfRun):
    """The run gives back what its reservation holds; what it used stays used."""


class HeldPart(Answer):
    pool: str
    grant_id: str
    credits: Credits


class ReservationState(Answer):
    """A reservation as it is on the account now. `active` until it ends or expires."""

    state: Literal["active", "expired"]
    parent_run_id: str | None
    reserved_credits: Credits
    drawn_credits: Credits
    left_credits: Credits
    overdrawn_credits: Credits
    directive: Directive
    overrun: Overrun
    grace_credits: Credits
    expires_at: TimeOut
    grants: list[HeldPart]


class EndedState(Answer):
    """The sums of a reservation that has ended."""

    state: Literal["settled", "released", "expired"]
    parent_run_id: str | None
    reserved_credits: Credits
    drawn_credits: Credits
    overdrawn_credits: Credits
    ended_at: TimeOut


class ReservationAnswer(Answer):
    """What the call did, and the reservation now: null where the run holds none any more.

    The same request gets the same `outcome`, `credits` and `recorded_at` for ever. `reservation`
    and `version` are of the moment of this answer.
    """

    run_id: str
    event_id: str
    principal: str
    outcome: Literal["accepted", "extended", "finished", "returned", "released"]
    already_recorded: bool
    credits: Credits
    directive: Directive
    policy_version: str | None
    recorded_at: TimeOut
    version: int
    ended: EndedState | None = None
    reservation: ReservationState | None = None


class ReservationFound(Answer):
    """The reservation of a run, live or ended."""

    run_id: str
    principal: str
    version: int
    as_of: TimeOut
    reservation: ReservationState | EndedState


class WaitingAnswer(Answer):
    """Nothing is recorded yet: a reload that may cover the request is under way. Ask again."""

    outcome: Literal["waiting"] = "waiting"
    run_id: str
    reload_id: str


class Reserved(Struct, frozen=True):
    """What is to be answered, and what was recorded for it."""

    answer: ReservationAnswer | WaitingAnswer
    status: int
    batch: DebitedBatch


class _Named(Struct, frozen=True):
    """What an event needs of its run."""

    source: str
    team_id: str
    trigger: Trigger
    project_id: str | None
    started_at: datetime | None


class Reservations:
    def __init__(self, rows: Rows, recorder: Recorder) -> None:
        self._rows = rows
        self._recorder = recorder

    def reserve(
        self,
        body: ReserveBody,
        key: str | None,
        caller: Caller,
        now: datetime,
        time_is_left: TimeIsLeft,
    ) -> Reserved:
        """Reserve for a run. Raises `Refused`."""
        caller.require("reserve")
        caller.require_run(body.team_id, body.trigger, body.run_id)
        run = _Named(body.source, body.team_id, body.trigger, body.project_id, body.started_at)
        data = {
            "credits": _credits_text(body.credits),
            "reserve": "estimate",
            "ttl_seconds": body.ttl_seconds,
            "parent_run_id": body.parent_run_id,
        }
        event = _event(
            "requested",
            body.run_id,
            key or RESERVE_ID,
            run,
            data,
            now,
            body.model_dump(mode="json"),
        )
        return self._record(event, now, time_is_left)

    def extend(
        self,
        run_id: str,
        body: ExtendBody,
        key: str,
        caller: Caller,
        now: datetime,
        time_is_left: TimeIsLeft,
    ) -> Reserved:
        """Give a reservation more credits, more time, or both. Raises `Refused`."""
        run = self._run(run_id, body, caller)
        data = {"credits": _credits_text(body.credits), "ttl_seconds": body.ttl_seconds}
        event = _event("extended", run_id, key, run, data, now, data)
        return self._record(event, now, time_is_left)

    def settle(
        self,
        run_id: str,
        body: SettleBody,
        key: str | None,
        caller: Caller,
        now: datetime,
        time_is_left: TimeIsLeft,
    ) -> Reserved:
        """End the run; what its reservation holds goes back. Raises `Refused`."""
        run = self._run(run_id, body, caller)
        if caller.role == "run" and body.status == "error":
            raise Refused(
                "forbidden", "only the platform may report that a run ended in its own error"
            )
        data = {"status": body.status}
        event = _event("finished", run_id, key or SETTLE_ID, run, data, now, data)
        return self._record(event, now, time_is_left)

    def release(
        self,
        run_id: str,
        body: ReleaseBody,
        key: str | None,
        caller: Caller,
        now: datetime,
        time_is_left: TimeIsLeft,
    ) -> Reserved:
        """Give back what a reservation holds. Raises `Refused`."""
        run = self._run(run_id, body, caller)
        event = _event("released", run_id, key or RELEASE_ID, run, {}, now, {})
        return self._record(event, now, time_is_left)

    def find(self, run: RecordedRun, now: datetime) -> ReservationFound:
        """Return the run's reservation. Raises `Refused` if it never held one."""
        for account in run.accounts.values():
            held = reservation_of(account.reservations, run.run_id)
            if held is not None:
                return _found(run.run_id, account, state_of(held, now), now)
        for found in reversed(run.entries):
            for ended in found.entry.reservation.ended:
                if ended.run_id == run.run_id:
                    state = _ended(ended, found.entry.outcome, found.entry.recorded_at)
                    return _found(run.run_id, run.accounts[found.principal], state, now)
        raise Refused("no_reservation", "the run holds no reservation")

    def _run(self, run_id: str, body: _OfRun, caller: Caller) -> _Named:
        """Return what the body says of the run, and what was recorded of it for the rest."""
        caller.require("change_reservation")
        if caller.role == "run" and run_id != caller.run_id:
            raise no_run()
        source, team_id, trigger = body.source, body.team_id, body.trigger
        project_id, started_at = body.project_id, body.started_at
        if source is None or team_id is None or trigger is None:
            recorded = find_run(self._rows, run_id, may_pay(caller, body.principal))
            context = recorded.context
            if context is None:
                raise no_run()
            source = source or recorded.source or ""
            team_id = team_id or context.team_id
            trigger = trigger or trigger_of(context.trigger_kind, context.trigger_id)
            project_id = project_id or context.project_id
            # Who pays stays who paid for the request, whoever owns the team by now.
            started_at = started_at or context.event_time
        caller.require_run(team_id, trigger, run_id)
        return _Named(source, team_id, trigger, project_id, started_at)

    def _record(self, event: AgentRunEvent, now: datetime, time_is_left: TimeIsLeft) -> Reserved:
        answers, batch = self._recorder.record({"0": event}, now, time_is_left)
        answered = answers["0"]
        match answered:
            case Waits(reload_id):
                waiting = WaitingAnswer(run_id=event.subject, reload_id=reload_id)
                return Reserved(waiting, 202, batch)
            case Decided():
                problem = self._recorder.problem_of(answered)
                if problem is not None:
                    raise Refused.of(problem)
                is_made = event.type == "agent_run.requested" and not answered.is_repeat
                return Reserved(_answer(answered, now), 201 if is_made else 200, batch)
            case Refused():
                raise answered
            case _:
                raise TypeError("a reservation's event becomes an entry")


def may_pay(caller: Caller, named: Principal | None) -> set[Principal]:
    """Return the accounts to look at for a run: the one that is named, and the caller's own."""
    found = {named} if named is not None else set[Principal]()
    if caller.user_id is not None:
        found.add(Principal("user", caller.user_id))
    return found | {Principal("team", team_id) for team_id in caller.teams}


def state_of(held: Reservation, now: datetime) -> ReservationState:
    return ReservationState(
        state="active" if held.is_live(now) else "expired",
        parent_run_id=held.parent_run_id,
        reserved_credits=held.reserved_microcredits,
        drawn_credits=held.drawn_microcredits,
        left_credits=held.left_microcredits,
        overdrawn_credits=held.overdrawn_microcredits,
        directive=held.directive,
        overrun=held.terms.overrun,
        grace_credits=held.terms.grace_microcredits,
        expires_at=held.expires_at,
        grants=[
            HeldPart(pool=part.pool, grant_id=part.grant_id, credits=part.microcredits)
            for part in held.parts
        ],
    )


def _ended(ended: EndedReservation, outcome: str, at: datetime) -> EndedState:
    match outcome:
        case "finished" | "returned":
            state: Literal["settled", "released", "expired"] = "settled"
        case "released":
            state = "released"
        case _:
            state = "expired"
    return EndedState(
        state=state,
        parent_run_id=ended.parent_run_id,
        reserved_credits=ended.reserved_microcredits,
        drawn_credits=ended.drawn_microcredits,
        overdrawn_credits=ended.overdrawn_microcredits,
        ended_at=at,
    )


def _found(
    run_id: str, account: Account, state: ReservationState | EndedState, now: datetime
) -> ReservationFound:
    return ReservationFound(
        run_id=run_id,
        principal=str(account.principal),
        version=account.version,
        as_of=now,
        reservation=state,
    )


def _answer(decided: Decided, now: datetime) -> ReservationAnswer:
    entry, account = decided.entry, decided.account
    run_id = entry.identity.subject
    held = reservation_of(account.reservations, run_id)
    ended = next((e for e in entry.reservation.ended if e.run_id == run_id), None)
    return ReservationAnswer.model_validate(
        {
            "run_id": run_id,
            "event_id": entry.identity.id,
            "principal": str(account.principal),
            "outcome": entry.outcome,
            "already_recorded": decided.is_repeat,
            "credits": entry.amount_microcredits,
            "directive": decided.directive,
            "policy_version": entry.run.policy_version if entry.run else None,
            "recorded_at": entry.recorded_at,
            "version": account.version,
            "ended": _ended(ended, entry.outcome, entry.recorded_at) if ended else None,
            "reservation": state_of(held, now) if held else None,
        }
    )


def _credits_text(microcredits: int | None) -> str | None:
    """Return the credits as an event carries them."""
    return None if microcredits is None else format_credits(microcredits)


def _event(
    kind: Literal["requested", "extended", "finished", "released"],
    run_id: str,
    event_id: str,
    run: _Named,
    data: dict[str, Any],
    now: datetime,
    hashed: dict[str, Any],
) -> AgentRunEvent:
    """Return the event that the queue would have brought. Raises `Refused`.

    `hashed`: what the caller asked for. The event's time is the server's, and differs between two
    attempts, and what the caller left out may be found at another place by then.
    """
    document = {
        "specversion": "1.0",
        "id": event_id,
        "source": run.source,
        "type": f"agent_run.{kind}",
        "subject": run_id,
        "time": now.astimezone(UTC).isoformat(),
        "data": {
            "team_id": run.team_id,
            "trigger": run.trigger.model_dump(mode="json"),
            "project_id": run.project_id,
            "started_at": run.started_at.isoformat() if run.started_at else None,
            **data,
        },
    }
    event = parse_event(document, "the request", [kind, hashed])
    if isinstance(event, Rejection):
        raise Refused("invalid_request", event.reason)
    return event
