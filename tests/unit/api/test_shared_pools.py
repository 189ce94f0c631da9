"""A pool that a team shares, over HTTP: asked for, shown on both accounts, and to whom."""

from typing import Any

import pytest

from agent_credits.billing.policy import BillingPolicy, BillingRule
from agent_credits.ledger.accounts import available_microcredits
from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Principal
from tests.api_world import ApiWorld, reservation, token
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    NOW,
    POLICY,
    cloudevent,
    finished,
    grant_change,
    open_account,
    usage,
)

EVENT = "application/cloudevents+json"
TEAM = Principal("team", "acme")
SHARED = "team:acme/shared"
ADMIN: dict[str, Any] = {"door": "people", "bearer": token("olga", role="billing_admin")}
MEMBER: dict[str, Any] = {"door": "people", "bearer": token("ana")}
BEN_RUNS = {"trigger": {"kind": "user", "user_id": "ben"}}


def sharing(*pools: str) -> BillingPolicy:
    rule = BillingRule(team="self_serve", triggers=("user",), payer="user", pools=pools)
    return POLICY.model_copy(update={"rules": (rule, *POLICY.rules[1:])})


@pytest.fixture
def world() -> ApiWorld:
    """Ana and ben have 50 credits each, and their team a pool of 100."""
    world = ApiWorld()
    world.rows.policies[POLICY.version] = sharing("plan", "add_on", "team:shared")
    for principal in (ANA, BEN):
        change = grant_change(f"g-{principal.id}", credits="50", pool="plan", principal=principal)
        open_account(world.rows, change)
    open_account(world.rows, grant_change("t-1", pool="shared", credits="100", principal=TEAM))
    return world


def asked(**fields: Any) -> dict[str, Any]:
    body = reservation(**fields)
    del body["source"]
    return {**body, "reserve": "estimate"}


def pools_of(answer: dict[str, Any], name: str = "pools") -> dict[str, tuple[str, ...]]:
    numbers = ("available_credits", "reserved_credits", "would_take_credits")
    return {
        pool["pool"]: tuple(pool[number] for number in numbers if number in pool)
        for pool in answer[name]
    }


@pytest.mark.parametrize(
    ("credits", "outcome", "status", "taken"),
    [
        ("50", "accepted", 201, "0"),
        ("75", "accepted", 201, "25"),
        ("150", "accepted", 201, "100"),
        ("150.000001", "insufficient", 403, "100"),
    ],
)
def test_the_decision_counts_the_team_s_pool_behind_the_payer_s_own(
    world: ApiWorld,
    credits: str,  # noqa: A002
    outcome: str,
    status: int,
    taken: str,
) -> None:
    got = world.call("POST", "/v1/decide", asked(credits=credits)).json

    assert got["outcome"] == outcome
    assert pools_of(got) == {
        "plan": ("50", "0", "50"),
        "add_on": ("0", "0", "0"),
        SHARED: ("100", "0", taken),
    }
    made = world.call("POST", "/v1/reservations", reservation(credits=credits))
    assert made.status == status
    if status == 201:
        held = {part["pool"]: part["credits"] for part in made.json["reservation"]["grants"]}
        assert held.get(SHARED, "0") == taken


def test_what_other_members_hold_is_not_available_and_not_shown(world: ApiWorld) -> None:
    world.call("POST", "/v1/reservations", reservation("bens", credits="90", **BEN_RUNS))
    world.call("POST", "/v1/reservations", reservation("anas", credits="60"))

    decided = world.call("POST", "/v1/decide", asked(credits="50"), **MEMBER)
    account = world.call("GET", "/v1/accounts/user:ana", **MEMBER)

    assert pools_of(decided.json)[SHARED] == ("50", "10", "50")
    assert pools_of(account.json, "shared_pools") == {SHARED: ("50", "10")}
    assert (account.json["available_credits"], account.json["reserved_credits"]) == ("0", "50")
    assert SHARED not in pools_of(account.json)
    assert [grant["id"] for grant in account.json["grants"]] == ["g-ana"]
    assert "ben" not in decided.text + account.text


def test_a_member_who_has_run_nothing_sees_the_team_s_pool(world: ApiWorld) -> None:
    got = world.call("GET", "/v1/accounts/user:ana", **MEMBER).json

    assert pools_of(got, "shared_pools") == {SHARED: ("100", "0")}


def test_what_a_reservation_held_of_the_team_is_free_once_it_has_expired(world: ApiWorld) -> None:
    world.call("POST", "/v1/reservations", reservation("bens", credits="90", **BEN_RUNS))
    world.call("POST", "/v1/reservations", reservation("anas", credits="60"))
    world.later(hours=2)

    got = world.call("GET", "/v1/accounts/user:ana", **MEMBER).json
    decided = world.call("POST", "/v1/decide", asked(credits="150"), **MEMBER).json

    assert pools_of(got, "shared_pools") == {SHARED: ("100", "0")}
    assert decided["allowed"] is True


def test_the_team_s_account_shows_what_it_holds_and_for_whom(world: ApiWorld) -> None:
    world.call("POST", "/v1/reservations", reservation("bens", credits="90", **BEN_RUNS))

    account = world.call("GET", "/v1/accounts/team:acme", **ADMIN).json
    listed = world.call("GET", "/v1/accounts/team:acme/reservations", **ADMIN).json

    assert pools_of(account) == {"shared": ("60", "40")}
    assert (account["shared_pools"], account["limit_standings"]) == ([], [])
    (held,) = listed["reservations"]
    assert held["held_for"] == {"principal": "user:ben", "run_id": "bens"}
    assert (held["reserved_credits"], held["left_credits"]) == ("40", "40")


def test_a_reservation_of_the_account_s_own_is_held_for_nobody_else(world: ApiWorld) -> None:
    world.call("POST", "/v1/reservations", reservation("anas", credits="60"))

    listed = world.call("GET", "/v1/accounts/user:ana/reservations", **MEMBER).json

    (held,) = listed["reservations"]
    assert (held["run_id"], held["held_for"]) == ("anas", None)
    assert [part["pool"] for part in held["grants"]] == ["plan", SHARED]


def test_the_ledger_of_the_team_names_the_payer_s_commit(world: ApiWorld) -> None:
    world.call("POST", "/v1/events", usage("e-1", "70"), content_type=EVENT)
    world.later(minutes=1)
    world.call("POST", "/v1/events", finished("e-2", "error"), content_type=EVENT)

    of_team = world.call("GET", "/v1/accounts/team:acme/ledger", **ADMIN).json["entries"]
    of_ana = world.call("GET", "/v1/accounts/user:ana/ledger", **MEMBER).json["entries"]

    drawn = [{"pool": "shared", "grant_id": "t-1", "credits": "20"}]
    assert [(e["type"], e["payer_principal"], e["payer_version"]) for e in of_team] == [
        ("pool.returned", "user:ana", 3),
        ("pool.drawn", "user:ana", 2),
        ("credits.granted", None, None),
    ]
    assert [e["draws"] for e in of_team] == [drawn, drawn, []]
    assert of_ana[1]["draws"][-1] == {
        "pool": SHARED,
        "grant_id": "shared:acme/t-1",
        "credits": "20",
    }
    assert [e["payer_principal"] for e in of_ana] == [None] * 3


def test_a_run_shows_the_draws_of_both_accounts_once(world: ApiWorld) -> None:
    world.call("POST", "/v1/events", usage("e-1", "70"), content_type=EVENT)

    got = world.call("GET", "/v1/runs/run-1", query={"principal": "user:ana"}, **ADMIN).json

    assert (got["drawn_credits"], got["principals"]) == ("70", ["user:ana"])


@pytest.mark.parametrize("part", ["", "/ledger", "/reservations"])
def test_a_member_does_not_see_the_account_of_the_team(world: ApiWorld, part: str) -> None:
    world.call("POST", "/v1/events", usage("e-1", "70", user="ben"), content_type=EVENT)

    got = world.call("GET", f"/v1/accounts/team:acme{part}", **MEMBER)
    missing = world.call("GET", f"/v1/accounts/team:nowhere{part}", **MEMBER)

    assert got.status == missing.status == 404
    assert {**got.json, "trace_id": ""} == {**missing.json, "trace_id": ""}


def test_a_member_does_not_find_their_own_run_on_the_account_of_the_team(world: ApiWorld) -> None:
    world.call("POST", "/v1/reservations", reservation("bens", credits="90", **BEN_RUNS))

    got = world.call("GET", "/v1/reservations/bens", query={"principal": "team:acme"}, **MEMBER)

    assert (got.status, got.json["error"]) == (404, "run_not_found")


def test_the_admin_of_another_team_learns_nothing_of_the_pool(world: ApiWorld) -> None:
    """Ana is a member of globex as well, whose admin may see her account."""
    globex = ACME.model_copy(update={"team_id": "globex"})
    world.rows.teams["globex"] = globex
    admin: dict[str, Any] = {
        "door": "people",
        "bearer": token("gus", role="billing_admin", teams=("globex",)),
    }
    world.call("POST", "/v1/reservations", reservation("anas", credits="60"))
    world.call("POST", "/v1/reservations", reservation("short", credits="5", ttl_seconds=60))
    paths = [f"/v1/accounts/user:ana{part}" for part in ("", "/ledger", "/reservations")]
    before = [world.call("GET", path, **admin) for path in paths]
    # What has expired is recorded by the next commit, in an entry that names no team by itself.
    world.later(hours=2)
    of_globex = cloudevent("e-9", team="globex", run="other", time=world.now, credits="1")
    world.call("POST", "/v1/events", of_globex, content_type=EVENT)

    after = [world.call("GET", path, **admin) for path in paths]

    seen = before + after
    assert [got.status for got in seen] == [200] * 6
    assert not [got.text for got in seen if "acme" in got.text]
    assert not [got.text for got in seen if "anas" in got.text]
    assert after[1].json["entries"][0]["subject"] == "other"
    own = world.call("GET", "/v1/accounts/user:ana/ledger", **MEMBER)
    assert "reservations.expired" in [e["type"] for e in own.json["entries"]]


def test_a_team_that_shares_no_pool_has_none_on_its_members_accounts() -> None:
    world = ApiWorld()
    open_account(world.rows, grant_change("g-1", credits="10"))
    open_account(world.rows, grant_change("t-1", pool="shared", credits="5", principal=TEAM))

    assert world.call("GET", "/v1/accounts/user:ana", **MEMBER).json["shared_pools"] == []


def test_a_decision_leaves_both_accounts_as_they_are(world: ApiWorld) -> None:
    before = len(world.rows.stream)

    world.call("POST", "/v1/decide", asked(credits="120"))

    assert len(world.rows.stream) == before
    team = world.rows.accounts[TEAM]
    assert format_credits(available_microcredits(team, ("shared",), NOW)) == "100"
