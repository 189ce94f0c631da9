"""Who may call what: one test for each cell of the table, both ways, and nothing that leaks."""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import pytest

from agent_credits.api.callers import MAY, Operation, Role
from tests.api_world import ApiWorld, Got, reservation, token, world_with
from tests.unit.builders import (
    BEN,
    BIGCORP,
    OLGA,
    RELOADING_ACME,
    grant_change,
    open_account,
    usage,
)


class Request(NamedTuple):
    """A request that succeeds for whoever may make it."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None


OF_ANA = {"principal": "user:ana"}
KEYED = {"idempotency-key": "k1"}
REQUESTS: Mapping[Operation, Request] = {
    "record_events": Request("POST", "/v1/events", usage("e1", "1")),
    "decide": Request("POST", "/v1/decide", {k: reservation()[k] for k in ("team_id", "trigger")}),
    "reserve": Request("POST", "/v1/reservations", reservation(credits="1"), headers=KEYED),
    "change_reservation": Request("POST", "/v1/reservations/run-1/release", OF_ANA),
    "read_reservation": Request("GET", "/v1/reservations/run-1", query=OF_ANA),
    "read_account": Request("GET", "/v1/accounts/user:ana"),
    "read_ledger": Request("GET", "/v1/accounts/user:ana/ledger"),
    "list_reservations": Request("GET", "/v1/accounts/user:ana/reservations"),
    "read_run": Request("GET", "/v1/runs/run-1", query=OF_ANA),
    "read_team": Request("GET", "/v1/teams/acme"),
    "read_report": Request("GET", "/v1/teams/acme/report"),
    "change_settings": Request("PATCH", "/v1/teams/acme/settings", {"spend_cap_cents": 1}),
    "buy": Request(
        "POST",
        "/v1/teams/acme/purchases",
        {"principal": "user:ana", "pack_credits": "400"},
        headers=KEYED,
    ),
}


def world_of_requests() -> ApiWorld:
    world = world_with("100")
    world.rows.teams["acme"] = RELOADING_ACME.model_copy(
        update={"members": frozenset({"ana", "ben", "olga"})}
    )
    world.call("POST", "/v1/reservations", reservation(credits="10"))
    return world


def credentials(role: Role) -> dict[str, Any]:
    """Return what a caller of the role sends who may see ana's account and team."""
    match role:
        case "platform":
            return {"door": "producers"}
        case "run":
            return {"door": "people", "bearer": token("ana", run_id="run-1")}
        case "billing_admin":
            return {"door": "people", "bearer": token("olga", role="billing_admin")}
        case "operator":
            return {"door": "people", "bearer": token("root", role="operator", teams=())}
        case _:
            return {"door": "people", "bearer": token("ana", role="member")}


def call(world: ApiWorld, request: Request, caller: Mapping[str, Any]) -> Got:
    return world.call(
        request.method,
        request.path,
        request.body,
        query=request.query,
        headers=request.headers,
        **caller,
    )


@pytest.mark.parametrize("role", get_args(Role))
@pytest.mark.parametrize("operation", get_args(Operation))
def test_a_role_may_do_exactly_what_the_table_says(operation: Operation, role: Role) -> None:
    world = world_of_requests()
    got = call(world, REQUESTS[operation], credentials(role))

    if role in MAY[operation]:
        # The run has reserved already, which only whoever may reserve is told.
        expected = {"reserve": 409, "buy": 202}.get(operation, 200)
        assert got.status == expected, got.text
    else:
        assert (got.status, got.json["error"]) == (403, "forbidden")


def test_every_operation_is_asked_for_here() -> None:
    assert REQUESTS.keys() == MAY.keys() == set(get_args(Operation))


# What a caller may not know of is answered like what does not exist.


def people(sub: str = "ana", **claims: Any) -> dict[str, Any]:
    return {"door": "people", "bearer": token(sub, **claims)}


@pytest.fixture
def world() -> ApiWorld:
    world = world_of_requests()
    for principal in (BEN, OLGA, BIGCORP):
        pool = "contract" if principal == BIGCORP else "add_on"
        open_account(world.rows, grant_change("g-1", pool, "100", principal=principal))
    of_ben = reservation("run-ben", trigger={"kind": "user", "user_id": "ben"}, credits="5")
    world.call("POST", "/v1/reservations", of_ben)
    of_bigcorp = reservation(
        "run-big", team_id="bigcorp", trigger={"kind": "user", "user_id": "wendy"}, credits="5"
    )
    world.call("POST", "/v1/reservations", of_bigcorp)
    return world


ADMIN_OF_ACME = people("olga", role="billing_admin")
MEMBER = people("ana", role="member")
ADMIN_OF_BIGCORP = people("boss", role="billing_admin", teams=("bigcorp",))
RUN = people("ana", run_id="run-1")


@pytest.mark.parametrize(
    ("caller", "method", "there", "nowhere"),
    [
        (MEMBER, "GET", "/v1/accounts/user:ben", "/v1/accounts/user:nobody"),
        (MEMBER, "GET", "/v1/accounts/team:acme", "/v1/accounts/team:nowhere"),
        (MEMBER, "GET", "/v1/accounts/user:ben/ledger", "/v1/accounts/user:nobody/ledger"),
        (MEMBER, "GET", "/v1/runs/run-ben?user:ben", "/v1/runs/run-x?user:ben"),
        (ADMIN_OF_ACME, "GET", "/v1/accounts/team:bigcorp", "/v1/accounts/team:nowhere"),
        (ADMIN_OF_ACME, "GET", "/v1/teams/bigcorp", "/v1/teams/nowhere"),
        (ADMIN_OF_ACME, "GET", "/v1/teams/bigcorp/report", "/v1/teams/nowhere/report"),
        (ADMIN_OF_ACME, "PATCH", "/v1/teams/bigcorp/settings", "/v1/teams/nowhere/settings"),
        (ADMIN_OF_ACME, "POST", "/v1/teams/bigcorp/purchases", "/v1/teams/nowhere/purchases"),
        (ADMIN_OF_ACME, "GET", "/v1/runs/run-big?team:bigcorp", "/v1/runs/run-x?team:bigcorp"),
        (ADMIN_OF_BIGCORP, "GET", "/v1/accounts/user:ana", "/v1/accounts/user:nobody"),
        (ADMIN_OF_BIGCORP, "GET", "/v1/runs/run-1?user:ana", "/v1/runs/run-x?user:ana"),
        (RUN, "GET", "/v1/runs/run-ben?user:ben", "/v1/runs/run-x?user:ben"),
        (RUN, "GET", "/v1/reservations/run-ben?user:ben", "/v1/reservations/run-x?user:ben"),
        (RUN, "POST", "/v1/reservations/run-ben/release", "/v1/reservations/run-x/release"),
    ],
)
def test_what_exists_and_what_does_not_are_answered_alike(
    world: ApiWorld, caller: dict[str, Any], method: str, there: str, nowhere: str
) -> None:
    answers = []
    for target in (there, nowhere):
        path, _, principal = target.partition("?")
        body = None if method == "GET" else _body(path)
        query = {"principal": principal} if principal else None
        headers = {"idempotency-key": "k9"}
        got = world.call(method, path, body, query=query, headers=headers, **caller)
        answers.append((got.status, got.json))

    assert answers[0] == answers[1]
    assert answers[0][0] == 404


def _body(path: str) -> dict[str, Any]:
    if path.endswith("settings"):
        return {"spend_cap_cents": 0}
    if path.endswith("purchases"):
        return {"principal": "user:ana", "pack_credits": "400"}
    return {"principal": "user:ben"}


def test_a_member_may_ask_about_their_own_runs_alone(world: ApiWorld) -> None:
    own = {"team_id": "acme", "trigger": {"kind": "user", "user_id": "ana"}}
    bens = {"team_id": "acme", "trigger": {"kind": "user", "user_id": "ben"}}
    elsewhere = {"team_id": "bigcorp", "trigger": {"kind": "user", "user_id": "ana"}}

    answers = [world.call("POST", "/v1/decide", body, **MEMBER) for body in (own, bens, elsewhere)]

    assert [got.status for got in answers] == [200, 403, 404]


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (usage("e1", "1", run="run-1"), 200),
        (usage("e1", "1", run="run-2"), 404),
        (usage("e1", "1", run="run-1", team="bigcorp"), 404),
        (usage("e1", "1", run="run-1", user="ben"), 403),
        (usage("e1", "1", run="run-1", trigger={"kind": "schedule", "schedule_id": "x"}), 403),
    ],
)
def test_the_token_of_a_run_records_for_that_run_and_its_trigger_alone(
    world: ApiWorld, event: dict[str, Any], status: int
) -> None:
    got = world.call("POST", "/v1/events", event, **RUN)

    assert got.status == status


def test_the_token_of_a_scheduled_run_names_its_trigger(world: ApiWorld) -> None:
    nightly = {"kind": "schedule", "schedule_id": "nightly"}
    caller = people("olga", run_id="run-1", trigger=nightly)

    by_schedule = world.call("POST", "/v1/events", usage("e1", "1", trigger=nightly), **caller)
    by_user = world.call("POST", "/v1/events", usage("e2", "1", user="olga"), **caller)

    assert (by_schedule.status, by_schedule.json["principal"]) == (200, "user:olga")
    assert by_user.status == 403


def test_a_run_may_not_say_that_it_ended_in_the_platforms_error(world: ApiWorld) -> None:
    body = {"status": "error", "principal": "user:ana"}
    settled = world.call("POST", "/v1/reservations/run-1/settle", body, **RUN)
    event = {**usage("e1"), "type": "agent_run.finished"}
    event["data"] = {**event["data"], "status": "error"}
    del event["data"]["credits"]
    sent = world.call("POST", "/v1/events", event, **RUN)

    assert (settled.status, sent.status) == (403, 403)
    assert (sent.json["error"], settled.json["error"]) == ("forbidden", "forbidden")


def test_an_admin_sees_nothing_of_the_runs_of_another_team_on_a_members_account(
    world: ApiWorld,
) -> None:
    elsewhere = world.rows.teams["acme"].model_copy(update={"team_id": "studio"})
    world.rows.teams["studio"] = elsewhere
    world.call("POST", "/v1/events", usage("e-studio", "1", run="run-s", team="studio"))

    run = world.call("GET", "/v1/runs/run-s", query=OF_ANA, **ADMIN_OF_ACME)
    ledger = world.call("GET", "/v1/accounts/user:ana/ledger", **ADMIN_OF_ACME)
    own = world.call("GET", "/v1/accounts/user:ana/ledger", **MEMBER)

    assert run.status == 404
    assert "e-studio" not in ledger.text
    assert "e-studio" in own.text


def test_a_member_of_an_enterprise_sees_their_own_run_and_not_the_teams_account(
    world: ApiWorld,
) -> None:
    wendy = people("wendy", teams=("bigcorp",))
    query = {"principal": "team:bigcorp"}

    assert world.call("GET", "/v1/runs/run-big", query=query, **wendy).status == 200
    assert world.call("GET", "/v1/accounts/team:bigcorp", **wendy).status == 404
    other = people("walt", teams=("bigcorp",))
    assert world.call("GET", "/v1/runs/run-big", query=query, **other).status == 404
