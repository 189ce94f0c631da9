"""The notices of model provider errors: an empty account, or a provider that is busy for a while.

The two need opposite handling, so they are notices of different types. An empty account is critical
and not retryable: every further call fails too. A busy provider is at most worth knowing.
"""

from typing import assert_never

from agent_credits.events.model_provider_errors import ModelProviderAnswer
from agent_credits.notices.facts import Fact, fact_lines, facts, step_lines
from agent_credits.notices.notice import Notice, NoticeType, Severity
from agent_credits.notices.observations import ModelProviderError
from agent_credits.values.display import count_text


def model_provider_error(error: ModelProviderError) -> Notice:
    # Imported here, so that only a function that meets such a row pays for reading the table.
    from agent_credits.events.model_provider_table import title_of

    notice_type, severity, is_retryable = _kind(error)
    title, fix = title_of(error.provider), _fixes(error)
    document: dict[str, object] = {
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
    data = {name: value for name, value in document.items() if value is not None}
    name = f" ({error.provider})" if error.provider != title else ""
    model = f", model {error.model}" if error.model else ""
    lines = [
        *_opening(error, title),
        "",
        *fact_lines(
            [
                Fact("Model provider", f"{title}{name}{model}"),
                Fact("Answer", _answer_text(error.answer)),
                *facts(data, "run_id"),
                Fact("Time", error.time),
                *facts(data, "team_id", "project_id"),
                Fact("Account", f"{error.principal}; the rejected call cost no credits"),
            ]
        ),
        "",
        *step_lines(fix),
    ]
    return Notice(
        type=notice_type,
        severity=severity,
        principal=error.principal,
        team_id=error.team_id,
        key=error.key,
        subject=error.run_id,
        time=error.time,
        retryable=is_retryable,
        data=data,
        email_subject=f"{_headline(error, title)}: {_where(error)}",
        email_text="\n".join(lines) + "\n",
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
            # It may be an empty account, so the notice must not invite a retry.
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
                f"The owner of the account at {title}: add credits or raise its limit.{where}",
                *([rule.advice] if rule and rule.advice else []),
                f"Until then, do not start runs that call {title}: retrying will not help.",
            ]
        case "rate_limited" | "overloaded":
            return [_back_off(error.answer)]
        case "unclassified":
            return [
                f"Look up this error in the documentation of {title}.",
                "If it means an empty account, stop the runs that call it until credits are added.",
            ]
        case _:
            assert_never(error.classification)


def _back_off(answer: ModelProviderAnswer) -> str:
    if answer.retry_after_seconds is not None:
        wait = count_text(answer.retry_after_seconds, "second")
        return f"Retry after {wait}, as the model provider asks."
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
            return f"{title} rejected a call"
        case _:
            assert_never(error.classification)


def _where(error: ModelProviderError) -> str:
    team = f"team {error.team_id}"
    return f"project {error.project_id} of {team}" if error.project_id else team


def _opening(error: ModelProviderError, title: str) -> list[str]:
    rejected = f"{title} rejected a call of {_where(error)}"
    passes = "This passes without action. You get at most one such notice per project and hour."
    match error.classification:
        case "quota_exhausted":
            return [
                f"{rejected}: the quota or the credit of its account is used up.",
                "This is not a rate limit: every further call fails until that is fixed.",
            ]
        case "rate_limited":
            return [f"{rejected}: there were too many calls in a short time.", passes]
        case "overloaded":
            return [f"{rejected}: it is overloaded.", passes]
        case "unclassified":
            return [
                f"{rejected} with an error that Agent Credits does not know.",
                "The error is passed on unchanged.",
            ]
        case _:
            assert_never(error.classification)


def _answer_text(answer: ModelProviderAnswer) -> str:
    status = [f"HTTP {answer.status_code}"] if answer.status_code is not None else []
    quota = [f"quota {answer.quota_id}"] if answer.quota_id is not None else []
    return ", ".join([*status, *dict.fromkeys(answer.names), *quota])
