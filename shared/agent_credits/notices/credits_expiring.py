"""The notice of paid or trial credits that expire soon: how many, when, and what can be done.

It addresses whose credits they are: the user, or the team.
"""

from agent_credits.notices.facts import Fact, fact_lines, facts, step_lines
from agent_credits.notices.notice import Notice, iso
from agent_credits.notices.observations import CreditsExpiring, ExpiringGrant
from agent_credits.values.credits import format_credits
from agent_credits.values.display import credits_text, time_text


def credits_expiring(expiring: CreditsExpiring) -> Notice:
    kind, fix = _kind(expiring), _fixes(expiring)
    total = sum(grant.remaining_microcredits for grant in expiring.grants)
    data = {
        "principal": str(expiring.principal),
        "team_id": expiring.team_id,
        "expires_on": expiring.expires_on.isoformat(),
        "credits": format_credits(total),
        "grants": [_grant_to_json(grant) for grant in expiring.grants],
        "fix": fix,
    }
    lines = [
        (
            f"{_whose(expiring)} {kind} credits expire on {expiring.expires_on} (UTC) unless runs "
            f"use them first: {credits_text(total)} in total."
        ),
        "",
        *fact_lines(
            [
                *facts(data, "principal", "team_id"),
                *(Fact("Expiring", _grant_text(grant)) for grant in expiring.grants),
            ]
        ),
        "",
        *step_lines(fix),
        "",
        "The amounts are as of now. Each day on which credits expire is announced once.",
    ]
    return Notice(
        type="credits_expiring",
        severity="warning",
        principal=expiring.principal,
        team_id=expiring.team_id or "",
        key=expiring.key,
        subject=str(expiring.principal),
        time=expiring.time,
        retryable=False,
        data=data,
        email_subject=(
            f"{kind.capitalize()} credits of {expiring.principal} expire on {expiring.expires_on}: "
            f"{credits_text(total)}"
        ),
        email_text="\n".join(lines) + "\n",
    )


def _grant_to_json(grant: ExpiringGrant) -> dict[str, str]:
    return {
        "grant_id": grant.grant_id,
        "pool": grant.pool,
        "cause": grant.cause,
        "credits": format_credits(grant.remaining_microcredits),
        "expires_at": iso(grant.expires_at),
    }


def _grant_text(grant: ExpiringGrant) -> str:
    return (
        f"{credits_text(grant.remaining_microcredits)} in pool {grant.pool}, on "
        f"{time_text(grant.expires_at)} ({grant.cause} {grant.grant_id})"
    )


def _kind(expiring: CreditsExpiring) -> str:
    kinds = {"trial" if grant.is_trial else "paid" for grant in expiring.grants}
    return " and ".join(sorted(kinds))


def _whose(expiring: CreditsExpiring) -> str:
    principal = expiring.principal
    return f"Team {principal.id}, your" if principal.kind == "team" else f"{principal.id}, your"


def _fixes(expiring: CreditsExpiring) -> list[str]:
    who, is_trial = expiring.principal.id, all(grant.is_trial for grant in expiring.grants)
    use = (
        "start the runs that you have planned before then. Within a pool, the credits that expire "
        "first are drawn first."
    )
    is_by_contract = any(grant.cause == "contract" for grant in expiring.grants)
    if expiring.principal.kind == "team" and (is_trial or is_by_contract):
        about = "a contract that follows the trial" if is_trial else "the contract's next term"
        return [
            f"Team {who}: {use}",
            (
                f"An admin of team {who}: contact your account manager about {about}. Expired "
                "credits are not restored."
            ),
        ]
    if is_trial:
        return [
            f"{who}: {use}",
            (
                "After that, your runs draw your other credits. Purchase add-on credits if those "
                "will not be enough; expired credits are not restored."
            ),
        ]
    if expiring.principal.kind == "team":
        return [
            f"Team {who}: {use}",
            "Buy only what you will use: expired credits are not restored.",
        ]
    return [
        f"{who}: {use}",
        "Pools that come earlier in the waterfall are still drawn before these credits.",
        "Buy only what you will use: expired credits are not restored.",
    ]
