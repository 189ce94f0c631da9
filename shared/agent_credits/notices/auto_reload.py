"""The notices of reloads (succeeded, declined, frozen), and of an account that can run again."""

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, ReloadFacts, newest_team
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.notices.facts import account_text, step_lines
from agent_credits.notices.notice import Notice, NoticeType, Severity, iso
from agent_credits.notices.reload_declines import decline_in_words, reload_fix
from agent_credits.values.credits import format_credits
from agent_credits.values.display import (
    amount_text,
    count_text,
    credits_text,
    money_text,
    time_text,
)

# Of more the newest are named; an account holds a bounded number of reservations.
PAUSED_RUNS_NAMED_MAX = 20


def reload_succeeded(account: Account, entry: Entry) -> Notice:
    facts = _facts(entry)
    return _notice(
        account,
        entry,
        notice_type="auto_reload.succeeded",
        severity="info",
        data={
            "credits": format_credits(entry.amount_microcredits),
            "packs": facts.packs,
            "price_cents": facts.price_cents,
            "currency": facts.currency,
        },
        email_subject=(
            f"{account.principal} was reloaded with {credits_text(entry.amount_microcredits)}"
        ),
        lines=[
            (
                f"Auto-reload bought {amount_text(entry.amount_microcredits)} add-on credits for "
                f"{account_text(account.principal, facts.team_id)}: "
                f"{count_text(facts.packs, 'pack')} for "
                f"{money_text(facts.price_cents, facts.currency)}."
            ),
            "",
            "Runs that were waiting for this reload continue. No action is needed.",
        ],
    )


def reload_declined(account: Account, entry: Entry) -> Notice:
    facts, cause = _facts(entry), _cause(entry)
    fix = reload_fix(cause, facts.team_id)
    return _notice(
        account,
        entry,
        notice_type="auto_reload.declined",
        severity="warning",
        data={"cause": cause, "fix": fix},
        email_subject=f"No reload for {account.principal}: {decline_in_words(cause)}",
        lines=[
            (
                f"The auto-reload of {account_text(account.principal, facts.team_id)} was "
                f"declined: {decline_in_words(cause)}."
            ),
            "Runs that the account's credits do not cover fail until this is fixed.",
            "",
            *step_lines(fix),
        ],
    )


def reload_frozen(account: Account, entry: Entry) -> Notice:
    facts, cause = _facts(entry), _cause(entry)
    until = account.reload.until if account.reload else None
    fix = reload_fix(cause, facts.team_id)
    return _notice(
        account,
        entry,
        notice_type="auto_reload.frozen",
        severity="critical",
        data={"cause": cause, "until": iso(until) if until else None, "fix": fix},
        email_subject=f"Auto-reload of {account.principal} is frozen: too many reloads",
        lines=[
            (
                f"{account_text(account.principal, facts.team_id)} was reloaded too often in a "
                "short time."
            ),
            (
                f"Further reloads are on hold until {time_text(until)}, even where the spend cap "
                "allows them."
                if until
                else "Further reloads are on hold until the settings change."
            ),
            "Runs that the account's credits do not cover fail until then.",
            "",
            *step_lines(fix),
        ],
    )


def credits_restored(old: Account, account: Account) -> Notice:
    """Return the notice of a recovery.

    Its key is the account's version, so that each recovery is announced, and each once.
    """
    low_team_id = old.low.team_id if old.low else None
    team_id = low_team_id or newest_team(old.entries) or newest_team(account.entries) or ""
    name = account_text(account.principal, team_id)
    runs = [r.run_id for r in reversed(account.reservations) if r.directive == "pause"]
    paused: dict[str, object] = (
        {"paused_runs": runs[:PAUSED_RUNS_NAMED_MAX], "paused_runs_count": len(runs)}
        if runs
        else {}
    )
    if old.is_exhausted:
        subject = f"{account.principal} has credits again"
        lines = [
            f"{name} was out of credits and has credits again.",
            "",
            "Failed runs are not retried. Start them again if you still need them.",
            *_paused_lines(runs),
        ]
    elif old.low is not None and old.low.is_shared:
        subject = f"{account.principal} is no longer low on credits"
        lines = [
            f"The pool that team {team_id} shares was low and is above its thresholds again.",
            "",
            "Runs that failed meanwhile are not retried. Start them again if you still need them.",
        ]
    else:
        subject = f"{account.principal} is no longer low on credits"
        lines = [
            f"{name} was low on credits and is above its thresholds again.",
            "",
            "No action is needed.",
        ]
    return Notice(
        type="credits_restored",
        severity="info",
        principal=account.principal,
        team_id=team_id,
        key=str(account.version),
        subject=str(account.principal),
        time=account.entries[-1].recorded_at,
        # A failed run can be started again. Where the account was merely low, no run has failed.
        retryable=old.is_exhausted,
        data={
            "principal": str(account.principal),
            "team_id": team_id,
            "recovered_from": "exhausted" if old.is_exhausted else "low",
            **paused,
        },
        email_subject=subject,
        email_text="\n".join(lines) + "\n",
    )


def _paused_lines(runs: list[str]) -> list[str]:
    if not runs:
        return []
    more = len(runs) - PAUSED_RUNS_NAMED_MAX
    return [
        "",
        "Paused runs can go on once they are extended with agent_run.extended, newest first:",
        *(f"- {run_id}" for run_id in runs[:PAUSED_RUNS_NAMED_MAX]),
        *([f"- and {count_text(more, 'more run')}"] if more > 0 else []),
    ]


def _notice(
    account: Account,
    entry: Entry,
    *,
    notice_type: NoticeType,
    severity: Severity,
    data: dict[str, object],
    email_subject: str,
    lines: list[str],
) -> Notice:
    facts = _facts(entry)
    return Notice(
        type=notice_type,
        severity=severity,
        principal=account.principal,
        team_id=facts.team_id,
        key=facts.reload_id,
        subject=facts.reload_id,
        time=entry.recorded_at,
        retryable=False,
        data={
            "reload_id": facts.reload_id,
            "team_id": facts.team_id,
            "principal": str(account.principal),
            **data,
        },
        email_subject=email_subject,
        email_text="\n".join([*lines, "", f"Reload: {facts.reload_id}"]) + "\n",
    )


def _facts(entry: Entry) -> ReloadFacts:
    if entry.reload is None:
        raise TypeError("a reload's entry names its reload")
    return entry.reload


def _cause(entry: Entry) -> DeclineCause:
    if entry.decline is None:
        raise TypeError("a declined reload's entry names its cause")
    return entry.decline
