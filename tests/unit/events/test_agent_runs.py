import json
import re
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_credits.events.agent_runs import (
    EVENTS_PER_MESSAGE_MAX,
    RunFinished,
    RunRequested,
    RunUsage,
    parse_message,
    payload_hash,
)
from tests.unit.builders import (
    NOW,
    TRIGGERS,
    body,
    cloudevent,
    finished,
    provider_error,
    requested,
    usage,
)

SECRET = "s3cr3t-value"


def without(name: str) -> dict[str, Any]:
    event = usage("e1")
    del event[name]
    return event


def nested(depth: int) -> str:
    return "[" * depth + "1" + "]" * depth


MALFORMED = {
    "empty": ("", "the body is not JSON"),
    "not JSON": ("credits, please", "the body is not JSON"),
    "cut short": (body(usage("e1"))[:-1], "the body is not JSON"),
    "two documents": (body(usage("e1")) * 2, "the body is not JSON"),
    "byte order mark": ("\ufeff" + body(usage("e1")), "the body is not JSON"),
    "null": ("null", "not a JSON object"),
    "a string": ('"usage"', "not a JSON object"),
    "a number": ("1", "not a JSON object"),
    "an array in an array": ("[[]]", "not a JSON object"),
    "empty array": ("[]", "no event"),
    "empty object": ("{}", "type"),
    "NaN": (body(usage("e1")).replace('"1"', "NaN"), "NaN"),
    "infinity": (body(usage("e1")).replace('"1"', "-Infinity"), "Infinity"),
    "duplicate key": (body(usage("e1")).replace('{"spec', '{"id": "e0", "spec'), "same key twice"),
    "duplicate key inside": (
        body(usage("e1")).replace('"credits"', '"credits": "1", "credits"'),
        "same key twice",
    ),
    "nested deeply": (nested(100_000), "nested too deeply"),
    "huge number": (body(usage("e1")).replace('"1"', "9" * 5_000), "too many digits"),
    "long number": (body(usage("e1")).replace('"1"', "9" * 4_000), "credits"),
    "float that overflows": (body(usage("e1")).replace('"1"', "1e999"), "credits"),
    "huge digit string": (body(usage("e1", "9" * 5_000)), "credits"),
    "float credits": (body(usage("e1", 1.5)), "credits"),  # type: ignore[arg-type]
    "bool credits": (body(usage("e1", True)), "credits"),  # type: ignore[arg-type]
    "null credits": (body(usage("e1", None)), "credits"),  # type: ignore[arg-type]
    "seven decimals": (body(usage("e1", "0.1234567")), "credits"),
    "negative credits": (body(usage("e1", "-1")), "credits"),
    "no credits": (body(cloudevent("e1")), "credits"),
    "wrong estimate": (body(requested("e1", credits=1.5)), "credits"),
    "credits of an end": (body(finished("e1", credits="1")), "credits"),
    "wrong status": (body(finished("e1", "exploded")), "status"),
    "wrong type": (body(cloudevent("e1", type="agent_run.paused")), "type"),
    "no type": (body(without("type")), "type"),
    "type is no string": (body({**usage("e1"), "type": ["agent_run.usage"]}), "type"),
    "wrong version": (body({**usage("e1"), "specversion": "0.3"}), "specversion"),
    "no id": (body(without("id")), "id"),
    "null id": (body({**usage("e1"), "id": None}), "id"),
    "number id": (body({**usage("e1"), "id": 7}), "id"),
    "empty id": (body(usage("")), "id"),
    "id of 10,000 characters": (body(usage("x" * 10_000)), "id"),
    "id with a line break": (body(usage("e1\n")), "id"),
    "id with a space": (body(usage("e 1")), "id"),
    "id that is not ASCII": (body(usage("\u00e91")), "id"),
    "lone surrogate": (body(usage("\ud800")), "id"),
    "lone surrogate as a field": (body({**usage("e1"), "\ud800": 1}), ""),
    "source too long": (body(usage("e1", source="/" + "x" * 200)), "source"),
    "no subject": (body(without("subject")), "subject"),
    "naive time": (body({**usage("e1"), "time": "2025-11-21T10:00:00"}), "time"),
    "no time": (body(without("time")), "time"),
    "a date": (body({**usage("e1"), "time": "2025-11-21"}), "time"),
    "epoch seconds": (body({**usage("e1"), "time": 1_795_255_200}), "time"),
    "year 1999": (body({**usage("e1"), "time": "1999-12-31T23:59:59Z"}), "time"),
    "year 9999": (body({**usage("e1"), "time": "9999-12-31T23:59:59Z"}), "time"),
    "time of 10,000 characters": (body({**usage("e1"), "time": "2" * 10_000}), "time"),
    "week date": (body({**usage("e1"), "time": "2025-W47-6T10Z"}), "time"),
    "basic format": (body({**usage("e1"), "time": "20251121T100000Z"}), "time"),
    "unknown field": (body({**usage("e1"), "extra": 1}), "extra"),
    "unknown field in data": (body(usage("e1", tip="1")), "tip"),
    "unknown field in trigger": (
        body(usage("e1", trigger={**TRIGGERS["user"], "key_id": "k"})),
        "key_id",
    ),
    "payload hash from outside": (body({**usage("e1"), "payload_hash": "x"}), "payload_hash"),
    "data is no object": (body({**usage("e1"), "data": "x"}), "data"),
    "no data": (body(without("data")), "data"),
    "wrong trigger": (body(usage("e1", trigger={"kind": "cron"})), "trigger"),
    "trigger without kind": (body(usage("e1", trigger={"user_id": "ana"})), "trigger"),
    "trigger of another kind": (
        body(usage("e1", trigger={"kind": "schedule", "user_id": "ana"})),
        "schedule_id",
    ),
    "trigger without user": (body(usage("e1", trigger={"kind": "user"})), "user_id"),
    "team is a number": (body(usage("e1", team=7)), "team_id"),  # type: ignore[arg-type]
    "1 MiB of a field": (body(usage("e1", note="x" * (1 << 20))), "note"),
    "1 MiB of blanks": (" " * (1 << 20), "not JSON"),
    "1 MiB of brackets": ("[" * (1 << 20), "nested too deeply"),
    "too many events": (
        body(*[{}] * (EVENTS_PER_MESSAGE_MAX + 1)),
        f"more than {EVENTS_PER_MESSAGE_MAX:,} events",
    ),
    "an estimate of zero to reserve": (
        body(requested("e1", reserve="estimate", credits="0")),
        "event 0: data must reserve more than zero credits",
    ),
    "an estimate above the bound": (
        body(requested("e1", reserve="estimate", credits="1000000001")),
        "credits must be at most 1,000,000,000",
    ),
    "an unknown way to reserve": (
        body(requested("e1", reserve="all", credits="1")),
        "data.reserve must be 'none' or 'estimate'",
    ),
    "a parent without a reservation": (
        body(requested("e1", reserve="none", parent_run_id="run-0")),
        'event 0: data has reserve "none", which goes with neither parent_run_id nor ttl_seconds',
    ),
    "a time without a reservation": (
        body(requested("e1", reserve="none", ttl_seconds=60)),
        'event 0: data has reserve "none", which goes with neither parent_run_id nor ttl_seconds',
    ),
    "a reservation of less than a minute": (
        body(requested("e1", ttl_seconds=59)),
        "data.ttl_seconds must be at least 60",
    ),
    "a reservation of more than a day": (
        body(requested("e1", ttl_seconds=86_401)),
        "data.ttl_seconds must be at most 86,400",
    ),
    "an extension by nothing": (
        body(cloudevent("e1", type="agent_run.extended")),
        "event 0: data must ask for credits or ttl_seconds, or both",
    ),
    "an extension by zero": (
        body(cloudevent("e1", type="agent_run.extended", credits="0")),
        "credits must be more than zero",
    ),
    "a release of a part": (
        body(cloudevent("e1", type="agent_run.released", credits="5")),
        "data.credits is not a known field",
    ),
}


@pytest.mark.parametrize(("text", "names"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_message_is_rejected_with_a_reason(text: str, names: str) -> None:
    message = parse_message(text)

    (rejection,) = message.rejections
    assert message.events == ()
    assert rejection.code == "malformed"
    assert names in rejection.reason
    assert len(rejection.reason) < 500


SENTENCES: dict[str, tuple[Any, str]] = {
    "no type": ({"a": 1}, "type is missing"),
    "wrong type": (
        {"type": "paused"},
        (
            "type must be one of 'agent_run.requested', 'agent_run.extended', 'agent_run.usage', "
            "'agent_run.finished', 'agent_run.released', 'agent_run.provider_error'"
        ),
    ),
    "no user": (usage("e1", trigger={"kind": "user"}), "data.trigger.user_id is missing"),
    "wrong kind": (
        usage("e1", trigger={"kind": "cron"}),
        "data.trigger.kind must be one of 'user', 'team_api_key', 'schedule'",
    ),
    "field named like a kind": (
        usage("e1", trigger={**TRIGGERS["user"], "user": {}}),
        "data.trigger.user is not a known field",
    ),
    "two errors": (
        usage("e1", trigger={"kind": "schedule", "user_id": "ana"}),
        "data.trigger.schedule_id is missing (and 1 more error)",
    ),
    "three errors": (
        {"type": "agent_run.usage", "specversion": "1.0", "id": "e1", "source": "/s", "data": 1},
        "subject is missing (and 2 more errors)",
    ),
    "wrong status": (
        finished("e1", "exploded"),
        "data.status must be 'ok', 'error' or 'cancelled'",
    ),
    "number as id": ({**usage("e1"), "id": 7}, "id must be a string"),
    "empty id": (usage(""), "id must not be empty"),
    "long id": (usage("x" * 129), "id must have at most 128 characters"),
    "id with a space": (
        usage("e 1"),
        "id must consist of visible ASCII characters, without spaces",
    ),
    "data is text": ({**usage("e1"), "data": "x"}, "data must be a JSON object"),
    "year 1999": (
        {**usage("e1"), "time": "1999-12-31T23:59:59Z"},
        "time must be in the years 2000 to 2200",
    ),
    "credits too large": (
        usage("e1", "999999999999"),
        "data.credits must be a decimal from 0 to 1,000,000,000 with at most 6 places",
    ),
    "field name that is no Unicode": (
        {**usage("e1"), "\ud800": 1},
        "the event must be valid Unicode",
    ),
    "status code": (
        provider_error("e1", error={"status_code": 42}),
        "data.error.status_code must be at least 100",
    ),
    "prose as a code": (
        provider_error("e1", error={"code": "too many calls"}),
        "data.error.code has a character that is not allowed",
    ),
    "no answer": (
        provider_error("e1", error={}),
        "data.error must have a status_code, type, code or reason",
    ),
}


@pytest.mark.parametrize(("event", "sentence"), SENTENCES.values(), ids=SENTENCES.keys())
def test_a_reason_is_a_sentence_about_a_field_of_the_event(event: object, sentence: str) -> None:
    (rejection,) = parse_message(json.dumps(event)).rejections

    assert rejection.reason == f"event 0: {sentence}"


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({**usage("e1"), "type": SECRET}, id="type"),
        pytest.param({**usage("e1"), "specversion": SECRET}, id="specversion"),
        pytest.param({**usage("e1"), "time": SECRET}, id="time"),
        pytest.param({**usage("e1"), "id": f"{SECRET} {SECRET}"}, id="id"),
        pytest.param({**usage("e1"), "extra": SECRET}, id="extra"),
        pytest.param(usage("e1", SECRET), id="credits"),
        pytest.param(usage("e1", trigger={"kind": SECRET}), id="trigger"),
        pytest.param(finished("e1", SECRET), id="status"),
        pytest.param(SECRET, id="no object"),
        pytest.param({**usage("e1"), "payload_hash": SECRET}, id="payload_hash"),
    ],
)
def test_a_reason_never_repeats_the_value(event: object) -> None:
    (rejection,) = parse_message(json.dumps(event)).rejections

    assert SECRET not in rejection.reason


def test_a_reason_does_not_repeat_a_body_that_is_not_json() -> None:
    (rejection,) = parse_message(f'{{"card": "{SECRET}", }}').rejections

    assert SECRET not in rejection.reason


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (requested("e1"), RunRequested),
        (requested("e1", credits="12.5"), RunRequested),
        (requested("e1", credits="0"), RunRequested),
        (usage("e1", "0"), RunUsage),
        (usage("e1", "0.000001"), RunUsage),
        (usage("e1", started_at="2025-11-21T10:00:00Z"), RunUsage),
        (usage("e1", 3, project_id="web"), RunUsage),  # type: ignore[arg-type]
        (usage("e1", trigger=TRIGGERS["team_api_key"]), RunUsage),
        (usage("e1", trigger=TRIGGERS["schedule"]), RunUsage),
        (finished("e1", "ok"), RunFinished),
        (finished("e1", "error"), RunFinished),
        (finished("e1", "cancelled"), RunFinished),
        ({**usage("x" * 128), "source": "/" + "s" * 199}, RunUsage),
        (
            {
                **usage("e1"),
                "datacontenttype": "application/json",
                "dataschema": "https://example.com/usage.json",
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "tracestate": "vendor=1",
            },
            RunUsage,
        ),
    ],
)
def test_a_well_formed_event_is_read(document: dict[str, Any], kind: type) -> None:
    message = parse_message(json.dumps(document))

    (event,) = message.events
    assert message.rejections == ()
    assert isinstance(event, kind)
    assert event.time == NOW
    assert (event.identity.subject, event.identity.id) == (document["subject"], document["id"])


@pytest.mark.parametrize(
    ("started_at", "reason"),
    [
        ("2025-11-21T10:00:01Z", "event 0: data.started_at must not be after time"),
        ("yesterday", "event 0: data.started_at must be an RFC 3339 string"),
        (1763719200, "event 0: data.started_at must be an RFC 3339 string"),
    ],
)
def test_a_run_did_not_begin_after_its_event(started_at: object, reason: str) -> None:
    (rejection,) = parse_message(body(usage("e1", started_at=started_at))).rejections

    assert rejection.code == "malformed"
    assert rejection.reason.startswith(reason)


@pytest.mark.parametrize(
    "time",
    ["2025-11-21T10:00:00Z", "2025-11-21T10:00:00.000000+00:00", "2025-11-21T11:00:00+01:00"],
)
def test_a_time_is_the_same_instant_in_any_offset(time: str) -> None:
    (event,) = parse_message(body({**usage("e1"), "time": time})).events

    assert event.time == NOW


def test_valid_events_of_an_array_are_kept_in_their_order() -> None:
    message = parse_message(body(usage("e1"), {"no": "event"}, usage("e2"), usage("e3", "-1")))

    assert [event.id for event in message.events] == ["e1", "e2"]
    assert [r.reason.partition(":")[0] for r in message.rejections] == ["event 1", "event 3"]


def test_an_array_may_hold_a_thousand_events() -> None:
    message = parse_message(body(*[usage(f"e{n}") for n in range(EVENTS_PER_MESSAGE_MAX)]))

    assert len(message.events) == EVENTS_PER_MESSAGE_MAX


def test_the_same_payload_has_the_same_hash_however_it_is_written() -> None:
    document = usage("e1")
    turned = dict(reversed(document.items()))

    one = parse_message(json.dumps(document, indent=2))
    other = parse_message(json.dumps(turned, separators=(",", ":")))

    assert one.events[0].payload_hash == other.events[0].payload_hash


@pytest.mark.parametrize(
    "changed",
    [usage("e1", "2"), usage("e1", run="run-2"), usage("e1", user="ben"), finished("e1")],
)
def test_another_payload_has_another_hash(changed: dict[str, Any]) -> None:
    assert payload_hash(usage("e1")) != payload_hash(changed)


def test_no_depth_of_nesting_raises() -> None:
    around_the_limit = range(sys.getrecursionlimit() - 100, sys.getrecursionlimit() + 20)
    for depth in around_the_limit:
        for text in (nested(depth), f'{{"a": {nested(depth)}}}', f"[{{}}, {nested(depth)}]"):
            message = parse_message(text)

            assert message.events == ()
            assert message.rejections


def test_a_deeply_nested_event_leaves_its_neighbour_alone() -> None:
    deep = {**usage("e1"), "extra": json.loads(nested(400))}

    message = parse_message(body(deep, usage("e2")))

    assert [event.id for event in message.events] == ["e2"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
fields = st.sampled_from([*usage("e1"), "extra", "payload_hash", "traceparent", "dataschema"])
data_fields = st.sampled_from(["team_id", "trigger", "credits", "project_id", "status", "x"])


@given(st.text())
def test_no_text_raises(text: str) -> None:
    message = parse_message(text)

    assert message.events or message.rejections


@given(json_values)
def test_no_json_raises(value: object) -> None:
    message = parse_message(json.dumps(value))

    assert message.events == ()
    assert message.rejections


@settings(max_examples=300)
@given(
    st.dictionaries(fields, json_values, max_size=2),
    st.dictionaries(data_fields, json_values, max_size=2),
)
def test_no_broken_event_raises(top: dict[str, Any], data: dict[str, Any]) -> None:
    event = usage("e1")
    event["data"] = {**event["data"], **data}

    message = parse_message(json.dumps({**event, **top}))

    assert len(message.events) + len(message.rejections) == 1
    for rejection in message.rejections:
        assert len(rejection.reason) < 500
        # Words of the library that validates, which mean nothing to the sender.
        assert not re.search("Input should|discriminator|Value error|pattern", rejection.reason)
