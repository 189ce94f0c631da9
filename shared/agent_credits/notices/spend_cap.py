"""The notices of a team's spending: the cap comes near, and the card was declined too often."""

from agent_credits.billing.teams import Team
from agent_credits.notices.notice import Notice, NoticeType, Severity, format_money
from agent_credits.notices.reload_declines import reload_fix
from agent_credits.values.principals import Principal


def spend_cap_warning(team: Team, percent: int) -> Notice:
    spending = team.spending
    currency = next((p.currency for p in reversed(spending.recent)), "usd")
    spent = format_money(spending.spent_cents, currency)
    cap = format_money(team.spend_cap_cents, currency)
    return _notice(
        team,
        notice_type="spend_cap.warning",
        severity="critical" if percent >= 100 else "warning",
        # Once per month and cap: a cap that was raised can be reached again.
        key=f"{spending.month}:{percent}:{team.version}",
        data={
            "month": spending.month,
            "percent": percent,
            "spent_cents": spending.spent_cents,
            "spend_cap_cents": team.spend_cap_cents,
            "currency": currency,
        },
        email_subject=f"Team {team.team_id} has spent {percent} % of its cap for {spending.month}",
        lines=[
            (
                f"Team {team.team_id} has spent {spent} of {cap} on credits in {spending.month}, "
                f"{percent} % or more of its spend cap."
            ),
            (
                "No purchase passes the cap: when it is reached, reloads are declined and runs "
                "that the credits do not cover fail."
            ),
        ],
    )


def reload_suspended(team: Team) -> Notice:
    fix = reload_fix("suspended", team.team_id)
    method = team.spending.suspended_payment_method
    return _notice(
        team,
        notice_type="auto_reload.suspended",
        severity="critical",
        key=f"{method}:{team.version}",
        data={"cause": "suspended", "fix": fix},
        email_subject=f"Auto-reload of team {team.team_id} is suspended: payment declined",
        lines=[
            (
                f"The payment method of team {team.team_id} was declined "
                f"{team.spending.declines_in_a_row} times in a row. It is not tried again."
            ),
            "",
            "What to do now:",
            *(f"- {step}" for step in fix),
        ],
    )


def _notice(
    team: Team,
    *,
    notice_type: NoticeType,
    severity: Severity,
    key: str,
    data: dict[str, object],
    email_subject: str,
    lines: list[str],
) -> Notice:
    recent = team.spending.recent
    if not recent:
        raise ValueError("a cap comes near, and a card is declined, by a purchase")
    return Notice(
        type=notice_type,
        severity=severity,
        principal=Principal("team", team.team_id),
        team_id=team.team_id,
        key=key,
        subject=team.team_id,
        time=recent[-1].ended_at,
        retryable=False,
        data={"team_id": team.team_id, **data},
        email_subject=email_subject,
        email_text="\n".join(lines) + "\n",
    )
