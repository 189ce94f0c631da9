"""A team's limits in words, as they are declared, and the differences between two lists of them."""

from collections.abc import Iterator
from typing import Final

from agent_credits.billing.limits import TeamLimit
from agent_credits.ledger.limits import LimitPeriod, LimitScope
from agent_credits.values.display import credits_text, time_text

NO_LIMIT: Final = "none"


def place_text(scope: LimitScope, limit_id: str | None, period: LimitPeriod) -> str:
    """Return what a limit limits: "project web per month", "each member per day", "each run"."""
    whose = f"{scope} {limit_id}" if limit_id else f"each {scope}"
    match scope, period:
        case "run", _:
            return "each run"
        case "team", _:
            return f"the team per {period}"
        case _, "run":
            return f"each run of {whose}"
        case _:
            return f"{whose} per {period}"


def limit_text(limit: TeamLimit) -> str:
    """Return what a limit allows: 500 credits, stop, warn at 70%, 90%, 100%."""
    parts = [credits_text(limit.microcredits), limit.action]
    if limit.warn_at:
        parts.append(f"warn at {', '.join(f'{percent}%' for percent in limit.warn_at)}")
    if limit.raise_until is not None:
        parts.append(f"raised until {time_text(limit.raise_until)}")
    return ", ".join(parts)


def limit_differences(
    before: tuple[TeamLimit, ...], after: tuple[TeamLimit, ...]
) -> Iterator[tuple[str, str | None, str]]:
    """Yield the limits that differ, each with its value before and after."""
    was = {limit.place: limit for limit in before}
    becomes = {limit.place: limit for limit in after}
    for place in {**was, **becomes}:
        one, other = was.get(place), becomes.get(place)
        if one != other:
            yield (
                f"limit of {place_text(*place)}",
                limit_text(one) if one else None,
                limit_text(other) if other else NO_LIMIT,
            )
