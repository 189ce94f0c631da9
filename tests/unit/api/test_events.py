import json
from typing import Any

import pytest

from agent_credits.billing.directory import Directory
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from tests.api_world import ApiWorld, Got, notices_published, world_with
from tests.unit.builders import (
    ANA,
    RELOADING_ACME,
    body,
    finished,
    history,
    pause,
    provider_error,
    requested,
    usage,
)

ONE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
PATH = "/v1/events"


@pytest.fixture
def world() -> ApiWorld:
    return world_with("100")


def send(world: ApiWorld, event: object, content_type: str = ONE, **more: Any) -> Got:
    return world.call("POST", PATH, event, content_type=content_type, **more)


def by_queue(world: ApiWorld, *events: dict[str, Any]) -> None:
    debits = Debits(world.rows, Directory(world.rows), pause)
    batch = debits.debit([Delivery("m", body(*events))], now=world.now, time_is_left=lambda: True)
    assert batch.failed_message_ids == []


def binary(event: dict[str, Any]) -> tuple[object, dict[str, str]]:
    attributes = {f"ce-{name}": str(value) for name, value in event.items() if name != "data"}
    return event["data"], attributes


def recorded(world: ApiWorld) -> list[str]:
    return [e.identity.id for e in history(world.rows, ANA) if e.identity.realm == "RUN"]


def test_an_event_is_recorded_and_answered_with_its_outcome(world: ApiWorld) -> None:
    got = send(world, usage("e1", "5"))

    assert (got.status, got.json) == (
        200,
        {
            "status": 200,
            "event_id": "e1",
            "run_id": "run-1",
            "outcome": "debited",
            "already_recorded": False,
            "directive": "continue",
            "principal": "user:ana",
            "drawn_credits": "5",
            "shortfall_credits": "0",
            "policy_version": "2025-11",
            "recorded_at": "2025-11-21T10:00:00Z",
            "version": 2,
            "reload_id": None,
            "problem": None,
        },
    )
    assert recorded(world) == ["e1"]


@pytest.mark.parametrize(
    "content_type", [ONE, "application/json", "application/json; charset=utf-8"]
)
def test_structured_mode_takes_one_event(world: ApiWorld, content_type: str) -> None:
    assert send(world, usage("e1"), content_type).status == 200


def test_the_same_event_by_queue_and_api_counts_once(world: ApiWorld) -> None:
    by_queue(world, usage("e1", "5"))
    first = send(world, usage("e1", "5"))
    send(world, usage("e2", "7"))
    by_queue(world, usage("e2", "7"))

    assert (first.json["already_recorded"], recorded(world)) == (True, ["e1", "e2"])


def test_the_same_event_in_binary_and_in_structured_mode_counts_once(world: ApiWorld) -> None:
    data, headers = binary(usage("e1", "5"))

    first = send(world, data, "application/json", headers=headers)
    again = send(world, usage("e1", "5"))

    assert (first.status, first.json["outcome"]) == (200, "debited")
    assert (again.status, again.json["already_recorded"]) == (200, True)


def test_headers_of_binary_mode_are_percent_decoded(world: ApiWorld) -> None:
    data, headers = binary(usage("e1", "5"))

    send(world, data, "application/json", headers={**headers, "ce-source": "%2Fplatform%2Fagents"})

    assert send(world, usage("e1", "5")).json["already_recorded"] is True


def test_a_conflict_and_a_rejection_are_problems_that_name_the_event(world: ApiWorld) -> None:
    send(world, usage("e1", "5"))

    conflict = send(world, usage("e1", "6"))
    malformed = send(world, usage("e2", "-6"))

    assert (conflict.status, conflict.json["error"], conflict.json["event_id"]) == (
        409,
        "conflicting",
        "e1",
    )
    assert (malformed.status, malformed.json["error"]) == (422, "malformed")
    assert malformed.json["detail"].startswith("event: data.credits must be a decimal")
    assert malformed.headers["Content-Type"] == "application/problem+json"


def test_a_request_that_is_not_covered_is_403(world: ApiWorld) -> None:
    got = send(world, requested("e1", credits="101"))

    assert (got.status, got.json["error"], got.json["directive"]) == (
        403,
        "insufficient_credits",
        "stop",
    )


def test_usage_that_falls_short_is_recorded_and_names_its_shortfall(world: ApiWorld) -> None:
    got = send(world, usage("e1", "130"))

    assert (got.status, got.json["outcome"], got.json["directive"]) == (200, "insufficient", "stop")
    assert (got.json["drawn_credits"], got.json["shortfall_credits"]) == ("100", "30")
    assert got.json["problem"]["error"] == "insufficient_credits"
    assert [n.type for n in notices_published(world.rows)].count("insufficient_credits") == 1


def test_usage_that_waits_for_a_reload_is_202_and_not_recorded(world: ApiWorld) -> None:
    world.rows.teams["acme"] = RELOADING_ACME

    got = send(world, usage("e1", "130"))

    assert (got.status, got.headers["Retry-After"]) == (202, "5")
    assert (got.json["outcome"], got.json["reload_id"]) == ("waiting", "reload:user:ana:2")
    assert recorded(world) == []


def test_an_error_of_a_model_provider_is_observed_once(world: ApiWorld) -> None:
    first, again = send(world, provider_error("e1")), send(world, provider_error("e1"))

    assert (first.status, first.json["outcome"]) == (200, "observed")
    assert (first.json["already_recorded"], again.json["already_recorded"]) == (False, True)
    assert recorded(world) == []


def test_each_event_of_a_batch_has_its_own_answer_in_its_place(world: ApiWorld) -> None:
    events = [
        usage("e1", "5"),
        {"not": "an event"},
        requested("e2", run="run-2", credits="1000"),
        usage("e3", "5", team="nowhere"),
        finished("e4"),
    ]

    got = send(world, events, BATCH)

    results = got.json["results"]
    assert got.status == 200
    assert [r["status"] for r in results] == [200, 422, 403, 422, 200]
    assert [r["event_id"] for r in results] == ["e1", None, "e2", "e3", "e4"]
    assert results[1]["problem"]["detail"] == "event 1: type is missing"
    assert results[3]["problem"]["error"] == "unknown_team"
    assert recorded(world) == ["e1", "e2", "e4"]


def test_the_same_event_twice_in_a_batch_counts_once(world: ApiWorld) -> None:
    got = send(world, [usage("e1", "5"), usage("e1", "5")], BATCH)

    assert [r["already_recorded"] for r in got.json["results"]] == [False, True]
    assert recorded(world) == ["e1"]


@pytest.mark.parametrize(
    ("text", "content_type", "status", "error"),
    [
        ("{", ONE, 400, "not_json"),
        ("", ONE, 400, "not_json"),
        ('{"a": NaN}', ONE, 400, "not_json"),
        ("[]", BATCH, 422, "malformed"),
        ("{}", BATCH, 422, "malformed"),
        ("[]", ONE, 422, "malformed"),
        ("<a/>", "application/xml", 415, "unsupported_media_type"),
        ("a=1", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    ],
)
def test_a_body_that_is_no_event_is_a_problem(
    world: ApiWorld, text: str, content_type: str, status: int, error: str
) -> None:
    got = send(world, text, content_type)

    assert (got.status, got.json["error"]) == (status, error)


def test_a_batch_is_bounded(world: ApiWorld) -> None:
    got = send(world, json.dumps([{}] * 1_001), BATCH)

    assert (got.status, got.json["detail"]) == (422, "the array holds more than 1,000 events")
