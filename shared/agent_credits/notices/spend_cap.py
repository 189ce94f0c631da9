"""The notices of a team's spending: the cap is near or reached, and the card is suspended."""

from agent_credits.billing.teams import Team
from agent_credits.notices.facts import step_lines
from agent_credits.notices.notice import Notice, NoticeType, Severity
from agent_credits.notices.reload_declines import reload_fix
from agent_credits.values.display import count_text, money_text
from agent_credits.values.principals import Principal


def spend_cap_warning(team: Team, percent: int) -> Notice:
    """Return the warning at `percent` of the cap; it names what is spent, which may be more."""
    spending, cap_cents = team.spending, team.spend_cap_cents
    currency = next((p.currency for p in reversed(spending.recent)), "usd")
    spent_percent = spending.spent_cents * 100 // cap_cents if cap_cents else 100
    is_reached = percent >= 100
    fix = _cap_fix(team.team_id, is_reached=is_reached)
    return _notice(
        team,
        notice_type="spend_cap.warning",
        severity="critical" if is_reached else "warning",
        # Once per month and cap: a cap that was raised can be reached again.
        key=f"{spending.month}:{percent}:{team.version}",
        data={
            "month": spending.month,
            "percent": percent,
            "spent_percent": spent_percent,
            "spent_cents": spending.spent_cents,
            "spend_cap_cents": cap_cents,
            "currency": currency,
            "fix": fix,
        },
        email_subject=(
            f"Team {team.team_id} has spent {spent_percent}% of its cap for {spending.month}"
        ),
        lines=[
            (
                f"Team {team.team_id} has spent {money_text(spending.spent_cents, currency)} on "
                f"credits in {spending.month}: {spent_percent}% of its spend cap of "
                f"{money_text(cap_cents, currency)}."
            ),
            (
                "Reloads are declined, and runs that the remaining credits do not cover fail."
                if is_reached
                else "Once the cap is reached, reloads are declined, and runs that the remaining "
                "credits do not cover fail."
            ),
            "",
            *step_lines(fix),
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
                f"{count_text(team.spending.declines_in_a_row, 'time')} in a row and is no longer "
                "charged. Runs that the remaining credits do not cover fail until this is fixed."
            ),
            "",
            *step_lines(fix),
        ],
    )


def _cap_fix(team_id: str, *, is_reached: bool) -> list[str]:
    if is_reached:
        return reload_fix("spend_cap_reached", team_id)
    return [f"An admin of team {team_id}: raise the spend cap if this month needs more credits."]


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
        raise ValueError("only a purchase reaches a warning level or is declined")
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
