"""The HTTP API behind API Gateway: its routes, and how requests and answers look on the wire.

Two gateways call one function. Behind the producers' door, IAM has checked the caller before the
function runs. Behind the people's door nobody has, and the token is verified here. The door follows
from the API's id in the gateway's own context, which no caller can set.
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from http import HTTPStatus
from importlib import resources
from typing import Annotated, Any, Final, Literal, Protocol, TypeVar

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import (
    RequestValidationError,
)
from aws_lambda_powertools.event_handler.openapi.params import Header, Path, Query
from msgspec import Struct, field

from agent_credits.api.accounts import (
    AccountAnswer,
    Accounts,
    ReservationsAnswer,
    live_reservations,
)
from agent_credits.api.audit import Auditor
from agent_credits.api.callers import Caller, no_run
from agent_credits.api.cursors import LIMIT_DEFAULT, Limit
from agent_credits.api.decisions import DecideAnswer, DecideBody, Decisions
from agent_credits.api.events import BatchAnswer, EventAnswer, Events, headers_of, receive
from agent_credits.api.fields import Answer
from agent_credits.api.ledger import LedgerAnswer, read_ledger
from agent_credits.api.problems import Problem, Refused, invalid, undecided
from agent_credits.api.purchases import PurchaseAnswer, PurchaseBody, Purchases
from agent_credits.api.recorded_runs import RecordedRun, find_run
from agent_credits.api.recording import Recorder
from agent_credits.api.reports import ReportAnswer, read_report
from agent_credits.api.reservations import (
    ExtendBody,
    ReleaseBody,
    ReservationAnswer,
    ReservationFound,
    Reservations,
    ReserveBody,
    Reserved,
    SettleBody,
    WaitingAnswer,
    may_pay,
)
from agent_credits.api.rows import ApiRows
from agent_credits.api.runs import RunAnswer, run_answer
from agent_credits.api.settings import SettingsPatch, change_settings
from agent_credits.api.teams import TeamAnswer, Teams
from agent_credits.api.tokens import Tokens
from agent_credits.billing.directory import Directory
from agent_credits.commit.write_protocol import Pause
from agent_credits.events.agent_runs import Rejection, complaint_of, parse_json
from agent_credits.intake.debited_batch import DebitedBatch, LogLine
from agent_credits.intake.debits import Debits, TimeIsLeft
from agent_credits.ledger.reloads import ReloadRequest
from agent_credits.values.errors import AgentCreditsError
from agent_credits.values.identifiers import Identifier
from agent_credits.values.principals import Principal, parse_principal

# What the API counts of what it records, beside what the queue's consumer counts of its own.
COUNTED: Final = (
    *("EventsDebited", "RunsFailed", "CompareAndSetRetries"),
    *("CreditsReserved", "CreditsDrawnOfReserved", "RunsFailedWhileReserved"),
)

Door = Literal["producers", "people"]

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"
DOCUMENT_PATH: Final = "/v1/openapi.json"
# It reads bodies of its own content types.
EVENTS_PATH: Final = "/v1/events"

# An id of these characters stands in a path as it is. Any other is written as `~` and base64url,
# because gateways and proxies decode a path before it gets here, and not all alike.
# None begins with a dot: `..` would be taken for the way up.
PLAIN_ID: Final = r"[A-Za-z0-9_:@-][A-Za-z0-9._:@-]{0,199}"
ID_IN_PATH: Final = rf"^({PLAIN_ID}|~[A-Za-z0-9_-]{{1,300}})$"
_TRACE_ID: Final = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

IdempotencyKey = Annotated[
    Identifier | None,
    Header(
        alias="Idempotency-Key",
        description="The ID of what this request records. A repeat gets the first answer.",
    ),
]
RequiredKey = Annotated[
    Identifier,
    Header(
        alias="Idempotency-Key",
        description="The ID of what this request records. A repeat gets the first answer.",
    ),
]
PathId = Annotated[
    str,
    Path(
        pattern=ID_IN_PATH,
        description="The ID, or `~` and its base64url if it has other characters than these.",
    ),
]
PayerQuery = Annotated[
    str | None,
    Query(
        alias="principal",
        description="An account that the run may be billed to: `user:<id>` or `team:<id>`.",
    ),
]


BuyerQuery = Annotated[str, Query(alias="principal", description="The account bought for.")]
CursorQuery = Annotated[str | None, Query(description="The `next_cursor` of the page before.")]
LimitQuery = Annotated[Limit, Query(description="The most to return.")]
IfMatch = Annotated[
    int | None,
    Header(alias="If-Match", description="The `settings_version` that the change is based on."),
]

Responses = dict[int, Any]


def _returns(model: type[Answer], *, status: int = 200, also: Responses | None = None) -> Responses:
    """Return what the OpenAPI document says of a call's answers, its problems apart."""
    return {status: _documented(model), **(also or {})}


def _documented(model: type[Answer]) -> dict[str, Any]:
    words = (model.__doc__ or "").strip().splitlines()
    return {
        "description": words[0] if words else "The answer.",
        "content": {JSON: {"model": model}},
    }


WAITING: Final = _documented(WaitingAnswer)

Handler = TypeVar("Handler", bound=Callable[..., Response[Any]])


class Handling(Protocol):
    """Registers what answers an exception of a class."""

    def __call__(self, exception: type[Exception], /) -> Callable[[Handler], Handler]: ...


class NotJson(Exception):
    """The body is not unambiguous JSON. The message says where."""


class Call(Struct):
    """One request: who makes it, when, and what was recorded for it."""

    caller: Caller
    now: datetime
    trace_id: str
    request_id: str
    time_is_left: TimeIsLeft
    batches: list[DebitedBatch] = field(default_factory=list)
    problem: Problem | None = None


class Answered(Struct, frozen=True):
    """What the gateway gets, and what the function logs and counts."""

    response: dict[str, Any]
    route: str
    trace_id: str
    batches: tuple[DebitedBatch, ...] = ()
    problem: Problem | None = None
    fault: Exception | None = None

    @property
    def status(self) -> int:
        return int(self.response["statusCode"])

    @property
    def counts(self) -> dict[str, int]:
        """Return the metrics of the request: one always, and of the others those above zero.

        CloudWatch charges for each metric that there is, and for each byte of the log.
        """
        counts = Counter({"RequestsFailed": self.status == HTTPStatus.INTERNAL_SERVER_ERROR})
        for batch in self.batches:
            counts.update({name: batch.counts[name] for name in COUNTED})
        is_undecided = self.status == HTTPStatus.SERVICE_UNAVAILABLE
        above_zero = {name: count for name, count in counts.items() if count}
        return {"RequestsUndecided": int(is_undecided), **above_zero}

    def log_lines(self) -> Iterator[LogLine]:
        """Yield a line for each commit, and one where nothing was decided."""
        for batch in self.batches:
            yield from batch.log_lines(per_event=False)
        if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            is_undecided = self.status == HTTPStatus.SERVICE_UNAVAILABLE
            reason = f"{type(self.fault).__name__}: {self.fault}" if self.fault else ""
            detail = self.problem.detail if self.problem else ""
            yield LogLine(
                "error",
                "undecided" if is_undecided else "failed",
                {"route": self.route, "reason": reason or detail},
            )


class HttpApi:
    """Serves one request at a time.

    `tokens` is made for the first request by a person. `doors`: the door of each API's id.
    `problem_type_base_url` may be empty.
    """

    def __init__(
        self,
        rows: ApiRows,
        directory: Directory,
        debits: Debits,
        tokens: Callable[[], Tokens],
        ask_for_payment: Callable[[ReloadRequest], None],
        pause: Pause,
        *,
        doors: Mapping[str, Door],
        problem_type_base_url: str,
    ) -> None:
        self._tokens = tokens
        self._doors = doors
        self._base_url = problem_type_base_url
        self._rows = rows
        self._recorder = Recorder(debits, problem_type_base_url)
        self._events = Events(self._recorder)
        self._reservations = Reservations(rows, self._recorder)
        self._accounts = Accounts(rows, directory)
        self._decisions = Decisions(rows, directory, problem_type_base_url)
        self._teams = Teams(rows)
        self._purchases = Purchases(rows, ask_for_payment, pause)
        self._pause = pause

    def answer(self, event: Mapping[str, Any], now: datetime, time_is_left: TimeIsLeft) -> Answered:
        """Answer a request of either gateway. Never raises."""
        trace_id, route = _trace_id(event), _route(event)
        call: Call | None = None
        fault: Exception | None = None
        try:
            if route == f"GET {DOCUMENT_PATH}":
                return Answered(_response(200, JSON, _document()), route, trace_id)
            request_id = event["requestContext"]["requestId"]
            call = Call(self._caller_of(event), now, trace_id, request_id, time_is_left)
            resolver = self.resolver
            resolver.append_context(call=call)  # type: ignore[no-untyped-call]
            _require_json(event)
            response = resolver.resolve(_with_text(event), None)  # type: ignore[arg-type]
        except Refused as refused:
            response = self._problem(refused.problem, trace_id)
        except AgentCreditsError as error:
            unavailable = undecided("a service that the decision needs is not available")
            response, fault = self._problem(unavailable.problem, trace_id), error
        except Exception as error:  # noqa: BLE001 -- It is logged, counted and answered.
            # Whatever it is: the gateway would answer with a body that is no problem document.
            unforeseen = Refused("internal_error", "an error that was not foreseen")
            response, fault = self._problem(unforeseen.problem, trace_id), error
        batches = tuple(call.batches) if call else ()
        problem = call.problem if call else None
        return Answered(response, route, trace_id, batches, problem, fault)

    @cached_property
    def resolver(self) -> APIGatewayHttpResolver:
        """Return the routes. The OpenAPI document is made from them, too."""
        app = APIGatewayHttpResolver(enable_validation=True, json_body_deserializer=_strict_json)
        _handle_errors(app, self._base_url)
        self._route_events(app)
        self._route_reservations(app)
        self._route_accounts(app)
        self._route_runs(app)
        self._route_teams(app)
        return app

    def _route_events(self, app: APIGatewayHttpResolver) -> None:
        @app.post(
            EVENTS_PATH,
            summary="Record CloudEvents at once",
            tags=["events"],
            responses=_returns(EventAnswer, also={202: _documented(EventAnswer)}),
        )
        def record_events() -> Response[Any]:
            call, request = _call(app), app.current_event
            headers = {name.lower(): value for name, value in request.headers.items()}
            received = receive(request.body or "", headers.get("content-type", ""), headers)
            answers, batch = self._events.record(received, call.caller, call.now, call.time_is_left)
            call.batches.append(batch)
            base_url = self._base_url
            results = [
                self._events.answer_to(event, answered, base_url, call.trace_id)
                for event, answered in zip(received.events, answers, strict=True)
            ]
            if received.is_batch:
                return _answer(BatchAnswer(results=results))
            (answer,), (answered,) = results, answers
            headers = headers_of(answered)
            if answer.problem is not None and answer.status != 200:
                body = json.dumps({**answer.problem, "event_id": answer.event_id})
                return Response(answer.status, PROBLEM_JSON, body, headers)
            return _answer(answer, answer.status, headers)

    def _route_reservations(self, app: APIGatewayHttpResolver) -> None:
        @app.post(
            "/v1/reservations",
            summary="Reserve credits for a run",
            tags=["reservations"],
            responses=_returns(
                ReservationAnswer, also={201: _documented(ReservationAnswer), 202: WAITING}
            ),
        )
        def reserve(body: ReserveBody, idempotency_key: IdempotencyKey = None) -> Response[Any]:
            call = _call(app)
            return _reserved(
                call,
                self._reservations.reserve(
                    body, idempotency_key, call.caller, call.now, call.time_is_left
                ),
            )

        @app.post(
            "/v1/reservations/<run_id>/extend",
            summary="Give a reservation more credits or time",
            tags=["reservations"],
            responses=_returns(ReservationAnswer, also={202: WAITING}),
        )
        def extend(run_id: PathId, body: ExtendBody, idempotency_key: RequiredKey) -> Response[Any]:
            call = _call(app)
            return _reserved(
                call,
                self._reservations.extend(
                    _id(run_id), body, idempotency_key, call.caller, call.now, call.time_is_left
                ),
            )

        @app.post(
            "/v1/reservations/<run_id>/settle",
            summary="End a run and settle its reservation",
            tags=["reservations"],
            responses=_returns(ReservationAnswer),
        )
        def settle(
            run_id: PathId, body: SettleBody, idempotency_key: IdempotencyKey = None
        ) -> Response[Any]:
            call = _call(app)
            return _reserved(
                call,
                self._reservations.settle(
                    _id(run_id), body, idempotency_key, call.caller, call.now, call.time_is_left
                ),
            )

        @app.post(
            "/v1/reservations/<run_id>/release",
            summary="Give back what a reservation holds",
            tags=["reservations"],
            responses=_returns(ReservationAnswer),
        )
        def release(
            run_id: PathId, body: ReleaseBody, idempotency_key: IdempotencyKey = None
        ) -> Response[Any]:
            call = _call(app)
            return _reserved(
                call,
                self._reservations.release(
                    _id(run_id), body, idempotency_key, call.caller, call.now, call.time_is_left
                ),
            )

        @app.get(
            "/v1/reservations/<run_id>",
            summary="Read the reservation of a run",
            tags=["reservations"],
            responses=_returns(ReservationFound),
        )
        def read_reservation(run_id: PathId, principal: PayerQuery = None) -> Response[Any]:
            call = _call(app)
            call.caller.require("read_reservation")
            run = self._visible_run(_id(run_id), principal, call)
            return _answer(self._reservations.find(run, call.now))

    def _route_accounts(self, app: APIGatewayHttpResolver) -> None:
        @app.get(
            "/v1/accounts/<principal>",
            summary="Read what an account holds",
            tags=["accounts"],
            responses=_returns(AccountAnswer),
        )
        def read_account(principal: PathId) -> Response[Any]:
            call = _call(app)
            return _answer(self._accounts.read(_principal(principal), call.caller, call.now))

        @app.get(
            "/v1/accounts/<principal>/ledger",
            summary="List the entries of an account, newest first",
            tags=["accounts"],
            responses=_returns(LedgerAnswer),
        )
        def read_account_ledger(
            principal: PathId, cursor: CursorQuery = None, limit: LimitQuery = LIMIT_DEFAULT
        ) -> Response[Any]:
            call = _call(app)
            call.caller.require("read_ledger")
            row = self._accounts.visible(_principal(principal), call.caller, call.now)
            return _answer(read_ledger(self._rows, row, call.caller, cursor, limit))

        @app.get(
            "/v1/accounts/<principal>/reservations",
            summary="List the live reservations of an account",
            tags=["accounts"],
            responses=_returns(ReservationsAnswer),
        )
        def list_reservations(
            principal: PathId, cursor: CursorQuery = None, limit: LimitQuery = LIMIT_DEFAULT
        ) -> Response[Any]:
            call = _call(app)
            call.caller.require("list_reservations")
            row = self._accounts.visible(_principal(principal), call.caller, call.now)
            return _answer(live_reservations(row, cursor, limit, call.now))

    def _route_runs(self, app: APIGatewayHttpResolver) -> None:
        @app.get(
            "/v1/runs/<run_id>",
            summary="Read what became of a run",
            tags=["runs"],
            responses=_returns(RunAnswer),
        )
        def read_run(run_id: PathId, principal: PayerQuery = None) -> Response[Any]:
            call = _call(app)
            call.caller.require("read_run")
            return _answer(run_answer(self._visible_run(_id(run_id), principal, call), call.now))

        @app.post(
            "/v1/decide",
            summary="Ask whether a run would be admitted",
            tags=["runs"],
            responses=_returns(DecideAnswer),
        )
        def decide(body: DecideBody) -> Response[Any]:
            call = _call(app)
            return _answer(self._decisions.decide(body, call.caller, call.now, call.trace_id))

    def _route_teams(self, app: APIGatewayHttpResolver) -> None:
        @app.get(
            "/v1/teams/<team_id>",
            summary="Read a team",
            tags=["teams"],
            responses=_returns(TeamAnswer),
        )
        def read_team(team_id: PathId) -> Response[Any]:
            call = _call(app)
            call.caller.require("read_team")
            return _answer(self._teams.read(_id(team_id), call.caller, call.now))

        @app.get(
            "/v1/teams/<team_id>/report",
            summary="Report what a team holds and burns",
            tags=["teams"],
            responses=_returns(ReportAnswer),
        )
        def read_team_report(team_id: PathId) -> Response[Any]:
            call = _call(app)
            call.caller.require("read_report")
            team, policy = self._teams.visible(_id(team_id), call.caller)
            return _answer(read_report(self._rows, team, policy, call.now))

        @app.patch(
            "/v1/teams/<team_id>/settings",
            summary="Change the settings of a team",
            tags=["teams"],
            responses=_returns(TeamAnswer),
        )
        def patch_settings(
            team_id: PathId, body: SettingsPatch, if_match: IfMatch = None
        ) -> Response[Any]:
            call = _call(app)
            call.caller.require("change_settings")
            self._teams.visible(_id(team_id), call.caller)
            auditor = Auditor(call.caller.name, call.request_id, call.now)
            change_settings(self._rows, _id(team_id), body, auditor, if_match, self._pause)
            return _answer(self._teams.read(_id(team_id), call.caller, call.now))

        @app.post(
            "/v1/teams/<team_id>/purchases",
            summary="Buy packs of credits",
            tags=["teams"],
            responses=_returns(PurchaseAnswer, also={202: _documented(PurchaseAnswer)}),
        )
        def buy(team_id: PathId, body: PurchaseBody, idempotency_key: RequiredKey) -> Response[Any]:
            call = _call(app)
            call.caller.require("buy")
            self._teams.visible(_id(team_id), call.caller)
            auditor = Auditor(call.caller.name, call.request_id, call.now)
            bought = self._purchases.buy(_id(team_id), body, idempotency_key, auditor, call.now)
            headers = {} if bought.status == 200 else {"Retry-After": "5"}
            return _answer(bought.answer, bought.status, headers)

        @app.get(
            "/v1/teams/<team_id>/purchases/<key>",
            summary="Read a purchase",
            tags=["teams"],
            responses=_returns(PurchaseAnswer),
        )
        def read_purchase(team_id: PathId, key: PathId, principal: BuyerQuery) -> Response[Any]:
            call = _call(app)
            call.caller.require("read_team")
            self._teams.visible(_id(team_id), call.caller)
            buyer = _principal(principal)
            return _answer(self._purchases.found(_id(team_id), buyer, _id(key)))

    def _visible_run(self, run_id: str, payer: str | None, call: Call) -> RecordedRun:
        """Return what is recorded of a run that the caller may see. Raises `Refused`."""
        caller = call.caller
        if caller.role == "run" and run_id != caller.run_id:
            raise no_run()
        named = _principal(payer) if payer is not None else None
        run = find_run(self._rows, run_id, may_pay(caller, named))
        return self._accounts.visible_part(run, caller, call.now)

    def _caller_of(self, event: Mapping[str, Any]) -> Caller:
        context = event["requestContext"]
        match self._doors.get(context["apiId"]):
            case "producers":
                iam = context.get("authorizer", {}).get("iam", {})
                if not iam.get("userArn"):
                    # The route has lost its authorization; nobody is let in by mistake.
                    raise Refused("unauthenticated", "sign the request with AWS Signature V4")
                return Caller("platform", f"iam:{iam['userArn']}")
            case "people":
                headers = {name.lower(): value for name, value in event["headers"].items()}
                return self._tokens().caller_of(headers.get("authorization"))
            case _:
                raise Refused("unauthenticated", "the API that was called is not of this stack")

    def _problem(self, problem: Problem, trace_id: str) -> dict[str, Any]:
        document = problem.to_document(self._base_url, trace_id)
        return _response(problem.type.status, PROBLEM_JSON, json.dumps(document), problem.headers)


def _handle_errors(app: APIGatewayHttpResolver, base_url: str) -> None:
    def problem(found: Problem) -> Response[Any]:
        call = _call(app)
        call.problem = found
        document = found.to_document(base_url, call.trace_id)
        return Response(found.type.status, PROBLEM_JSON, json.dumps(document), dict(found.headers))

    on: Handling = app.exception_handler

    @on(Refused)
    def refused(error: Refused) -> Response[Any]:
        return problem(error.problem)

    @on(NotJson)
    def not_json(error: NotJson) -> Response[Any]:
        return problem(Refused("not_json", str(error)).problem)

    @on(NotFoundError)
    def not_found(_: NotFoundError) -> Response[Any]:
        return problem(Refused("not_found", "no route has this method and path").problem)

    @on(RequestValidationError)
    def invalid(error: RequestValidationError) -> Response[Any]:
        errors = [_named_error(found) for found in error.errors()]
        first = errors[0]
        detail = f"{first['field']} {first['complaint']}"
        return problem(Refused("invalid_request", detail, extensions={"errors": errors}).problem)


def _named_error(found: Mapping[str, Any]) -> dict[str, str]:
    """Return which field is wrong and how; never its value, which may be anything."""
    where, *path = [str(part) for part in found["loc"]]
    # The type of a discriminated union stands in pydantic's path, and is no field.
    if path[:1] == ["trigger"] and len(path) > 2:
        del path[1]
    field_name = ".".join(path)[:200] or where
    complaint = complaint_of(found).removeprefix("credits ")  # type: ignore[arg-type]
    return {"field": field_name, "in": where, "complaint": complaint}


def _strict_json(body: str) -> Any:
    document = parse_json(body)
    if isinstance(document, Rejection):
        raise NotJson(document.reason)
    return document


def _require_json(event: Mapping[str, Any]) -> None:
    """Raise `Refused` for another body; the resolver would try to read forms."""
    if "body" not in event or event["rawPath"] == EVENTS_PATH:
        return
    headers = {name.lower(): value for name, value in event["headers"].items()}
    media_type = headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if media_type != JSON:
        raise Refused("unsupported_media_type", f"send {JSON}")


def _with_text(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the event with its body as text; the gateway encodes what it does not know to be.

    Raises `Refused`.
    """
    if not event.get("isBase64Encoded"):
        return event
    try:
        text = base64.b64decode(event["body"], validate=True).decode()
    except ValueError:
        raise Refused("not_json", "the body is not UTF-8") from None
    return {**event, "body": text, "isBase64Encoded": False}


def _call(app: APIGatewayHttpResolver) -> Call:
    call: Call = app.context["call"]
    return call


def _id(segment: str) -> str:
    """Return the id that a segment of the path stands for. Raises `Refused`."""
    if not segment.startswith("~"):
        return segment
    try:
        padded = segment[1:] + "=" * (-len(segment[1:]) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        raise invalid("id", "is not base64url after ~", where="path") from None


def _principal(text: str) -> Principal:
    try:
        return parse_principal(_id(text))
    except ValueError:
        raise invalid("principal", "must be user:<id> or team:<id>", where="path") from None


def _reserved(call: Call, reserved: Reserved) -> Response[Any]:
    call.batches.append(reserved.batch)
    headers = {}
    if isinstance(reserved.answer, WaitingAnswer):
        headers["Retry-After"] = "5"
    elif reserved.status == 201:
        answer = reserved.answer
        principal = segment_of(answer.principal)
        headers["Location"] = f"/v1/reservations/{segment_of(answer.run_id)}?principal={principal}"
    return _answer(reserved.answer, reserved.status, headers)


def segment_of(text: str) -> str:
    """Return an id as a segment of a path."""
    if re.fullmatch(PLAIN_ID, text):
        return text
    return "~" + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _answer(
    answer: Answer, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response[Any]:
    return Response(status, JSON, answer.model_dump_json(), dict(headers or {}))


def _response(
    status: int, content_type: str, body: str, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"Content-Type": content_type, **(headers or {})},
        "body": body,
        "isBase64Encoded": False,
    }


def _document() -> str:
    return resources.files("agent_credits.api").joinpath("openapi.json").read_text()


def _route(event: Mapping[str, Any]) -> str:
    http = event["requestContext"]["http"]
    return f"{http['method']} {event['rawPath']}"


def _trace_id(event: Mapping[str, Any]) -> str:
    """Return the caller's own trace id, or else the gateway's id of the request."""
    headers = {name.lower(): value for name, value in event.get("headers", {}).items()}
    parts = _TRACE_ID.fullmatch(headers.get("traceparent", ""))
    return parts[1] if parts else str(event["requestContext"]["requestId"])
