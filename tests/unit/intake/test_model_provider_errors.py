"""`agent_run.provider_error`: how it is parsed, recorded and announced, without any credits."""

import json
from datetime import timedelta
from typing import Any

import pytest

from agent_credits.billing.directory import Directory
from agent_credits.events.agent_runs import ModelProviderErrorReported, parse_message
from agent_credits.intake.debited_batch import DebitedBatch, Delivery
from agent_credits.intake.debits import Debits
from agent_credits.intake.model_provider_errors import KNOWN_MAX, ModelProviderErrors
from agent_credits.notices.announcements import NoticeSettings, Observed, notices_of
from agent_credits.notices.notice import Notice
from agent_credits.notices.observations import Observation
from agent_credits.values.errors import OutOfTime, RowsUnavailable
from tests.conformance.samples import model_provider_error
from tests.dispositions import postponed, rejected
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    BIGCORP_TEAM,
    NOW,
    TRIGGERS,
    body,
    grant_change,
    history,
    open_account,
    pause,
    provider_error,
    sample_rows,
    usage,
)

EMPTY = {"status_code": 429, "type": "insufficient_quota"}
BUSY = {"status_code": 429, "code": "rate_limit_exceeded", "retry_after_seconds": 7}
UNKNOWN = {"status_code": 418, "type": "teapot_error"}


class CountedRows(MemoryRows):
    """Rows that count the calls to put an observation, and fail on demand."""

    def __init__(self) -> None:
        super().__init__()
        source = sample_rows()
        self.teams, self.policies = source.teams, source.policies
        self.puts = 0
        self.is_broken = False

    def put_observation(self, observation: Observation, now: Any) -> bool:
        self.puts += 1
        if self.is_broken:
            raise RowsUnavailable("throttled")
        return super().put_observation(observation, now)


def worker(rows: MemoryRows) -> Debits:
    return Debits(rows, Directory(rows), pause)


def deliver(debits: Debits, *bodies: str, time_is_left: bool = True) -> DebitedBatch:
    deliveries = [Delivery(f"m{number}", text) for number, text in enumerate(bodies)]
    return debits.debit(deliveries, now=NOW, time_is_left=lambda: time_is_left)


def announced(rows: MemoryRows) -> list[Notice]:
    return [
        notice
        for observation in rows.observation_stream
        for notice in notices_of(Observed(observation), NoticeSettings(""))
    ]


def with_data(**data: Any) -> dict[str, Any]:
    event = provider_error("e1")
    return {**event, "data": {**event["data"], **data}}


@pytest.mark.parametrize(
    "event",
    [
        provider_error("e1"),
        provider_error("e1", model="arn:aws:bedrock:us-east-1:0:inference-profile/x"),
        provider_error("e1", provider="gcp.vertex_ai", error={"status_code": 503}),
        provider_error("e1", error={"code": "429"}),
        provider_error(
            "e1",
            error={
                "status_code": 429,
                "type": "RESOURCE_EXHAUSTED",
                "reason": "RATE_LIMIT_EXCEEDED",
                "quota_id": "GenerateContentInputTokensPerModelPerMinute-FreeTier",
                "retry_after_seconds": 0,
            },
        ),
    ],
    ids=lambda event: json.dumps(event["data"]["error"]),
)
def test_a_model_providers_answer_is_read(event: dict[str, Any]) -> None:
    message = parse_message(json.dumps(event))

    (read,) = message.events
    assert message.rejections == ()
    assert isinstance(read, ModelProviderErrorReported)
    assert read.data.error.model_dump(exclude_none=True) == event["data"]["error"]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"provider": None}, "provider"),
        ({"provider": "Open AI"}, "provider"),
        ({"provider": "x" * 65}, "provider"),
        ({"error": None}, "error"),
        ({"error": {}}, "must have a status_code, type, code or reason"),
        ({"error": {"retry_after_seconds": 3}}, "must have a status_code, type, code or reason"),
        ({"error": {"status_code": "429"}}, "status_code"),
        ({"error": {"status_code": 42}}, "status_code"),
        ({"error": {"status_code": 429.0}}, "status_code"),
        ({"error": {"code": ""}}, "code"),
        ({"error": {"code": "x" * 65}}, "code"),
        ({"error": {"status_code": 429, "retry_after_seconds": -1}}, "retry_after_seconds"),
        ({"error": {"status_code": 429, "retry_after_seconds": 1.5}}, "retry_after_seconds"),
        ({"error": {"status_code": 429, "retry_after_seconds": 10**9}}, "retry_after_seconds"),
        ({"credits": "1"}, "credits"),
    ],
    ids=str,
)
def test_an_invalid_field_is_rejected_by_name(data: dict[str, Any], field: str) -> None:
    (refusal,) = parse_message(json.dumps(with_data(**data))).rejections

    assert refusal.code == "malformed"
    assert field in refusal.reason


def test_a_model_providers_error_text_has_no_field() -> None:
    sentence = "Incorrect API key provided: sk-s3cr3t. Find it in your account."

    for error in ({"message": sentence}, {"code": sentence}, {"reason": sentence}):
        (refusal,) = parse_message(json.dumps(with_data(error={**EMPTY, **error}))).rejections

        assert "s3cr3t" not in refusal.reason


@pytest.mark.parametrize("error", [EMPTY, BUSY, UNKNOWN], ids=str)
def test_no_account_changes_and_no_entry_is_recorded(error: dict[str, Any]) -> None:
    rows = sample_rows()
    account = open_account(rows, grant_change("g-1"))

    batch = deliver(worker(rows), body(provider_error("e1", error=error)))

    assert batch.failed_message_ids == []
    assert rows.accounts == {ANA: account}
    assert len(announced(rows)) == 1


def test_no_account_is_needed() -> None:
    rows = sample_rows()

    batch = deliver(
        worker(rows), body(provider_error("e1", team=BIGCORP_TEAM.team_id, user="anybody"))
    )

    assert batch.failed_message_ids == []
    assert [str(notice.principal) for notice in announced(rows)] == ["team:bigcorp"]


@pytest.mark.parametrize("error", [EMPTY, UNKNOWN], ids=str)
def test_fifty_events_of_an_empty_account_are_fifty_notices(error: dict[str, Any]) -> None:
    rows = sample_rows()

    deliver(worker(rows), body(*[provider_error(f"e{n}", error=error) for n in range(50)]))

    notices = announced(rows)
    assert len({notice.id for notice in notices}) == len(notices) == 50


def test_fifty_runs_that_are_rate_limited_in_one_hour_are_one_notice() -> None:
    rows = CountedRows()
    events = [
        provider_error(f"e{n}", run=f"run-{n}", error=BUSY, time=NOW + timedelta(seconds=n))
        for n in range(50)
    ]

    batch = deliver(worker(rows), *[body(event) for event in events])

    (notice,) = announced(rows)
    assert (notice.type, notice.severity) == ("provider_rate_limited", "info")
    assert [reported.is_new for reported in batch.reported] == [True] + [False] * 49
    assert rows.puts == 1, "a worker asks the table once about what it knows"


@pytest.mark.parametrize("error", [EMPTY, BUSY, UNKNOWN], ids=str)
def test_a_message_that_is_delivered_again_is_announced_once(error: dict[str, Any]) -> None:
    rows = sample_rows()
    message = body(provider_error("e1", error=error))
    same, other = worker(rows), worker(rows)

    batches = [deliver(debits, message) for debits in (same, same, other)]

    assert len(announced(rows)) == 1
    assert [batch.failed_message_ids for batch in batches] == [[], [], []]
    assert [batch.reported[0].is_new for batch in batches] == [True, False, False]


def test_a_message_is_done_only_when_its_observation_is_recorded() -> None:
    rows = CountedRows()
    rows.is_broken = True
    debits, message = worker(rows), body(provider_error("e1"))

    broken = deliver(debits, message)
    rows.is_broken = False
    mended = deliver(debits, message)

    assert list(postponed(broken)) == ["m0"]
    assert mended.failed_message_ids == []
    assert len(announced(rows)) == 1


def test_a_put_whose_answer_was_lost_is_announced_once() -> None:
    class AnswerLost(CountedRows):
        def put_observation(self, observation: Observation, now: Any) -> bool:
            super().put_observation(observation, now)
            if self.puts == 1:
                raise RowsUnavailable("no answer")
            return False

    rows = AnswerLost()
    debits, message = worker(rows), body(provider_error("e1"))

    batches = [deliver(debits, message), deliver(debits, message)]

    assert [batch.failed_message_ids for batch in batches] == [["m0"], []]
    assert len(announced(rows)) == 1


def test_debits_do_not_wait_for_model_provider_errors() -> None:
    rows = CountedRows()
    open_account(rows, grant_change("g-1"))
    rows.is_broken = True

    batch = deliver(worker(rows), body(provider_error("e1")), body(usage("e2")))

    assert batch.failed_message_ids == ["m0"]
    assert [e.identity.id for e in history(rows, ANA) if e.identity.realm == "RUN"] == ["e2"]


def test_without_time_left_the_message_is_postponed() -> None:
    rows = CountedRows()

    batch = deliver(worker(rows), body(provider_error("e1")), time_is_left=False)

    assert isinstance(postponed(batch)["m0"], OutOfTime)
    assert rows.puts == 0


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (provider_error("e1", team="nobody"), "unknown_team"),
        (provider_error("e1", user="nobody"), "unknown_user"),
        (provider_error("e1", time=NOW + timedelta(hours=1)), "from_the_future"),
        (provider_error("e1", error={}), "malformed"),
    ],
)
def test_a_model_provider_error_is_rejected_like_every_other_event(
    event: dict[str, Any], code: str
) -> None:
    rows = sample_rows()

    batch = deliver(worker(rows), body(event))

    assert rejected(batch)["m0"].code == code
    assert announced(rows) == []


def test_a_log_line_has_exactly_these_fields() -> None:
    rows = sample_rows()
    event = provider_error("e1", trigger=TRIGGERS["schedule"], model="gpt-5")

    (reported,) = deliver(worker(rows), body(event)).reported

    assert reported.log_fields == {
        "message_id": "m0",
        "event_id": "e1",
        "run_id": "run-1",
        "principal": "user:olga",
        "provider": "openai",
        "classification": "quota_exhausted",
        "is_new": True,
    }


def test_a_workers_memory_is_bounded_and_forgetting_is_harmless() -> None:
    rows = CountedRows()
    errors = ModelProviderErrors(rows)
    for number in range(KNOWN_MAX + 1):
        errors.record(model_provider_error(f"run-{number}"), NOW)
    puts_before = rows.puts

    is_new = [
        errors.record(model_provider_error(f"run-{number}"), NOW) for number in (0, KNOWN_MAX)
    ]

    assert is_new == [False, False]
    assert rows.puts == puts_before + 1, "only the one that was forgotten is put again"
