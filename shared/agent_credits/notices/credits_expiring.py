"""The notice of paid credits that expire soon: how many, exactly when, and what can be done."""

from agent_credits.notices.facts import Fact, fact_lines, facts, step_lines
from agent_credits.notices.notice import Notice, iso
from agent_credits.notices.observations import CreditsExpiring, ExpiringGrant
from agent_credits.values.credits import format_credits
from agent_credits.values.display import credits_text, time_text


def credits_expiring(expiring: CreditsExpiring) -> Notice:
    fix = _fixes(expiring)
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
            f"Paid credits of {expiring.principal} expire on {expiring.expires_on} (UTC) unless "
            f"runs use them first: {credits_text(total)} in total."
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
            f"Paid credits of {expiring.principal} expire on {expiring.expires_on}: "
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


def _fixes(expiring: CreditsExpiring) -> list[str]:
    use = (
        "start the runs that you have planned before then. Within a pool, the credits that expire "
        "first are drawn first."
    )
    if expiring.principal.kind == "team":
        return [
            f"Team {expiring.principal.id}: {use}",
            (
                f"An admin of team {expiring.principal.id}: contact your account manager about the "
                "contract's next term. Expired credits are not restored."
            ),
        ]
    return [
        f"{expiring.principal.id}: {use}",
        "Pools that come earlier in the waterfall are still drawn before these credits.",
        "Buy only what you will use: expired credits are not restored.",
    ]
