"""The notices of a model provider that refused: its account is empty, or it is busy for a while.

The two need opposite handling, so they are notices of different types. An empty account is critical
and not retryable: every further call will fail too. A busy provider is worth knowing at most.
"""

from typing import assert_never

from agent_credits.notices import Notice, NoticeType, Severity, iso
from agent_credits.observations import ProviderRefused
from agent_credits.provider_errors import ProviderAnswer


def provider_refused(refused: ProviderRefused) -> Notice:
    notice_type, severity, retryable = _kind(refused)
    answer = refused.answer
    data: dict[str, object] = {
        "run_id": refused.run_id,
        "team_id": refused.team_id,
        "principal": str(refused.principal),
        "provider": refused.provider,
        "classification": refused.classification,
        "error": answer.model_dump(exclude_none=True),
        "retryable": retryable,
        "fix": _fixes(refused),
    }
    optional = {
        "project_id": refused.project_id,
        "model": refused.model,
        "traceparent": refused.traceparent,
    }
    data |= {name: value for name, value in optional.items() if value is not None}
    return Notice(
        type=notice_type,
        severity=severity,
        principal=refused.principal,
        team_id=refused.team_id,
        key=refused.key,
        subject=refused.run_id,
        time=refused.time,
        retryable=retryable,
        data=data,
        email_subject=_email_subject(refused),
        email_text=_email_text(refused),
    )


def _kind(refused: ProviderRefused) -> tuple[NoticeType, Severity, bool]:
    match refused.classification:
        case "quota_exhausted":
            return "provider_quota_exhausted", "critical", False
        case "rate_limited":
            return "provider_rate_limited", "info", True
        case "overloaded":
            return "provider_overloaded", "info", True
        case "unclassified":
            # It may be an empty account: nothing may take it for an invitation to try again.
            return "provider_error", "warning", False
        case _:
            assert_never(refused.classification)


def _fixes(refused: ProviderRefused) -> list[str]:
    match refused.classification:
        case "quota_exhausted":
            return [
                (
                    f"Whoever holds the account at {refused.provider}: add credits there, or raise "
                    "its spend limit or quota."
                ),
                f"Until then: stop runs that call {refused.provider}; every further call fails.",
            ]
        case "rate_limited" | "overloaded":
            return [_back_off(refused.answer)]
        case "unclassified":
            return [f"Look up in the documentation of {refused.provider} what this error means."]
        case _:
            assert_never(refused.classification)


def _back_off(answer: ProviderAnswer) -> str:
    if answer.retry_after_seconds is not None:
        return f"Retry after {answer.retry_after_seconds} seconds, as the provider asks."
    return "Retry with exponential back-off and jitter, from 1 second up to 60 seconds."


def _email_subject(refused: ProviderRefused) -> str:
    where = _where(refused)
    match refused.classification:
        case "quota_exhausted":
            return f"The quota at {refused.provider} is exhausted: {where}"
        case "rate_limited":
            return f"Rate limited by {refused.provider}: {where}"
        case "overloaded":
            return f"{refused.provider} is overloaded: {where}"
        case "unclassified":
            return f"{refused.provider} refused a call: {where}"
        case _:
            assert_never(refused.classification)


def _where(refused: ProviderRefused) -> str:
    team = f"team {refused.team_id}"
    return f"{team}, project {refused.project_id}" if refused.project_id else team


def _email_text(refused: ProviderRefused) -> str:
    lines = [
        *_opening(refused),
        "",
        f"Provider:  {refused.provider}" + (f", model {refused.model}" if refused.model else ""),
        f"Answered:  {_answer_text(refused.answer)}",
        f"Run:       {refused.run_id}, at {iso(refused.time)}",
        f"Project:   {refused.project_id or 'none given'}",
        f"Billed:    {refused.principal}; this took no credits",
        "",
        "What to do now:",
        *(f"- {step}" for step in _fixes(refused)),
    ]
    return "\n".join(lines) + "\n"


def _opening(refused: ProviderRefused) -> list[str]:
    provider, where = refused.provider, _where(refused)
    match refused.classification:
        case "quota_exhausted":
            return [
                f"The account at {provider} that {where}, uses has nothing left to spend.",
                "Retrying will not help: it is not a rate limit, and every further call will fail.",
            ]
        case "rate_limited":
            return [
                f"{provider} limits the rate of calls of {where}.",
                "This is told at most once an hour for one project, however many calls it meets.",
            ]
        case "overloaded":
            return [
                f"{provider} is overloaded and refused calls of {where}.",
                "This is told at most once an hour for one project, however many calls it meets.",
            ]
        case "unclassified":
            return [
                f"{provider} refused a call of {where}, for a reason that is not known here.",
                "It is passed on as it came.",
            ]
        case _:
            assert_never(refused.classification)


def _answer_text(answer: ProviderAnswer) -> str:
    status = [f"HTTP {answer.status_code}"] if answer.status_code is not None else []
    quota = [f"quota {answer.quota_id}"] if answer.quota_id is not None else []
    return ", ".join([*status, *dict.fromkeys(answer.names), *quota])
