"""Every type of notice: its data, and an example made by the code that publishes it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

from agent_credits.ledger.reloads import DeclineCause
from agent_credits.notices.notice import Notice, NoticeType
from agent_credits.notices.reload_declines import decline_in_words
from tests.golden import email_of
from tests.unit.notices.every_notice import EXAMPLES, type_of
from tools.blocks import table

# When each type is published.
PUBLISHED: Final[Mapping[str, str]] = {
    "insufficient_credits": (
        "A run failed because the pools of its payer held too little, or because it may draw no"
        " more. One for each failed run, at once, never in a digest. `fix` lists every way to get"
        " credits, and how to retry: as a new run with new event ids, because this one stays"
        " failed. For a run with a reservation, `directive` says what the platform is to do. Where"
        " a limit stopped the run, `limit` is that limit and `limits` are all that hold for the"
        " run; `fix` then says who can raise it, and nothing of buying credits."
    ),
    "credits_low": (
        "An account fell below a threshold of its team and no reload is about to help. Once for"
        " each threshold, until the account has recovered or its next period begins."
    ),
    "credits_restored": (
        "Credits came to an account that was announced as low or as exhausted. Runs can be started"
        " again, and paused ones extended: `paused_runs` names the newest."
    ),
    "credits_expiring": (
        "Paid credits, or credits in the pool `trial`, expire within `ExpiryNoticeDays`. Once for"
        " each account and day of expiry."
    ),
    "balance_report": "Once a day for each team, where the stack has `BalanceReports=true`.",
    "agent_run.overdrawn": (
        "A run used up its reservation and began to draw what nobody held. Once for each tree of"
        " runs, as it begins. Severity `info` where the run may finish."
    ),
    "auto_reload.succeeded": "A reload was paid and its credits granted.",
    "auto_reload.declined": "A reload was declined; `cause` says why.",
    "auto_reload.suspended": (
        "The payment method was declined three times in a row. It is not tried again until it"
        " changes."
    ),
    "auto_reload.frozen": (
        "An account reloaded more often than `reloads_max` in its window. Its reloads stop until"
        " the window has passed."
    ),
    "spend_cap.warning": (
        "A team has spent 70, 90 or 100 per cent of its spend cap for the month; critical at 100."
    ),
    "limit.warning": (
        "70, 90 or 100 per cent of a limit are used, or what its `warn_at` says; critical at 100."
        " Once for each of them, limit and period, the highest where usage crosses several."
        " `principal` in `data` is who pays for its runs; where several accounts do, it is left out"
        " and the notice is the team's."
    ),
    "limit.raised": (
        "A team raised limits, or lifted them for a while with `raise_until`. One notice for each"
        " change of the settings."
    ),
    "drift_found": (
        "An account contradicts its ledger, or a limit the accounts that count under it. Once a day"
        " for each, until it is fixed."
    ),
    "provider_quota_exhausted": (
        "An account at a model provider is empty. For every event that reports it, at once."
    ),
    "provider_rate_limited": (
        "A model provider asks for fewer calls. Once an hour for each project and provider."
    ),
    "provider_overloaded": (
        "A model provider is busy. Once an hour for each project and provider."
    ),
    "provider_error": "A model provider answered what the table of providers does not know.",
    "notices.test": "Somebody ran `agent-credits notices test`.",
}

# Further examples whose e-mails are shown, and when they are sent.
ALSO_SHOWN: Final[Mapping[str, str]] = {
    "insufficient_credits--limit": "where a limit stopped the run",
    "limit.warning--reached": "at 100 per cent of a limit that stops runs",
}

# By the name of the field, or by its path where the same name means something else there.
MEANINGS: Final[Mapping[str, str]] = {
    "action": "What happens at the limit: `stop` the runs, or only `warn`.",
    "accounts": "The team's accounts, those that burned most first; at most 50.",
    "accounts_count": "How many accounts the team has.",
    "auto_reload": "Whether a reload could help.",
    "available_credits": "Credits that can be drawn now.",
    "burned_1_day_credits": "Credits burned on the last complete UTC day.",
    "burned_7_days_credits": "The same over seven days.",
    "burned_30_days_credits": "The same over thirty days.",
    "cause": "Why: see [causes](#causes).",
    "channel": "The channel that is tested.",
    "classification": "What it [means](../how-to/model-provider-errors.md).",
    "code": "As the model provider named it.",
    "credits": "How many credits.",
    "currency": "ISO 4217 code in lower case.",
    "day": "The UTC day of the report.",
    "directive": (
        "What the platform is to do with the run: `continue`, `pause` or `stop`; see [what a run"
        " may draw](../explanation/reservations.md#when-a-run-uses-more-than-it-reserved)."
    ),
    "error": "The model provider's answer, by the names in it; never its message.",
    "exhausted_on": "The day on which the account runs dry at this rate, or null.",
    "expected_credits": "What the ledger says.",
    "expires_at": "The instant of expiry.",
    "expires_on": "The UTC day on which the credits expire.",
    "findings": "The first ten contradictions.",
    "findings_count": "How many contradictions there are.",
    "fix": "What to do now, one step each, for whom.",
    "found_credits": "What was found instead.",
    "grace_credits": "What the tree of runs may draw past its reservation in all.",
    "grant_id": "The grant.",
    "grants": "The grants that expire.",
    "grants[].cause": "Why the grant was made.",
    "id": "The team, project, member or run; null for each of them.",
    "instance": "The path of the API that the problem concerns.",
    "lifted_until": "Until then it neither stops runs nor warns.",
    "limit": (
        "The limit that is announced, or that stopped the run, as it stands afterwards; or the one"
        " that contradicts its accounts."
    ),
    "limit_credits": "What may be used in a period.",
    "limits": (
        "All limits of the run, the one that stopped it first; or all that were raised; or, in a"
        " report, those that have reached the lowest of their percentages, at most 20."
    ),
    "limits_count": "How many limits have reached the lowest of their percentages.",
    "model": "The model, as OpenTelemetry's `gen_ai.request.model`.",
    "month": "The calendar month of the spend cap, in the team's zone.",
    "overdrawn_credits": "What this event drew that nobody held.",
    "packs": "How many packs were bought.",
    "paused_runs": "Runs that were told to pause, newest first; at most 20.",
    "paused_runs_count": "How many runs were told to pause.",
    "percent": "The share of the cap or limit that is announced as reached.",
    "percent_left": "What is left, in per cent of `percent_of_credits`, rounded down.",
    "percent_of_credits": "What per cent are of: the period's plan, or what was granted.",
    "period": "What the limit counts by: `day`, `week` or `month` in the team's zone, or `run`.",
    "place": "Where the contradiction is: the row, a page, or an entry.",
    "pool": "The pool.",
    "pools": "The payer's pools in drawing order.",
    "previous_credits": "The limit before it was raised.",
    "price_cents": "The price in minor units.",
    "principal": "Who is billed: `user:<id>` or `team:<id>`.",
    "problem": "An RFC 9457 problem document, to answer the caller with.",
    "problem.type": "The page about the error; `ProblemTypeBaseUrl` is put in front of it.",
    "project_id": "The project that the event named.",
    "provider": "The model provider, as OpenTelemetry's `gen_ai.provider.name`.",
    "recovered_from": "`low` or `exhausted`.",
    "reload_id": "The reload.",
    "remaining_credits": "What the pool holds after the event.",
    "reserved_cents": "Head-room held for purchases under way, in minor units.",
    "reserved_credits": "Credits that reservations hold, beside what is available.",
    "resets_at": "When the plan refills, or null.",
    "limit.reserved_credits": "Credits under the limit that reservations hold.",
    "limits[].reserved_credits": "Credits under the limit that reservations hold.",
    "limit.resets_at": "When the period ends; null for a limit of each run.",
    "limits[].resets_at": "When the period ends; null for a limit of each run.",
    "retry_after_seconds": "How long the model provider asks to wait.",
    "retryable": "Whether trying again can help.",
    "run_id": "The run.",
    "scope": "What the limit is of: a `team`, `project` or `member`, or each `run`.",
    "shortfall_credits": "What the pools, or a limit, could not cover.",
    "spent_percent": "What is spent, in per cent of the spend cap, rounded down.",
    "trigger_id": "Who or what started the run: a user, a team API key or a schedule.",
    "spend_cap_cents": "The team's spend cap, in minor units.",
    "spent_cents": "What the team has spent this month, in minor units.",
    "state": (
        "Reloads of this account are `off`, `declined`, `suspended` or `frozen`; `not_needed` where"
        " a limit stopped the run."
    ),
    "status": "The HTTP status to answer with.",
    "status_code": "The HTTP status of the answer.",
    "task_state": (
        "`FAILED`, or for a run with a reservation `PAUSED` or `RUNNING`: what its policy says. The"
        " user can fix this; a platform error would be `ERROR`."
    ),
    "team_id": "The team.",
    "text": "The contradiction, in words.",
    "threshold": "The threshold as the team set it.",
    "threshold_credits": "The threshold in credits.",
    "title": "The problem in a sentence.",
    "traceparent": "The event's W3C trace context.",
    "trigger": "What started the run: `user`, `team_api_key` or `schedule`.",
    "type": "The error, as the model provider names it.",
    "used_credits": "What runs drew in the period.",
    "used_percent": "The same in per cent of `limit_credits`, rounded down.",
    "until": "When it ends by itself.",
}


def by_type() -> str:
    """Return a section for each type of notice, in the order of `PUBLISHED`."""
    differences = set(get_args(NoticeType)) ^ PUBLISHED.keys()
    if differences:
        raise LookupError(f"say when it is published: {', '.join(sorted(differences))}")
    examples: dict[str, list[Notice]] = {}
    for name, example in EXAMPLES.items():
        examples.setdefault(type_of(name), []).append(example())
    named = {
        path if path in MEANINGS else name
        for notices in examples.values()
        for notice in notices
        for path, name, _ in _fields(notice)
    }
    differences = named ^ MEANINGS.keys()
    if differences:
        raise LookupError(f"fields and meanings differ: {', '.join(sorted(differences))}")
    return "\n".join(_section(name, examples[name]) for name in PUBLISHED)


def causes() -> str:
    rows = [("`pools_exhausted`", "the pools are exhausted, and the team does not reload")]
    rows += [
        ("`reservation_exhausted`", "the pools have credits, but none that this run may draw"),
        ("`credits_reserved`", "what other runs reserved would have covered it"),
        (
            "`limit_reached`",
            "a limit of the team leaves the run too little, whatever the pools hold",
        ),
    ]
    rows += [(f"`{cause}`", decline_in_words(cause)) for cause in get_args(DeclineCause)]
    return table(("cause", "why no reload helped"), rows)


def _section(notice_type: str, notices: list[Notice]) -> str:
    example = notices[0]
    severities = " or ".join(f"`{s}`" for s in dict.fromkeys(n.severity for n in notices))
    document = json.dumps(example.to_cloudevent(), indent=2, ensure_ascii=False)
    return f"""
## `{notice_type}`

{PUBLISHED[notice_type]} Severity: {severities}.

{table(("field of `data`", "value", "meaning"), _rows(notices))}

The CloudEvent:

```json
{document}
```

The e-mail:

```text
{email_of(example).rstrip()}
```
{"".join(_further_email(name) for name in ALSO_SHOWN if type_of(name) == notice_type)}"""


def _further_email(name: str) -> str:
    return f"""
The e-mail {ALSO_SHOWN[name]}:

```text
{email_of(EXAMPLES[name]()).rstrip()}
```
"""


def _rows(notices: list[Notice]) -> Iterator[tuple[str, str, str]]:
    """Yield the fields of all examples of a type, each once, and the types it was seen with."""
    seen: dict[str, tuple[str, dict[str, None]]] = {}
    for notice in notices:
        for path, name, value in _fields(notice):
            seen.setdefault(path, (name, {}))[1][_kind(value)] = None
    always = set.intersection(*({path for path, _, _ in _fields(notice)} for notice in notices))
    for path, (name, kinds) in seen.items():
        optional = "" if path in always else ", where there is one"
        meaning = MEANINGS[path if path in MEANINGS else name]
        yield f"`{path}`", f"{' or '.join(kinds)}{optional}", meaning


def _fields(notice: Notice) -> Iterator[tuple[str, str, Any]]:
    """Yield each field of the notice's data: its path, its name and its value."""
    yield from _fields_of(notice.data, "")


def _fields_of(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, Any]]:
    for name, value in data.items():
        yield f"{prefix}{name}", name, value
        if isinstance(value, dict):
            yield from _fields_of(value, f"{prefix}{name}.")
        for item in value if isinstance(value, list) else ():
            if isinstance(item, dict):
                yield from _fields_of(item, f"{prefix}{name}[].")


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
