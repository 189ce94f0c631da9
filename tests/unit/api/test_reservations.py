from typing import Any

import pytest

from agent_credits.ledger.accounts import Account
from agent_credits.values.errors import RowsUnavailable
from tests.api_world import ApiWorld, notices_published, reservation, world_with
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ACME,
    ANA,
    NOW,
    OLGA,
    RELOADING_ACME,
    grant_change,
    history,
    open_account,
    requested,
    sample_rows,
    usage,
)

EVENT = "application/cloudevents+json"


@pytest.fixture
def world() -> ApiWorld:
    return world_with("100")


def test_a_reservation_is_made_once_and_a_repeat_gets_the_first_answer(world: ApiWorld) -> None:
    first = world.call("POST", "/v1/reservations", reservation())
    world.later(minutes=3)

    again = world.call("POST", "/v1/reservations", reservation())

    assert (first.status, again.status) == (201, 200)
    assert first.headers["Location"] == "/v1/reservations/run-1?principal=user:ana"
    assert first.json["reservation"]["left_credits"] == "75"
    assert again.json == {**first.json, "already_recorded": True}
    assert len(history(world.rows, ANA)) == 2


def test_the_event_is_the_one_that_the_queue_would_have_brought(world: ApiWorld) -> None:
    by_queue = world_with("100")
    event = requested("reservation", run="run-1", credits="75", reserve="estimate")

    by_queue.call("POST", "/v1/events", event, content_type=EVENT)
    world.call("POST", "/v1/reservations", reservation())

    (_, theirs), (_, ours) = history(by_queue.rows, ANA), history(world.rows, ANA)
    assert ours.payload_hash != theirs.payload_hash
    assert (ours.identity, ours.run, ours.reservation) == (
        theirs.identity,
        theirs.run,
        theirs.reservation,
    )


def test_another_body_under_the_same_id_is_a_conflict_and_changes_nothing(world: ApiWorld) -> None:
    world.call("POST", "/v1/reservations", reservation())

    got = world.call("POST", "/v1/reservations", reservation(credits="76"))

    assert (got.status, got.json["error"]) == (409, "conflicting")
    assert len(history(world.rows, ANA)) == 2


def test_credits_that_are_written_in_another_way_are_the_same_request(world: ApiWorld) -> None:
    world.call("POST", "/v1/reservations", reservation(credits="75"))

    assert world.call("POST", "/v1/reservations", reservation(credits=75)).status == 200
    assert world.call("POST", "/v1/reservations", reservation(credits="75.0")).status == 200


def test_too_little_is_403_with_the_members_of_the_contract_and_announced_once() -> None:
    world = world_with("100")
    world.call("POST", "/v1/reservations", reservation("run-1"))

    got = world.call("POST", "/v1/reservations", reservation("run-2"))
    again = world.call("POST", "/v1/reservations", reservation("run-2"))

    (notice,) = [n for n in notices_published(world.rows) if n.type == "insufficient_credits"]
    problem = notice.data["problem"]
    assert got.headers["Content-Type"] == "application/problem+json"
    assert {name: got.json[name] for name in problem} == problem
    assert (
        list(got.json)[:5] == list(problem) == ["type", "title", "status", "instance", "retryable"]
    )
    assert {name: value for name, value in got.json.items() if name not in problem} == {
        "error": "insufficient_credits",
        "cause": "credits_reserved",
        "scope": "account",
        "run_id": "run-2",
        "principal": "user:ana",
        "required_credits": "75",
        "available_credits": "25",
        "reserved_credits": "75",
        "shortfall_credits": "50",
        "resets_at": None,
        "directive": "stop",
        "fix": notice.data["fix"],
        "trace_id": "request-1",
    }
    assert (got.status, again.status) == (403, 403)
    assert again.json == got.json


def test_once_there_are_credits_another_key_reserves_for_the_same_run(world: ApiWorld) -> None:
    refused = world.call("POST", "/v1/reservations", reservation(credits="150"))
    world.call("POST", "/v1/events", usage("e1", "0"), content_type=EVENT)
    open_account(world.rows, grant_change("g-2", credits="100"), now=NOW)

    same = world.call("POST", "/v1/reservations", reservation(credits="150"))
    other = world.call(
        "POST", "/v1/reservations", reservation(credits="150"), headers={"idempotency-key": "k2"}
    )

    assert (refused.status, same.status, other.status) == (403, 403, 201)
    assert other.json["event_id"] == "k2"


def test_a_child_is_refused_by_what_its_parent_holds(world: ApiWorld) -> None:
    world.call("POST", "/v1/reservations", reservation("root", credits="20"))

    got = world.call(
        "POST", "/v1/reservations", reservation("child", credits="30", parent_run_id="root")
    )

    assert (got.status, got.json["scope"], got.json["cause"]) == (
        403,
        "parent_run",
        "reservation_exhausted",
    )
    assert (got.json["available_credits"], got.json["shortfall_credits"]) == ("20", "10")


def test_while_a_reload_is_under_way_the_answer_is_202_and_nothing_is_recorded() -> None:
    world = world_with("100")
    world.rows.teams["acme"] = RELOADING_ACME

    got = world.call("POST", "/v1/reservations", reservation(credits="300"))

    assert (got.status, got.headers["Retry-After"]) == (202, "5")
    assert got.json["outcome"] == "waiting"
    assert not [e for e in history(world.rows, ANA) if e.identity.realm == "RUN"]


@pytest.mark.parametrize(
    ("body", "error", "status"),
    [
        (reservation(team_id="nowhere"), "unknown_team", 422),
        (reservation(trigger={"kind": "user", "user_id": "zoe"}), "unknown_user", 422),
        (reservation(credits=None), "no_estimate", 422),
        (reservation(parent_run_id="nobody"), "out_of_order", 409),
        (reservation(parent_run_id="run-1"), "circular_parents", 422),
    ],
)
def test_what_contradicts_the_settings_is_rejected_by_name(
    world: ApiWorld, body: dict[str, Any], error: str, status: int
) -> None:
    got = world.call("POST", "/v1/reservations", body)

    assert (got.status, got.json["error"]) == (status, error)
    assert len(history(world.rows, ANA)) == 1


@pytest.mark.parametrize(
    ("change", "field", "complaint"),
    [
        ({"credits": 7.5}, "credits", 'must be a decimal string such as "12.5", or an integer'),
        ({"credits": "-1"}, "credits", "must be a decimal from 0"),
        ({"ttl_seconds": 59}, "ttl_seconds", "must be at least 60"),
        ({"run_id": ""}, "run_id", "must not be empty"),
        ({"run_id": "a b"}, "run_id", "must consist of visible ASCII"),
        ({"trigger": {"kind": "user"}}, "trigger.user_id", "is missing"),
        ({"trigger": {"kind": "cron"}}, "trigger", "must be one of"),
        ({"started_at": "yesterday"}, "started_at", "must be an RFC 3339 string"),
        ({"surprise": 1}, "surprise", "is not a known field"),
    ],
)
def test_a_field_that_is_wrong_is_named(
    world: ApiWorld, change: dict[str, Any], field: str, complaint: str
) -> None:
    got = world.call("POST", "/v1/reservations", reservation(**change))

    assert (got.status, got.json["error"]) == (422, "invalid_request")
    assert got.json["errors"][0]["field"] == field
    assert complaint in got.json["errors"][0]["complaint"]


class TestOfARunThatReserved:
    @pytest.fixture
    def world(self) -> ApiWorld:
        world = world_with("100")
        world.call("POST", "/v1/reservations", reservation())
        return world

    def test_an_extension_needs_a_key_of_its_own(self, world: ApiWorld) -> None:
        path = "/v1/reservations/run-1/extend"
        body = {"credits": "5", "principal": "user:ana"}

        without = world.call("POST", path, body)
        first = world.call("POST", path, body, headers={"Idempotency-Key": "x1"})
        again = world.call("POST", path, body, headers={"Idempotency-Key": "x1"})

        assert (without.status, without.json["errors"][0]["field"]) == (422, "idempotency-key")
        assert (first.status, first.json["outcome"]) == (200, "extended")
        assert first.json["reservation"]["left_credits"] == "80"
        assert again.json == {**first.json, "already_recorded": True}

    def test_settling_gives_back_what_is_left(self, world: ApiWorld) -> None:
        world.call("POST", "/v1/events", usage("e1", "30"), content_type=EVENT)

        got = world.call("POST", "/v1/reservations/run-1/settle", {"principal": "user:ana"})

        assert (got.status, got.json["outcome"], got.json["reservation"]) == (200, "finished", None)
        assert got.json["ended"]["drawn_credits"] == "30"
        account = world.call("GET", "/v1/accounts/user:ana").json
        assert (account["available_credits"], account["reserved_credits"]) == ("70", "0")

    def test_settling_with_an_error_returns_what_was_drawn(self, world: ApiWorld) -> None:
        world.call("POST", "/v1/events", usage("e1", "30"), content_type=EVENT)

        body = {"status": "error", "principal": "user:ana"}
        got = world.call("POST", "/v1/reservations/run-1/settle", body)

        assert (got.status, got.json["outcome"]) == (200, "returned")
        assert world.call("GET", "/v1/accounts/user:ana").json["available_credits"] == "100"

    def test_releasing_twice_is_one_release(self, world: ApiWorld) -> None:
        body = {"principal": "user:ana"}
        first = world.call("POST", "/v1/reservations/run-1/release", body)

        again = world.call("POST", "/v1/reservations/run-1/release", body)

        assert (first.status, first.json["outcome"]) == (200, "released")
        assert (again.status, again.json["already_recorded"]) == (200, True)

    def test_a_run_that_has_ended_cannot_be_extended(self, world: ApiWorld) -> None:
        world.call("POST", "/v1/reservations/run-1/settle", {"principal": "user:ana"})

        got = world.call(
            "POST",
            "/v1/reservations/run-1/extend",
            {"credits": "1", "principal": "user:ana"},
            headers={"Idempotency-Key": "x1"},
        )

        assert (got.status, got.json["error"]) == (409, "run_ended")

    def test_team_and_trigger_say_who_pays_without_a_look_at_the_ledger(
        self, world: ApiWorld
    ) -> None:
        body = {k: reservation()[k] for k in ("source", "team_id", "trigger")}

        got = world.call("POST", "/v1/reservations/run-1/settle", body)

        assert got.status == 200

    def test_a_run_is_found_by_its_receipts_once_its_page_is_full(self, world: ApiWorld) -> None:
        path, body = "/v1/reservations/run-1/settle", {"status": "ok"}
        unknown = world.call("POST", path, body)
        for number in range(10):
            event = usage(f"e{number}", "1", run=f"other-{number}")
            world.call("POST", "/v1/events", event, content_type=EVENT)

        found = world.call("POST", path, body)

        assert (unknown.status, unknown.json["error"]) == (404, "run_not_found")
        assert (found.status, found.json["outcome"]) == (200, "finished")

    def test_what_is_left_out_is_read_from_the_request_even_if_the_owner_changed(
        self, world: ApiWorld
    ) -> None:
        scheduled = {"kind": "schedule", "schedule_id": "nightly"}
        open_account(world.rows, grant_change("g-o", credits="100", principal=OLGA))
        world.call("POST", "/v1/reservations", reservation("run-s", trigger=scheduled))
        world.later(hours=1)
        (tenure,) = ACME.tenures
        of_ben = tenure.model_copy(update={"owner": "ben", "since": world.now})
        world.rows.teams["acme"] = ACME.model_copy(update={"tenures": (tenure, of_ben)})
        world.later(minutes=1)

        got = world.call("POST", "/v1/reservations/run-s/settle", {"principal": "user:olga"})

        assert (got.status, got.json["principal"]) == (200, "user:olga")

    @pytest.mark.parametrize(
        ("ended_by", "state"), [("settle", "settled"), ("release", "released")]
    )
    def test_the_state_of_a_reservation_is_told_after_its_end(
        self, world: ApiWorld, ended_by: str, state: str
    ) -> None:
        query = {"principal": "user:ana"}
        before = world.call("GET", "/v1/reservations/run-1", query=query)
        world.call("POST", f"/v1/reservations/run-1/{ended_by}", {"principal": "user:ana"})

        after = world.call("GET", "/v1/reservations/run-1", query=query)

        assert before.json["reservation"]["state"] == "active"
        assert after.json["reservation"]["state"] == state

    def test_a_reservation_whose_time_is_over_is_expired(self, world: ApiWorld) -> None:
        world.later(hours=1)

        got = world.call("GET", "/v1/reservations/run-1", query={"principal": "user:ana"})

        assert got.json["reservation"]["state"] == "expired"


def test_an_id_of_other_characters_stands_in_a_path_as_base64url() -> None:
    world = world_with()
    made = world.call("POST", "/v1/reservations", reservation("a/b c%".replace(" ", "?")))

    got = world.call(
        "GET", made.headers["Location"].partition("?")[0], query={"principal": "user:ana"}
    )

    assert made.headers["Location"].startswith("/v1/reservations/~")
    assert got.json["run_id"] == "a/b?c%"


class Unavailable(MemoryRows):
    """Rows of which a kind cannot be reached."""

    fails = ""

    def read_account(self, principal: Any) -> Account | None:
        if self.fails == "read":
            raise RowsUnavailable("throttled")
        return super().read_account(principal)

    def compare_and_set(self, account: Account) -> Account | None:
        if self.fails == "write":
            raise RowsUnavailable("throttled")
        return super().compare_and_set(account)


@pytest.mark.parametrize("fails", ["read", "write"])
def test_what_cannot_be_decided_is_503_and_never_a_yes(fails: str) -> None:
    rows = Unavailable()
    samples = sample_rows()
    rows.teams, rows.policies = samples.teams, samples.policies
    open_account(rows, grant_change("g-1", credits="100"))
    rows.fails = fails
    world = ApiWorld(rows)

    got = world.call("POST", "/v1/reservations", reservation())

    assert (got.status, got.json["error"], got.json["retryable"]) == (503, "undecided", True)
    assert got.headers["Retry-After"] == "1"
    assert len(history(rows, ANA)) == 1
