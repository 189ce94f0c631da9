"""Where a limit stands, as machines and as people read it."""

from typing import Any, Final

from agent_credits.billing.limit_standings import CurrentLimit, used_percent
from agent_credits.ledger.limits import COUNTS_MAX, LimitStanding
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import amount_text, credits_text, time_text

_OF_A_STANDING: Final = (
    *("used_credits", "used_percent", "reserved_credits", "left_credits", "resets_at"),
)


def standing_data(standing: LimitStanding) -> dict[str, Any]:
    """Return where a limit stands; `left_credits` is what may still be drawn or reserved.

    `cannot_count` says that the account counts too many limits to count this one.
    """
    return {
        "scope": standing.key.scope,
        "id": standing.key.id,
        "period": standing.key.period,
        "action": "stop" if standing.stops else "warn",
        "limit_credits": format_credits(standing.limit_microcredits),
        "used_credits": format_credits(standing.drawn_microcredits),
        "used_percent": used_percent(standing),
        "reserved_credits": format_credits(standing.held_microcredits),
        "left_credits": format_credits(standing.room_microcredits),
        "resets_at": iso(standing.resets_at) if standing.resets_at else None,
        **({"cannot_count": True} if standing.cannot_count else {}),
    }


def current_limit_data(current: CurrentLimit) -> dict[str, Any]:
    """Return a limit and where it stands. Without an `id`, each has a standing of its own."""
    declared, until = current.declared, current.declared.raise_until
    nowhere = dict.fromkeys(_OF_A_STANDING)
    return {
        "scope": declared.scope,
        "id": declared.id,
        "period": declared.period,
        "action": declared.action,
        "limit_credits": format_credits(declared.microcredits),
        **(standing_data(current.standing) if current.standing else nowhere),
        "warn_at": list(declared.warn_at),
        "raise_until": iso(until) if until else None,
    }


def standing_text(standing: LimitStanding) -> str:
    """Return where a limit stands: project web per month: 480 of 500 credits used, 20 left."""
    if standing.cannot_count:
        return f"{standing.key}: not counted, because its account counts {COUNTS_MAX} limits"
    drawn, limit = amount_text(standing.drawn_microcredits), standing.limit_microcredits
    parts = [f"{drawn} of {credits_text(limit)} used"]
    if standing.held_microcredits:
        parts.append(f"{amount_text(standing.held_microcredits)} reserved")
    parts.append(f"{amount_text(standing.room_microcredits)} left")
    if standing.resets_at is not None:
        parts.append(f"resets at {time_text(standing.resets_at)}")
    if not standing.stops:
        parts.append("only warns")
    return f"{standing.key}: {', '.join(parts)}"
