"""What the model providers' documented errors mean, one by one, and that the table is complete."""

import itertools
import tomllib
from typing import Any

import pytest

from agent_credits.events.model_provider_errors import ModelProviderAnswer
from agent_credits.events.model_provider_table import (
    ANY_PROVIDER,
    TABLE,
    classify,
    pages_of,
    providers,
    rule_for,
    title_of,
)

# Provider, what it answers, what that means. Each is documented at the `source` in the table.
DOCUMENTED: list[tuple[str, dict[str, Any], str]] = [
    # One HTTP status, two opposite meanings.
    ("openai", {"status_code": 429, "type": "insufficient_quota"}, "quota_exhausted"),
    ("openai", {"status_code": 429, "code": "rate_limit_exceeded"}, "rate_limited"),
    (
        "openai",
        {"status_code": 429, "type": "insufficient_quota", "code": "insufficient_quota"},
        "quota_exhausted",
    ),
    (
        "openai",
        {"status_code": 429, "type": "insufficient_quota", "code": "credit_balance_exhausted"},
        "quota_exhausted",
    ),
    (
        "openai",
        {"status_code": 429, "type": "insufficient_quota", "code": "project_spend_limit_exceeded"},
        "quota_exhausted",
    ),
    ("openai", {"code": "organization_spend_limit_exceeded"}, "quota_exhausted"),
    ("openai", {"code": "organization_usage_limit_exceeded"}, "quota_exhausted"),
    ("openai", {"status_code": 400, "code": "billing_hard_limit_reached"}, "quota_exhausted"),
    ("openai", {"status_code": 429, "code": "billing_not_active"}, "quota_exhausted"),
    (
        "openai",
        {"status_code": 429, "type": "tokens", "code": "rate_limit_exceeded"},
        "rate_limited",
    ),
    (
        "openai",
        {"status_code": 429, "type": "rate_limit_error", "code": "slow_down"},
        "rate_limited",
    ),
    ("openai", {"status_code": 503, "code": "slow_down"}, "overloaded"),
    (
        "openai",
        {"status_code": 503, "type": "service_unavailable_error", "code": "server_is_overloaded"},
        "overloaded",
    ),
    ("openai", {"code": "server_is_overloaded"}, "overloaded"),
    ("openai", {"status_code": 503}, "overloaded"),
    # A bare 429 may be either.
    ("openai", {"status_code": 429}, "unclassified"),
    ("openai", {"status_code": 401, "code": "invalid_api_key"}, "unclassified"),
    ("anthropic", {"status_code": 402, "type": "billing_error"}, "quota_exhausted"),
    (
        "anthropic",
        {"status_code": 429, "type": "rate_limit_error", "code": "enforced_spend_limit_reached"},
        "quota_exhausted",
    ),
    ("anthropic", {"status_code": 429, "type": "rate_limit_error"}, "rate_limited"),
    ("anthropic", {"status_code": 529, "type": "overloaded_error"}, "overloaded"),
    ("anthropic", {"status_code": 529}, "overloaded"),
    # In the middle of a stream there is a type and no status.
    ("anthropic", {"type": "overloaded_error"}, "overloaded"),
    # Only their messages differ, so the sender of the event tells them apart.
    (
        "anthropic",
        {"status_code": 400, "type": "invalid_request_error", "reason": "credit_balance_too_low"},
        "quota_exhausted",
    ),
    (
        "anthropic",
        {"status_code": 400, "type": "invalid_request_error", "reason": "spend_limit_reached"},
        "quota_exhausted",
    ),
    ("anthropic", {"status_code": 400, "type": "invalid_request_error"}, "unclassified"),
    ("anthropic", {"status_code": 500, "type": "api_error"}, "unclassified"),
    ("gcp.gemini", {"status_code": 402, "type": "RESOURCE_EXHAUSTED"}, "quota_exhausted"),
    (
        "gcp.gemini",
        {
            "status_code": 429,
            "type": "RESOURCE_EXHAUSTED",
            "reason": "RATE_LIMIT_EXCEEDED",
            "quota_id": "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
        },
        "quota_exhausted",
    ),
    (
        "gcp.gemini",
        {
            "status_code": 429,
            "type": "RESOURCE_EXHAUSTED",
            "quota_id": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
        },
        "rate_limited",
    ),
    ("gcp.gemini", {"status_code": 429, "code": "quota_exceeded"}, "quota_exhausted"),
    ("gcp.gemini", {"status_code": 429, "code": "rate_limit_exceeded"}, "rate_limited"),
    ("gcp.gemini", {"status_code": 429, "code": "too_many_requests"}, "rate_limited"),
    ("gcp.gemini", {"status_code": 503, "type": "UNAVAILABLE"}, "overloaded"),
    ("gcp.gemini", {"status_code": 503}, "overloaded"),
    ("gcp.vertex_ai", {"status_code": 429, "type": "RESOURCE_EXHAUSTED"}, "rate_limited"),
    (
        "gcp.vertex_ai",
        {"status_code": 403, "type": "PERMISSION_DENIED", "reason": "BILLING_DISABLED"},
        "quota_exhausted",
    ),
    (
        "gcp.vertex_ai",
        {"status_code": 429, "type": "RESOURCE_EXHAUSTED", "reason": "RESOURCE_QUOTA_EXCEEDED"},
        "quota_exhausted",
    ),
    ("gcp.vertex_ai", {"status_code": 403, "type": "PERMISSION_DENIED"}, "unclassified"),
    ("gcp.gen_ai", {"reason": "RATE_LIMIT_EXCEEDED"}, "rate_limited"),
    ("gcp.gen_ai", {"type": "UNAVAILABLE"}, "overloaded"),
    ("azure.ai.openai", {"status_code": 429, "type": "insufficient_quota"}, "quota_exhausted"),
    ("azure.ai.openai", {"status_code": 429, "code": "QuotaExceeded"}, "quota_exhausted"),
    ("azure.ai.openai", {"status_code": 400, "code": "InsufficientQuota"}, "quota_exhausted"),
    ("azure.ai.openai", {"status_code": 429, "code": "429"}, "rate_limited"),
    ("azure.ai.openai", {"status_code": 429, "code": "RateLimitReached"}, "rate_limited"),
    ("azure.ai.openai", {"status_code": 503}, "overloaded"),
    ("azure.ai.inference", {"status_code": 429, "type": "too_many_requests"}, "rate_limited"),
    ("azure.ai.inference", {"status_code": 429, "code": "rate_limit_exceeded"}, "rate_limited"),
    ("azure.ai.inference", {"status_code": 400, "code": "content_filter"}, "unclassified"),
    (
        "aws.bedrock",
        {"status_code": 400, "type": "ServiceQuotaExceededException"},
        "quota_exhausted",
    ),
    ("aws.bedrock", {"status_code": 429, "type": "ThrottlingException"}, "rate_limited"),
    (
        "aws.bedrock",
        {"status_code": 429, "type": "ThrottlingException", "reason": "daily_quota_exhausted"},
        "quota_exhausted",
    ),
    ("aws.bedrock", {"status_code": 429, "type": "ModelNotReadyException"}, "overloaded"),
    ("aws.bedrock", {"status_code": 503, "type": "ServiceUnavailableException"}, "overloaded"),
    ("aws.bedrock", {"status_code": 424, "type": "ModelErrorException"}, "unclassified"),
    # One provider's names mean nothing at another's, and an unknown one is known by none.
    ("anthropic", {"status_code": 429, "type": "insufficient_quota"}, "unclassified"),
    ("aws.bedrock", {"status_code": 429, "code": "rate_limit_exceeded"}, "unclassified"),
    ("x_ai", {"status_code": 429, "code": "insufficient_quota"}, "unclassified"),
    ("x_ai", {"status_code": 402, "reason": "credit_balance_too_low"}, "quota_exhausted"),
    ("*", {"status_code": 503}, "unclassified"),
]


@pytest.mark.parametrize(("provider", "answer", "meaning"), DOCUMENTED, ids=str)
def test_a_documented_error_means_what_its_provider_says(
    provider: str, answer: dict[str, Any], meaning: str
) -> None:
    assert classify(provider, ModelProviderAnswer.model_validate(answer)) == meaning


def test_every_name_and_status_of_the_table_decides_a_documented_error() -> None:
    decided: set[tuple[str, object]] = set()
    for provider, given, _ in DOCUMENTED:
        answer = ModelProviderAnswer.model_validate(given)
        rule = rule_for(provider, answer)
        if rule is None:
            continue
        decided |= {(rule.means, name) for name in answer.names if name in rule.names}
        decided |= {(rule.means, s) for s in rule.status_codes if s == answer.status_code}

    table = {
        (rule.means, what)
        for provider in providers().values()
        for rule in provider.rules
        for what in (*rule.names, *rule.status_codes)
    }
    assert table - decided == set()


def test_the_rules_of_an_empty_account_come_before_all_others() -> None:
    for name, provider in providers().items():
        is_empty = [rule.means == "quota_exhausted" for rule in provider.rules]
        assert is_empty == sorted(is_empty, reverse=True), name


def test_each_provider_stands_in_the_table_once_and_names_its_source() -> None:
    entries = tomllib.loads(TABLE.read_text())["providers"]

    names = list(itertools.chain.from_iterable(entry["names"] for entry in entries))
    assert len(names) == len(set(names))
    assert {"openai", "anthropic", "gcp.gemini", "azure.ai.openai", "aws.bedrock"} <= set(names)
    for entry in entries:
        if entry["names"] != [ANY_PROVIDER]:
            assert entry["source"].startswith("https://"), entry["title"]
            assert entry["pages"], entry["title"]


def test_a_provider_that_is_not_in_the_table_keeps_its_name() -> None:
    assert (title_of("openai"), title_of("x_ai")) == ("OpenAI", "x_ai")
    assert pages_of("x_ai") is None
