from typing import Any

import pytest

from tests.api_world import ApiWorld, reservation, world_with
from tests.memory_rows import MemoryRows
from tests.unit.builders import ANA, history, open_account, plan_change, requested, usage

EVENT = "application/cloudevents+json"
LEDGER = "/v1/accounts/user:ana/ledger"


@pytest.fixture
def world() -> ApiWorld:
    return world_with("100")


def spend(world: ApiWorld, *numbers: int) -> None:
    for number in numbers:
        event = usage(f"e{number}", "1", run=f"run-{number}")
        assert world.call("POST", "/v1/events", event, content_type=EVENT).status == 200


def test_what_is_reserved_is_shown_apart_from_what_is_available(world: ApiWorld) -> None:
    world.call("POST", "/v1/reservations", reservation(credits="30"))

    got = world.call("GET", "/v1/accounts/user:ana").json

    assert (got["available_credits"], got["reserved_credits"]) == ("70", "30")
    assert got["pools"][-1] == {
        "pool": "add_on",
        "available_credits": "70",
        "reserved_credits": "30",
    }
    assert got["reservations_count"] == 1


def test_a_refill_that_is_due_is_shown_and_not_written(world: ApiWorld) -> None:
    open_account(world.rows, plan_change("50"))
    written = len(world.rows.stream)

    got = world.call("GET", "/v1/accounts/user:ana").json

    assert got["available_credits"] == "150"
    assert (got["plan"]["credits"], got["resets_at"]) == ("50", "2025-12-01T00:00:00Z")
    assert len(world.rows.stream) == written


class CountedReads(MemoryRows):
    reads = 0

    def read_account(self, principal: Any) -> Any:
        self.reads += 1
        return super().read_account(principal)


def test_a_balance_is_one_read_of_the_row(world: ApiWorld) -> None:
    rows = CountedReads()
    rows.teams, rows.policies = world.rows.teams, world.rows.policies
    rows.accounts = world.rows.accounts
    counted = ApiWorld(rows)
    counted.call("POST", "/v1/events", usage("e1", "1"), content_type=EVENT)
    rows.reads = 0

    counted.call("GET", "/v1/accounts/user:ana")

    assert rows.reads == 1


def test_an_account_that_does_not_exist_is_404(world: ApiWorld) -> None:
    got = world.call("GET", "/v1/accounts/user:nobody")

    assert (got.status, got.json["error"]) == (404, "account_not_found")


@pytest.mark.parametrize("principal", ["ana", "robot:ana", "user:", "~!!", "~"])
def test_what_is_no_principal_is_refused(world: ApiWorld, principal: str) -> None:
    assert world.call("GET", f"/v1/accounts/{principal}").status in (404, 422)


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_following_the_cursors_lists_every_entry_once_newest_first(
    world: ApiWorld, limit: int
) -> None:
    spend(world, *range(30))
    listed: list[str] = []
    query = {"limit": str(limit)}
    while True:
        page = world.call("GET", LEDGER, query=query).json
        listed += [entry["id"] for entry in page["entries"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]

    assert listed == [entry.identity.id for entry in reversed(history(world.rows, ANA))]


def test_a_cursor_stays_valid_whatever_is_recorded_meanwhile(world: ApiWorld) -> None:
    spend(world, *range(12))
    first = world.call("GET", LEDGER, query={"limit": "5"}).json
    spend(world, *range(12, 30))

    rest = world.call("GET", LEDGER, query={"cursor": first["next_cursor"]}).json

    assert [e["id"] for e in first["entries"]] == ["e11", "e10", "e9", "e8", "e7"]
    assert [e["id"] for e in rest["entries"]] == [*(f"e{n}" for n in range(6, -1, -1)), "g-1"]


@pytest.mark.parametrize("cursor", ["x", "MA", "OTku", "LTEuMA", "é", "9" * 5_000, "Li4u"])
def test_a_cursor_that_no_list_gave_is_refused(world: ApiWorld, cursor: str) -> None:
    got = world.call("GET", LEDGER, query={"cursor": cursor})

    assert (got.status, got.json["errors"][0]["field"]) == (422, "cursor")


def test_live_reservations_are_listed_oldest_first_in_pages(world: ApiWorld) -> None:
    for number in range(5):
        world.call("POST", "/v1/reservations", reservation(f"run-{number}", credits="1"))
    path = "/v1/accounts/user:ana/reservations"

    first = world.call("GET", path, query={"limit": "3"}).json
    rest = world.call("GET", path, query={"limit": "3", "cursor": first["next_cursor"]}).json

    assert [r["run_id"] for r in first["reservations"]] == ["run-0", "run-1", "run-2"]
    assert [r["run_id"] for r in rest["reservations"]] == ["run-3", "run-4"]
    assert rest["next_cursor"] is None


def test_a_run_is_told_event_by_event_with_what_it_drew(world: ApiWorld) -> None:
    for event in (
        requested("e1", credits="20", reserve="estimate"),
        usage("e2", "15"),
        usage("e3", "200"),
    ):
        world.call("POST", "/v1/events", event, content_type=EVENT)

    got = world.call("GET", "/v1/runs/run-1", query={"principal": "user:ana"}).json

    assert [e["outcome"] for e in got["entries"]] == ["accepted", "debited", "insufficient"]
    assert (got["drawn_credits"], got["shortfall_credits"]) == ("100", "115")
    assert (got["failed"], got["principals"]) == (True, ["user:ana"])
    assert got["entries"][2]["pools_before"][-1]["available_credits"] == "80"
