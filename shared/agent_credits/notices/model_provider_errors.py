"""The notices of a model provider that error: its account is empty, or it is busy for a while.

The two need opposite handling, so they are notices of different types. An empty account is critical
and not retryable: every further call will fail too. A busy provider is worth knowing at most.
"""

from typing import assert_never

from agent_credits.events.model_provider_errors import ModelProviderAnswer
from agent_credits.notices.notice import Notice, NoticeType, Severity, iso
from agent_credits.notices.observations import ModelProviderError


def model_provider_error(error: ModelProviderError) -> Notice:
    # Here and not above, because only who meets such a row should pay for reading the table.
    from agent_credits.events.model_provider_table import title_of

    notice_type, severity, is_retryable = _kind(error)
    title, fix = title_of(error.provider), _fixes(error)
    data: dict[str, object] = {
        "run_id": error.run_id,
        "team_id": error.team_id,
        "project_id": error.project_id,
        "principal": str(error.principal),
        "provider": error.provider,
        "model": error.model,
        "classification": error.classification,
        "error": error.answer.model_dump(exclude_none=True),
        "retryable": is_retryable,
        "fix": fix,
        "traceparent": error.traceparent,
    }
    return Notice(
        type=notice_type,
        severity=severity,
        principal=error.principal,
        team_id=error.team_id,
        key=error.key,
        subject=error.run_id,
        time=error.time,
        retryable=is_retryable,
        data={name: value for name, value in data.items() if value is not None},
        email_subject=f"{_headline(error, title)}: {_where(error)}",
        email_text=_email_text(error, title, fix),
    )


def _kind(error: ModelProviderError) -> tuple[NoticeType, Severity, bool]:
    match error.classification:
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
            assert_never(error.classification)


def _fixes(error: ModelProviderError) -> list[str]:
    from agent_credits.events.model_provider_table import pages_of, rule_for, title_of

    title, pages = title_of(error.provider), pages_of(error.provider)
    match error.classification:
        case "quota_exhausted":
            rule = rule_for(error.provider, error.answer)
            where = f" See {pages}." if pages else ""
            return [
                f"Whoever holds the account at {title}: add credits, or raise its limit.{where}",
                *([rule.advice] if rule and rule.advice else []),
                f"Until then, start no runs that call {title}: retrying will not help.",
            ]
        case "rate_limited" | "overloaded":
            return [_back_off(error.answer)]
        case "unclassified":
            return [
                f"Look up in the documentation of {title} what this error means.",
                "If it means an empty account, stop the runs that call it until it is filled.",
            ]
        case _:
            assert_never(error.classification)


def _back_off(answer: ModelProviderAnswer) -> str:
    if answer.retry_after_seconds is not None:
        return f"Retry after {answer.retry_after_seconds} seconds, as the provider asks."
    return "Retry with exponential back-off and jitter, from 1 second up to 60 seconds."


def _headline(error: ModelProviderError, title: str) -> str:
    match error.classification:
        case "quota_exhausted":
            return f"The quota at {title} is exhausted"
        case "rate_limited":
            return f"{title} limits the rate of calls"
        case "overloaded":
            return f"{title} is overloaded"
        case "unclassified":
            return f"{title} refused a call"
        case _:
            assert_never(error.classification)


def _where(error: ModelProviderError) -> str:
    team = f"team {error.team_id}"
    return f"project {error.project_id} of {team}" if error.project_id else team


def _email_text(error: ModelProviderError, title: str, fix: list[str]) -> str:
    name = f" ({error.provider})" if error.provider != title else ""
    model = f", model {error.model}" if error.model else ""
    lines = [
        *_opening(error, title),
        "",
        f"Provider:  {title}{name}{model}",
        f"Answered:  {_answer_text(error.answer)}",
        f"Run:       {error.run_id}, at {iso(error.time)}",
        f"Team:      {error.team_id}",
        *([f"Project:   {error.project_id}"] if error.project_id else []),
        f"Billed:    {error.principal}; the refused call cost no credits",
        "",
        "What to do now:",
        *(f"- {step}" for step in fix),
    ]
    return "\n".join(lines) + "\n"


def _opening(error: ModelProviderError, title: str) -> list[str]:
    where = _where(error)
    match error.classification:
        case "quota_exhausted":
            return [
                f"{title} refused a call of {where}: what the account there may use is used up.",
                "This is no rate limit: every further call fails as well until somebody acts.",
            ]
        case "rate_limited" | "overloaded":
            return [
                f"{_headline(error, title)} of {where}."
                if error.classification == "rate_limited"
                else f"{title} is overloaded and refused a call of {where}.",
                "It passes by itself. You hear of it once an hour at most, for one project.",
            ]
        case "unclassified":
            return [
                f"{title} refused a call of {where}, and what its answer means is not known here.",
                "It is passed on as it came.",
            ]
        case _:
            assert_never(error.classification)


def _answer_text(answer: ModelProviderAnswer) -> str:
    status = [f"HTTP {answer.status_code}"] if answer.status_code is not None else []
    quota = [f"quota {answer.quota_id}"] if answer.quota_id is not None else []
    return ", ".join([*status, *dict.fromkeys(answer.names), *quota])
