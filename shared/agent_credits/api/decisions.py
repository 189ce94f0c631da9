"""`POST /v1/decide`: would this run be admitted now, who would pay, and from which pools.

It is decided by the very function that commits, on rows read for this request, and nothing is
written. Between this answer and a reservation others may take the credits; only a reservation holds
them.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from agent_credits.api.callers import Caller
from agent_credits.api.fields import Answer, Credits, EstimateIn, TimeIn, TimeOut
from agent_credits.api.limits import StandingAnswer, standing_answer
from agent_credits.api.problems import TYPES, Problem, Refused
from agent_credits.api.recording import Decided, insufficient_problem
from agent_credits.billing.directory import Directory
from agent_credits.billing.teams import Billing
from agent_credits.commit.changes import Recorded, Result, RunChange, Unsure, Waiting
from agent_credits.commit.decide import lacks_credits
from agent_credits.commit.reload_requests import reload_standing
from agent_credits.commit.rows import Rows
from agent_credits.commit.together import Foreseen, foresee
from agent_credits.events.agent_runs import (
    AgentRunEvent,
    Rejection,
    RunRequested,
    Trigger,
    TtlSeconds,
    parse_event,
)
from agent_credits.ledger.accounts import pool_balances, reserved_balances
from agent_credits.ledger.expiry import resets_at
from agent_credits.ledger.limits import LimitStanding
from agent_credits.ledger.waterfall import draw
from agent_credits.values.credits import format_credits
from agent_credits.values.errors import InvariantViolated
from agent_credits.values.identifiers import Identifier
from agent_credits.values.principals import Payer
from agent_credits.values.strict import Strict

_SOURCE = "/agent-credits/decide"

CheckName = Literal["team_and_user", "account", "reservations", "limit", "credits"]
CheckResult = Literal["passed", "failed", "waiting", "not_reached"]


class DecideBody(Strict):
    """A run that may be requested. `reserve` as in an event; without it, as the policy says."""

    team_id: Identifier
    trigger: Trigger
    run_id: Identifier | None = None
    project_id: Identifier | None = None
    started_at: TimeIn | None = None
    credits: EstimateIn | None = None
    reserve: Literal["none", "estimate"] | None = None
    ttl_seconds: TtlSeconds | None = None
    parent_run_id: Identifier | None = None


class CheckAnswer(Answer):
    """The checks stand in the order in which they are made; the first that fails decides.

    There is one for each `limit` of the run, with where the limit stands before the run.
    """

    check: CheckName
    result: CheckResult
    error: str | None = None
    detail: str | None = None
    limit: StandingAnswer | None = None


class PoolDecision(Answer):
    """What is in a pool, and what of it the run would draw or reserve first.

    Of a pool of the team, `reserved_credits` is what runs of the same payer hold.
    """

    pool: str
    available_credits: Credits
    reserved_credits: Credits
    would_take_credits: Credits


class DecideAnswer(Answer):
    """`waiting`: a reload is under way, or would be, that may cover what is lacking.

    `allowed` is true for `accepted` alone.
    """

    allowed: bool
    outcome: Literal["accepted", "insufficient", "waiting", "rejected"]
    principal: str | None = None
    payer: Payer | None = None
    policy_version: str | None = None
    required_credits: Credits
    reserves: bool | None = None
    auto_reload: str | None = None
    pools: list[PoolDecision]
    checks: list[CheckAnswer]
    resets_at: TimeOut | None = None
    version: int | None = None
    as_of: TimeOut
    problem: dict[str, Any] | None = None


class Decisions:
    def __init__(self, rows: Rows, directory: Directory, problem_type_base_url: str) -> None:
        self._rows = rows
        self._directory = directory
        self._base_url = problem_type_base_url

    def decide(
        self, body: DecideBody, caller: Caller, now: datetime, trace_id: str
    ) -> DecideAnswer:
        """Return what a request for this run would be answered with now. Raises `Refused`."""
        caller.require("decide")
        caller.require_run(body.team_id, body.trigger, body.run_id or caller.run_id)
        event = _event(body, now)
        # What is refused is never refused by settings that are cached.
        self._directory.read_again([body.team_id], now)
        billing = self._directory.bill(event, now)
        if isinstance(billing, Rejection):
            return self._rejected(body, billing, "team_and_user", None, (), now, trace_id)
        row = self._rows.read_account(billing.principal)
        if row is None:
            missing = Rejection("unknown_user", "the account that pays does not exist")
            return self._rejected(body, missing, "account", None, (), now, trace_id)
        change = RunChange(event, billing)
        foreseen = foresee(self._rows, row, [change], now)
        return self._decided(body, change, foreseen, now, trace_id)

    def _decided(
        self, body: DecideBody, change: RunChange, foreseen: Foreseen, now: datetime, trace_id: str
    ) -> DecideAnswer:
        (result,) = foreseen.decision.results
        limits, facts = foreseen.limits_of(change), (change.billing, foreseen)
        rejection = _rejection_of(result)
        if rejection is not None:
            return self._rejected(body, rejection, "reservations", facts, limits, now, trace_id)
        problem: dict[str, Any] | None = None
        outcome: Literal["accepted", "insufficient", "waiting"] = "waiting"
        required, refused_by = body.credits or 0, None
        if isinstance(result, Recorded):
            entry = result.entry
            required, refused_by = entry.amount_microcredits, entry.limits.refused_by
            outcome = "insufficient" if lacks_credits(foreseen.decision) else "accepted"
            if outcome == "insufficient":
                decided = Decided(entry, foreseen.context.row, False)
                found = insufficient_problem(decided, self._base_url)
                problem = {**found, "trace_id": trace_id}
        results: dict[str, CheckResult] = {
            "accepted": "passed",
            "insufficient": "failed",
            "waiting": "waiting",
        }
        checks = [CheckAnswer(check=name, result="passed") for name in _BEFORE_LIMITS]
        checks += _limit_checks(limits, refused_by)
        if refused_by is None:
            checks.append(_check_of_credits(results[outcome], problem))
        else:
            checks.append(CheckAnswer(check="credits", result="not_reached"))
        return DecideAnswer(
            allowed=outcome == "accepted",
            outcome=outcome,
            required_credits=required,
            checks=checks,
            problem=problem,
            **_facts(body, change.billing, foreseen, required, now),
        )

    def _rejected(
        self,
        body: DecideBody,
        rejection: Rejection,
        failed: CheckName,
        found: tuple[Billing, Foreseen] | None,
        limits: Sequence[LimitStanding],
        now: datetime,
        trace_id: str,
    ) -> DecideAnswer:
        at = _BEFORE_LIMITS.index(failed)
        checks = [CheckAnswer(check=name, result="passed") for name in _BEFORE_LIMITS[:at]]
        checks.append(
            CheckAnswer(
                check=failed, result="failed", error=rejection.code, detail=rejection.reason
            )
        )
        later = _BEFORE_LIMITS[at + 1 :]
        checks += [CheckAnswer(check=name, result="not_reached") for name in later]
        checks += [
            CheckAnswer(check="limit", result="not_reached", limit=standing_answer(standing))
            for standing in limits
        ]
        checks.append(CheckAnswer(check="credits", result="not_reached"))
        problem = Problem(rejection.code, TYPES[rejection.code], rejection.reason)
        facts = _facts(body, *found, body.credits or 0, now) if found else {}
        return DecideAnswer(
            allowed=False,
            outcome="rejected",
            required_credits=body.credits or 0,
            checks=checks,
            problem=problem.to_document(self._base_url, trace_id),
            **{"pools": [], "as_of": now, **facts},
        )


_BEFORE_LIMITS: tuple[CheckName, ...] = ("team_and_user", "account", "reservations")


def _limit_checks(
    limits: Sequence[LimitStanding], refused_by: LimitStanding | None
) -> Iterator[CheckAnswer]:
    result: CheckResult = "passed"
    for standing in limits:
        limit = standing_answer(standing)
        if refused_by is not None and standing.key == refused_by.key:
            yield _failed("limit", "limit_reached", limit)
            result = "not_reached"
        else:
            yield CheckAnswer(check="limit", result=result, limit=limit)


def _check_of_credits(result: CheckResult, problem: Mapping[str, Any] | None) -> CheckAnswer:
    if problem is None:
        return CheckAnswer(check="credits", result=result)
    return _failed("credits", str(problem["cause"]))


def _failed(check: CheckName, cause: str, limit: StandingAnswer | None = None) -> CheckAnswer:
    return CheckAnswer(
        check=check, result="failed", error="insufficient_credits", detail=cause, limit=limit
    )


def _rejection_of(result: Result) -> Rejection | None:
    match result:
        case Rejection():
            return result
        case Unsure():
            return Rejection(
                "unknown_parent", "data.parent_run_id names a run without a reservation here"
            )
        case Recorded() | Waiting():
            return None
        case _:
            raise InvariantViolated("an event of a new id was not recorded before")


def _facts(
    body: DecideBody, billing: Billing, foreseen: Foreseen, required: int, now: datetime
) -> dict[str, Any]:
    current = foreseen.account
    balances = pool_balances(current, billing.pools, now)
    reserved = reserved_balances(current, billing.pools, now)
    # A child takes from its parent, and no run takes more than there is.
    drawn = draw(current.grants, billing.pools, 0 if body.parent_run_id else required, now)
    taken: dict[str, int] = {}
    for part in drawn.draws:
        taken[part.pool] = taken.get(part.pool, 0) + part.microcredits
    reserves = billing.reservation.reserves or body.parent_run_id is not None
    return {
        "principal": str(billing.principal),
        "payer": billing.payer,
        "policy_version": billing.policy_version,
        "reserves": body.reserve == "estimate" if body.reserve else reserves,
        "auto_reload": reload_standing(current, billing, now),
        "pools": [
            PoolDecision(
                pool=b.pool,
                available_credits=b.available_microcredits,
                reserved_credits=r.available_microcredits,
                would_take_credits=taken.get(b.pool, 0),
            )
            for b, r in zip(balances, reserved, strict=True)
        ],
        "resets_at": resets_at(current, now),
        "version": foreseen.context.row.version,
        "as_of": now,
    }


def _event(body: DecideBody, now: datetime) -> RunRequested:
    # An id that nobody else uses: what is asked is what a new request would be answered with.
    event_id = f"decide:{uuid.uuid4()}"
    document = {
        "specversion": "1.0",
        "id": event_id,
        "source": _SOURCE,
        "type": "agent_run.requested",
        "subject": body.run_id or event_id,
        "time": now.astimezone(UTC).isoformat(),
        "data": {
            "team_id": body.team_id,
            "trigger": body.trigger.model_dump(mode="json"),
            "project_id": body.project_id,
            "started_at": body.started_at.isoformat() if body.started_at else None,
            "credits": None if body.credits is None else format_credits(body.credits),
            "reserve": body.reserve,
            "ttl_seconds": body.ttl_seconds,
            "parent_run_id": body.parent_run_id,
        },
    }
    event: AgentRunEvent | Rejection = parse_event(document, "the request")
    if not isinstance(event, RunRequested):
        reason = event.reason if isinstance(event, Rejection) else "is no request"
        raise Refused("invalid_request", reason)
    return event
