"""The notices of model provider errors, word for word: as machines and as people get them."""

from typing import Any

import pytest

from agent_credits.billing.teams import bill
from agent_credits.events.model_provider_errors import Classification
from agent_credits.intake.model_provider_errors import model_provider_error_of
from agent_credits.notices.announcements import NoticeSettings, Observed, notices_of
from agent_credits.notices.notice import SUBJECT_LENGTH_MAX, Notice
from tests.golden import assert_golden, data_and_email_of
from tests.unit.builders import BIGCORP_TEAM, POLICY, TEAMS, TRIGGERS, parsed, provider_error


def notice_of(document: dict[str, Any]) -> Notice:
    """Return the notice that the event gives rise to, by way of what is recorded of it."""
    event = parsed(document)
    error = model_provider_error_of(event, bill(event, TEAMS[event.data.team_id], POLICY))  # type: ignore[arg-type]
    (notice,) = notices_of(Observed(error), NoticeSettings(""))
    return notice


EVENTS: dict[str, dict[str, Any]] = {
    "quota_exhausted_openai": provider_error(
        "e1",
        project_id="web",
        model="gpt-5",
        error={"status_code": 429, "type": "insufficient_quota", "code": "insufficient_quota"},
        trigger=TRIGGERS["schedule"],
    ),
    "quota_exhausted_anthropic": provider_error(
        "e1",
        provider="anthropic",
        error={
            "status_code": 429,
            "type": "rate_limit_error",
            "code": "enforced_spend_limit_reached",
        },
    ),
    "quota_exhausted_google": provider_error(
        "e1",
        provider="gcp.gemini",
        project_id="web",
        error={
            "status_code": 429,
            "type": "RESOURCE_EXHAUSTED",
            "quota_id": "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
        },
    ),
    "quota_exhausted_azure": provider_error(
        "e1", provider="azure.ai.openai", error={"status_code": 429, "type": "insufficient_quota"}
    ),
    "quota_exhausted_bedrock": provider_error(
        "e1",
        provider="aws.bedrock",
        team=BIGCORP_TEAM.team_id,
        error={"status_code": 400, "type": "ServiceQuotaExceededException"},
    ),
    "quota_exhausted_other": provider_error(
        "e1", provider="x_ai", error={"status_code": 402, "reason": "credit_balance_too_low"}
    ),
    "rate_limited": provider_error(
        "e1",
        provider="anthropic",
        project_id="web",
        error={"status_code": 429, "type": "rate_limit_error", "retry_after_seconds": 20},
    ),
    "overloaded": provider_error(
        "e1", provider="anthropic", error={"status_code": 529, "type": "overloaded_error"}
    ),
    "unclassified": provider_error(
        "e1",
        provider="aws.bedrock",
        model="anthropic.claude-opus-4-5",
        error={"status_code": 424, "type": "ModelErrorException"},
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_the_notice_matches_its_golden_file(name: str) -> None:
    assert_golden(f"provider/{name}.txt", data_and_email_of(notice_of(EVENTS[name])))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quota_exhausted_openai", ("provider_quota_exhausted", "critical", False)),
        ("rate_limited", ("provider_rate_limited", "info", True)),
        ("overloaded", ("provider_overloaded", "info", True)),
        ("unclassified", ("provider_error", "warning", False)),
    ],
)
def test_an_empty_account_is_critical_and_a_busy_provider_is_retryable(
    name: str, expected: tuple[str, str, bool]
) -> None:
    notice = notice_of(EVENTS[name])

    assert (notice.type, notice.severity, notice.retryable) == expected
    assert notice.data["retryable"] is notice.retryable


def test_the_principal_is_who_is_billed_for_the_run() -> None:
    billed = {name: str(notice_of(document).principal) for name, document in EVENTS.items()}

    assert billed["quota_exhausted_openai"] == "user:olga"
    assert billed["quota_exhausted_bedrock"] == "team:bigcorp"
    assert billed["rate_limited"] == "user:ana"


@pytest.mark.parametrize("classification", ["quota_exhausted", "rate_limited", "overloaded"])
def test_a_subject_that_is_cut_still_names_the_model_provider(
    classification: Classification,
) -> None:
    error = {
        "quota_exhausted": {"code": "credit_balance_exhausted"},
        "rate_limited": {"code": "rate_limit_exceeded"},
        "overloaded": {"status_code": 503},
    }[classification]

    notice = notice_of(provider_error("e1", project_id="p" * 128, error=error))

    assert "OpenAI" in notice.email_subject[:SUBJECT_LENGTH_MAX]
