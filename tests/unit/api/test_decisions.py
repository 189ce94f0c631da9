"""What `POST /v1/decide` says is what a reservation made right after it is answered with."""

from typing import Any

import pytest

from tests.api_world import ApiWorld, reservation, world_with
from tests.unit.builders import ACME, RELOADING_ACME


@pytest.fixture
def world() -> ApiWorld:
    return world_with("100")


def asked(**fields: Any) -> dict[str, Any]:
    body = reservation(**fields)
    del body["source"]
    return {**body, "reserve": "estimate"}


@pytest.mark.parametrize(
    ("fields", "outcome", "status"),
    [
        ({}, "accepted", 201),
        ({"credits": "100"}, "accepted", 201),
        ({"credits": "100.000001"}, "insufficient", 403),
        ({"team_id": "nowhere"}, "rejected", 422),
        ({"trigger": {"kind": "user", "user_id": "zoe"}}, "rejected", 422),
        ({"trigger": {"kind": "schedule", "schedule_id": "x"}}, "rejected", 422),
        ({"parent_run_id": "nobody"}, "rejected", 409),
        ({"run_id": "taken"}, "rejected", 409),
    ],
)
def test_the_decision_is_the_one_that_a_reservation_gets(
    world: ApiWorld, fields: dict[str, Any], outcome: str, status: int
) -> None:
    if fields.get("run_id") == "taken":
        world.call("POST", "/v1/reservations", reservation("taken", credits="1"))
    before = len(world.rows.stream)

    got = world.call("POST", "/v1/decide", asked(**fields))

    assert (got.status, got.json["outcome"]) == (200, outcome)
    assert got.json["allowed"] is (outcome == "accepted")
    assert len(world.rows.stream) == before
    # With a key of its own, so that a run that reserved before is no repeat.
    key = {"idempotency-key": "k2"}
    made = world.call("POST", "/v1/reservations", reservation(**fields), headers=key)
    assert made.status == status
    if status == 403:
        same = {name: made.json[name] for name in ("cause", "shortfall_credits", "status")}
        assert {name: got.json["problem"][name] for name in same} == same


def test_every_check_stands_in_its_order_with_its_result(world: ApiWorld) -> None:
    got = world.call("POST", "/v1/decide", asked(credits="500")).json

    assert [(c["check"], c["result"]) for c in got["checks"]] == [
        ("team_and_user", "passed"),
        ("account", "passed"),
        ("reservations", "passed"),
        ("credits", "failed"),
    ]
    assert (got["principal"], got["payer"], got["policy_version"]) == (
        "user:ana",
        "user",
        "2025-11",
    )
    assert got["pools"][-1] == {
        "pool": "add_on",
        "available_credits": "100",
        "reserved_credits": "0",
        "would_take_credits": "100",
    }


def test_a_check_behind_one_that_failed_is_not_reached(world: ApiWorld) -> None:
    got = world.call("POST", "/v1/decide", asked(team_id="nowhere")).json

    assert [c["result"] for c in got["checks"]] == ["failed"] + ["not_reached"] * 3
    assert got["checks"][0]["error"] == "unknown_team"


def test_a_reload_that_may_cover_it_is_named(world: ApiWorld) -> None:
    world.rows.teams["acme"] = RELOADING_ACME

    got = world.call("POST", "/v1/decide", asked(credits="300")).json

    assert (got["allowed"], got["outcome"], got["auto_reload"]) == (False, "waiting", "able")


def test_a_decision_never_goes_by_settings_that_are_cached(world: ApiWorld) -> None:
    world.call("POST", "/v1/decide", asked())
    world.rows.teams["acme"] = ACME.model_copy(update={"members": frozenset({"zoe"})})

    assert world.call("POST", "/v1/decide", asked()).json["outcome"] == "rejected"
