"""Observations: their rows, and what makes each count once."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_credits.aws import items
from agent_credits.aws.stream_records import change_of
from agent_credits.events.model_provider_errors import ModelProviderAnswer
from agent_credits.notices.announcements import NoticeSettings, Observed, notices_of
from agent_credits.notices.observations import KEPT_FOR, ModelProviderError
from agent_credits.values.principals import Principal
from tests.conformance.samples import full_account, model_provider_error, team
from tests.memory_rows import MemoryRows
from tests.unit.builders import ANA, NOW, POLICY

SETTINGS = NoticeSettings(problem_type_base_url="")
FOURTEEN_DAYS = timedelta(days=14)

visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=8)


def rejected(run_id: str = "run-1", **changes: Any) -> ModelProviderError:
    return model_provider_error(run_id).model_copy(update=changes)


def busy(**changes: Any) -> ModelProviderError:
    return rejected(**{"classification": "rate_limited", "time": NOW, **changes})


def image_of(observation: ModelProviderError) -> dict[str, Any]:
    """Return the record as it is in a Lambda event, where everything is JSON."""
    return json.loads(json.dumps({"NewImage": items.observation_item(observation, NOW)}))


def test_an_observation_is_read_back_as_it_was_put() -> None:
    everything = model_provider_error("run-1")
    as_little_as_there_may_be = ModelProviderError(
        principal=Principal("team", "globex"),
        team_id="globex",
        run_id="run-2",
        source="/platform",
        event_id="e-1",
        time=datetime(2026, 11, 23, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=-7))),
        provider="x_ai",
        answer=ModelProviderAnswer(status_code=500),
        classification="unclassified",
    )

    for observation in (everything, as_little_as_there_may_be):
        assert change_of(image_of(observation)) == Observed(observation)


def test_the_key_and_the_stored_text_are_the_documented_ones() -> None:
    item = items.observation_item(model_provider_error("run-1"), NOW)

    assert item["pk"] == {"S": "OBSERVED#model_provider_error#event /platform run-1 e-1"}
    assert item["expires_at"] == {"N": str(int((NOW + KEPT_FOR).timestamp()))}
    at_rest = json.loads(item["observation"]["S"])
    assert (at_rest["kind"], at_rest["principal"]) == ("model_provider_error", "user:ana")


def test_an_observation_is_kept_longer_than_any_queue_keeps_a_message() -> None:
    # A message waits four days, then fourteen as a dead letter, and may then be redriven for four.
    assert KEPT_FOR > 2 * FOURTEEN_DAYS


def test_only_observations_expire() -> None:
    rows_of_money = [
        items.account_item(full_account(ANA)),
        items.team_item(team("acme")),
        items.policy_item(POLICY),
    ]

    assert all(items.EXPIRY_ATTRIBUTE not in item for item in rows_of_money)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "of_a_newer_version"},
        {"field_of_a_newer_version": 1},
        {"classification": "of_a_newer_version"},
    ],
    ids=str,
)
def test_an_observation_of_a_newer_version_is_rejected(
    change: dict[str, Any],
) -> None:
    images = image_of(model_provider_error("run-1"))
    at_rest = json.loads(images["NewImage"]["observation"]["S"])
    images["NewImage"]["observation"]["S"] = json.dumps(at_rest | change)

    with pytest.raises(ValueError, match="newer_version"):
        change_of(images)


@pytest.mark.parametrize("classification", ["quota_exhausted", "unclassified"])
def test_each_event_of_an_empty_account_has_its_own_key(classification: str) -> None:
    one = rejected(classification=classification)
    others = [
        rejected("run-2", classification=classification),
        rejected(classification=classification, event_id="e-2"),
        rejected(classification=classification, source="/other"),
    ]

    assert len({one.key, *(other.key for other in others)}) == 4


@pytest.mark.parametrize(
    ("later", "is_another"),
    [
        (timedelta(minutes=59, seconds=59), False),
        (timedelta(hours=1), True),
        (timedelta(days=1), True),
    ],
)
def test_a_busy_model_provider_has_one_key_an_hour(later: timedelta, is_another: bool) -> None:
    first = busy()
    again = busy(run_id="run-2", event_id="e-2", model="other", time=NOW + later)

    assert (first.key != again.key) == is_another


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "anthropic"},
        {"team_id": "globex"},
        {"project_id": "other"},
        {"project_id": None},
        {"classification": "overloaded"},
    ],
    ids=str,
)
def test_a_busy_model_provider_has_a_key_for_each_team_and_project(change: dict[str, Any]) -> None:
    assert busy(**change).key != busy().key


def test_the_hour_does_not_depend_on_the_offset_of_the_time() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert busy(time=elsewhere).key == busy(time=NOW.astimezone(UTC)).key


@given(st.lists(visible, min_size=6, max_size=6))
def test_no_two_events_share_a_row(parts: list[str]) -> None:
    one = rejected(source=parts[0], run_id=parts[1], event_id=parts[2])
    other = rejected(source=parts[3], run_id=parts[4], event_id=parts[5])

    same_row = items.observation_key(one) == items.observation_key(other)

    assert same_row == (parts[:3] == parts[3:])


def test_each_observation_is_one_notice_with_a_stable_id() -> None:
    rows = MemoryRows()
    for _ in range(3):
        rows.put_observation(model_provider_error("run-1"), NOW)
    rows.put_observation(model_provider_error("run-2"), NOW)

    def announced() -> list[str]:
        return [
            notice.id
            for observation in rows.observation_stream
            for notice in notices_of(Observed(observation), SETTINGS)
        ]

    assert len(set(announced())) == len(announced()) == 2
    assert announced() == announced()
