"""Whatever a request holds, the answer is a problem document and never an error of ours."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_credits.api.problems import TYPES
from tests.api_world import ApiWorld, Got, gateway_event, reservation, token, world_with
from tests.unit.builders import usage

NESTED = "[" * 100_000 + "]" * 100_000
POSTS = (
    "/v1/events",
    "/v1/decide",
    "/v1/reservations",
    "/v1/reservations/run-1/extend",
    "/v1/reservations/run-1/settle",
    "/v1/reservations/run-1/release",
    "/v1/teams/acme/purchases",
)
KEYED = {"idempotency-key": "k1"}
TEXT = json.dumps(reservation())
WORLD = world_with("100")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def check(got: Got) -> None:
    """Check that an error is a whole problem document of a known type."""
    if got.status < 400:
        return
    assert got.status < 500, got.text
    document = got.json
    assert got.headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "trace_id"} <= document.keys()
    assert document["status"] == got.status
    assert document["error"] in TYPES
    assert len(got.text) < 10_000


@settings(max_examples=150)
@given(path=st.sampled_from(POSTS), body=json_values)
def test_any_json_is_answered_in_order(path: str, body: object) -> None:
    check(WORLD.call("POST", path, json.dumps(body), headers=KEYED))


@settings(max_examples=150)
@given(
    path=st.sampled_from(POSTS),
    name=st.sampled_from(sorted(reservation())),
    value=json_values,
)
def test_any_value_of_a_field_is_answered_in_order(path: str, name: str, value: object) -> None:
    check(WORLD.call("POST", path, json.dumps({**reservation(), name: value}), headers=KEYED))


@settings(max_examples=150)
@given(at=st.integers(0, len(TEXT)), length=st.integers(0, 4), text=st.text(max_size=4))
def test_an_edited_body_is_answered_in_order(at: int, length: int, text: str) -> None:
    check(WORLD.call("POST", "/v1/reservations", TEXT[:at] + text + TEXT[at + length :]))


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(
            ["idempotency-key", "traceparent", "if-match", "ce-id", "ce-specversion", "ce-type"]
        ),
        st.text(max_size=300),
    ),
    st.sampled_from(["/v1/events", "/v1/reservations"]),
)
def test_any_header_is_answered_in_order(headers: Mapping[str, str], path: str) -> None:
    check(WORLD.call("POST", path, reservation(), headers=headers))


@settings(max_examples=150)
@given(
    st.sampled_from(["/v1/accounts/{}", "/v1/runs/{}", "/v1/reservations/{}", "/v1/teams/{}"]),
    st.text(max_size=300),
)
def test_any_id_in_a_path_is_answered_in_order(path: str, segment: str) -> None:
    check(WORLD.call("GET", path.format(segment)))


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(["limit", "cursor", "principal"]), st.text(max_size=50)))
def test_any_query_is_answered_in_order(query: dict[str, str]) -> None:
    for path in ("/v1/accounts/user:ana/ledger", "/v1/runs/run-1"):
        event = gateway_event("GET", path, query=query)
        event["rawQueryString"] = ""
        check(WORLD.send(event))


@settings(max_examples=100)
@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda b: b.decode("latin-1")))
def test_any_authorization_is_401(value: str) -> None:
    got = WORLD.call("GET", "/v1/teams/acme", door="people", headers={"authorization": value})

    check(got)
    assert got.status == 401


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body", [NESTED, '{"a":' * 5_000, "1" * 5_000, '"\\ud800"', "\ud800", '{"run_id": "\\u0000"}']
)
def test_what_a_parser_chokes_on_is_a_problem(path: str, body: str) -> None:
    event = gateway_event("POST", path, "{}", headers=KEYED)
    event["body"] = body
    got = WORLD.send(event) if body != "\ud800" else _sent_as_bytes(path)

    check(got)
    assert got.status in (400, 422)


def _sent_as_bytes(path: str) -> Got:
    event = gateway_event("POST", path, "{}", headers=KEYED)
    event |= {"body": base64.b64encode(b"\xff\xfe").decode(), "isBase64Encoded": True}
    return WORLD.send(event)


def test_a_body_is_never_repeated_in_an_error() -> None:
    secret = "4000-0000-0000-0341"
    for body in ({"credits": secret}, {secret: 1}, {"trigger": {"kind": secret}}):
        got = WORLD.call("POST", "/v1/reservations", reservation(**body))
        assert got.status == 422
        if secret not in body:
            assert secret not in got.text


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "application/x-www-form-urlencoded", "text/plain", "application/xml"],
)
def test_a_body_of_another_type_is_415(content_type: str) -> None:
    for path in POSTS:
        got = WORLD.call("POST", path, "{}", headers=KEYED, content_type=content_type)
        check(got)
        assert (got.status, got.json["error"]) == (415, "unsupported_media_type")


def test_a_missing_body_is_a_problem() -> None:
    for path in POSTS:
        got = WORLD.call("POST", path, headers=KEYED)
        check(got)
        assert got.status in (400, 422)


def test_a_method_or_path_that_does_not_exist_is_a_problem() -> None:
    for method, path in (("DELETE", "/v1/events"), ("GET", "/"), ("PUT", "/v1/teams/acme")):
        got = WORLD.call(method, path)
        check(got)
        assert (got.status, got.json["error"]) == (404, "not_found")


class TestOfAFault:
    """An error that nobody foresaw is answered, logged and counted."""

    def answer(self) -> Any:
        world = ApiWorld()

        def broken(*_: object) -> None:
            raise ZeroDivisionError("a defect")

        world.rows.read_account = broken  # type: ignore[method-assign]
        event = gateway_event("GET", "/v1/accounts/user:ana")
        return world.api.answer(event, world.now, lambda: True)

    def test_is_500_without_a_word_of_what_happened(self) -> None:
        answered = self.answer()

        document = json.loads(answered.response["body"])
        assert (answered.status, document["error"]) == (500, "internal_error")
        assert "defect" not in answered.response["body"]

    def test_is_logged_and_counted(self) -> None:
        answered = self.answer()

        (line,) = answered.log_lines()
        assert (line.level, line.message) == ("error", "failed")
        assert line.fields["reason"] == "ZeroDivisionError: a defect"
        assert answered.counts == {"RequestsUndecided": 0, "RequestsFailed": 1}


def test_the_trace_of_the_caller_is_the_trace_of_the_error() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}

    assert WORLD.call("GET", "/v1/nothing", headers=headers).json["trace_id"] == trace
    assert WORLD.call("GET", "/v1/nothing", headers={"traceparent": "x"}).json["trace_id"] == (
        "request-1"
    )


def test_a_token_is_in_no_log_line() -> None:
    bearer = token()
    world = world_with("100")
    event = gateway_event("POST", "/v1/events", usage("e1"), door="people", bearer=bearer)

    answered = world.api.answer(event, world.now, lambda: True)

    assert bearer not in json.dumps([str(line) for line in answered.log_lines()])
