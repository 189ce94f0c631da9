"""The notice of paid credits that are about to expire: how many, when exactly, what can be done."""

from agent_credits.notices.notice import Notice, iso
from agent_credits.notices.observations import CreditsExpiring, ExpiringGrant
from agent_credits.values.credits import format_credits


def credits_expiring(expiring: CreditsExpiring) -> Notice:
    fix = _fixes(expiring)
    total = _credits(*expiring.grants)
    return Notice(
        type="credits_expiring",
        severity="warning",
        principal=expiring.principal,
        team_id=expiring.team_id or "",
        key=expiring.key,
        subject=str(expiring.principal),
        time=expiring.time,
        retryable=False,
        data={
            "principal": str(expiring.principal),
            "team_id": expiring.team_id,
            "expires_on": expiring.expires_on.isoformat(),
            "credits": total,
            "grants": [_grant_to_json(grant) for grant in expiring.grants],
            "fix": fix,
        },
        email_subject=(
            f"{total} paid credits of {expiring.principal} expire on {expiring.expires_on}"
        ),
        email_text=_email_text(expiring, total, fix),
    )


def _credits(*grants: ExpiringGrant) -> str:
    return format_credits(sum(grant.remaining_microcredits for grant in grants))


def _grant_to_json(grant: ExpiringGrant) -> dict[str, str]:
    return {
        "grant_id": grant.grant_id,
        "pool": grant.pool,
        "cause": grant.cause,
        "credits": _credits(grant),
        "expires_at": iso(grant.expires_at),
    }


def _fixes(expiring: CreditsExpiring) -> list[str]:
    use = "start before then what is planned; within a pool, what expires first is drawn first."
    if expiring.principal.kind == "team":
        return [
            f"Team {expiring.principal.id}: {use}",
            (
                f"An admin of team {expiring.principal.id}: contact your account manager about the "
                "contract's next term; what has expired does not come back."
            ),
        ]
    return [
        f"{expiring.principal.id}: {use}",
        "Pools that come earlier in the waterfall are drawn before these, as always.",
        "What has expired does not come back; buy again only what will be used.",
    ]


def _email_text(expiring: CreditsExpiring, total: str, fix: list[str]) -> str:
    lines = [
        (
            f"{total} paid credits of {expiring.principal} expire on {expiring.expires_on} (UTC), "
            "unless runs use them before."
        ),
        "",
        f"Account:   {expiring.principal}",
        f"Team:      {expiring.team_id or 'not known'}",
        *(
            f"Expiring:   {_credits(grant)} {grant.pool} credits at {iso(grant.expires_at)} "
            f"({grant.cause} {grant.grant_id})"
            for grant in expiring.grants
        ),
        "",
        "What to do now:",
        *(f"- {step}" for step in fix),
        "",
        "The figures are of this moment. This is said once for this day of expiry.",
    ]
    return "\n".join(lines) + "\n"
