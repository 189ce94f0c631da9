"""The notices of reloads: succeeded, declined, frozen; and that an account can run again."""

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, ReloadFacts, newest_team
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.notices.notice import Notice, NoticeType, Severity, format_money, iso
from agent_credits.notices.reload_declines import decline_in_words, reload_fix
from agent_credits.values.credits import format_credits


def reload_succeeded(account: Account, entry: Entry) -> Notice:
    facts = _facts(entry)
    bought = format_credits(entry.amount_microcredits)
    price = format_money(facts.price_cents, facts.currency)
    return _notice(
        account,
        entry,
        notice_type="auto_reload.succeeded",
        severity="info",
        data={
            "credits": bought,
            "packs": facts.packs,
            "price_cents": facts.price_cents,
            "currency": facts.currency,
        },
        email_subject=f"{account.principal} was reloaded with {bought} credits",
        lines=[
            (
                f"{bought} add-on credits were bought for {account.principal} of team "
                f"{facts.team_id}, in {facts.packs} pack(s), for {price}."
            ),
            "",
            "Runs that waited for this reload go on by themselves. Nothing is to be done.",
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
            f"The auto-reload of {account.principal} of team {facts.team_id} was declined:",
            f"{decline_in_words(cause)} ({cause}).",
            "Runs that the account's credits do not cover fail until this is mended.",
            "",
            "What to do now:",
            *(f"- {step}" for step in fix),
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
                f"{account.principal} of team {facts.team_id} was reloaded so often of late that "
                "further reloads are held back, although the spend cap is not reached."
            ),
            "Until then, runs that the account's credits do not cover fail.",
            f"Frozen until: {iso(until) if until else 'the settings change'}",
            "",
            "What to do now:",
            *(f"- {step}" for step in fix),
        ],
    )


def credits_restored(old: Account, account: Account) -> Notice:
    """The key is the version, so that each recovery is announced, and each once."""
    told_team_id = old.low.team_id if old.low else None
    team_id = told_team_id or newest_team(old.entries) or newest_team(account.entries) or ""
    whose = f" of team {team_id}" if account.principal.kind == "user" and team_id else ""
    if old.is_exhausted:
        subject = f"{account.principal} has credits again"
        lines = [
            f"{account.principal}{whose} was out of credits and has credits again.",
            "",
            "Runs that failed meanwhile stay failed: start them anew where they are still wanted.",
        ]
    else:
        subject = f"{account.principal} is no longer low on credits"
        lines = [
            (f"{account.principal}{whose} was low on credits and is above its thresholds again."),
            "",
            "Nothing is to be done.",
        ]
    return Notice(
        type="credits_restored",
        severity="info",
        principal=account.principal,
        team_id=team_id,
        key=str(account.version),
        subject=str(account.principal),
        time=account.entries[-1].recorded_at,
        # A run that failed can be started anew; where the account was merely low, none has.
        retryable=old.is_exhausted,
        data={
            "principal": str(account.principal),
            "team_id": team_id,
            "recovered_from": "exhausted" if old.is_exhausted else "low",
        },
        email_subject=subject,
        email_text="\n".join(lines) + "\n",
    )


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
