"""A limit as machines and as people read it: which runs it is of, and where it stands.

The words are made from the limit's data, as a notice has it, so that every channel words it alike.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeGuard

from agent_credits.billing.limit_standings import CurrentLimit
from agent_credits.ledger.limits import LimitStanding
from agent_credits.notices.facts import Fact, instant_of
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import decimal_credits_text, time_text

_ADJECTIVES: Final = {"day": "daily ", "week": "weekly ", "month": "monthly "}
# What a limit's amounts in credits are, beside how much it allows.
_AMOUNTS: Final = {"used": "used", "reserved": "reserved", "previous": "raised from"}


def standing_to_json(standing: LimitStanding) -> dict[str, Any]:
    """Return where a limit stands, as a notice's data holds it."""
    key = standing.key
    return {
        "scope": key.scope,
        "id": key.id,
        "period": key.period,
        "action": "stop" if standing.stops else "warn",
        "limit_credits": format_credits(standing.limit_microcredits),
        "used_credits": format_credits(standing.drawn_microcredits),
        "used_percent": standing.used_percent,
        "reserved_credits": format_credits(standing.held_microcredits),
        "resets_at": iso(standing.resets_at) if standing.resets_at else None,
    }


def current_limit_to_json(current: CurrentLimit) -> dict[str, Any]:
    """Return a declared limit and where it stands; without an `id`, each has its own standing."""
    declared, standing = current.declared, current.standing
    raise_until = declared.raise_until
    nowhere = dict.fromkeys(("used_credits", "used_percent", "reserved_credits", "resets_at"))
    return {
        "scope": declared.scope,
        "id": declared.id,
        "period": declared.period,
        "action": declared.action,
        "limit_credits": format_credits(declared.microcredits),
        **(standing_to_json(standing) if standing else nowhere),
        "left_credits": format_credits(standing.room_microcredits) if standing else None,
        "warn_at": list(declared.warn_at),
        "raise_until": iso(raise_until) if raise_until else None,
    }


def is_limit(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether this is the data of a limit."""
    names = ("scope", "period", "limit_credits")
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in names)


def limit_name(limit: Mapping[str, Any]) -> str:
    """Return what a sentence calls the limit: "the monthly limit of member ana"."""
    return f"the {_ADJECTIVES.get(limit['period'], '')}limit of {_whose(limit)}"


def limit_text(limit: Mapping[str, Any]) -> str:
    """Return how much the limit allows, and to whom: "100 credits per month for member ana"."""
    per = "" if limit["period"] == "run" else f" per {limit['period']}"
    return f"{decimal_credits_text(limit['limit_credits'])}{per} for {_whose(limit)}"


def limit_facts(data: Mapping[str, Any]) -> Iterator[Fact]:
    """Yield the facts of the limit in a notice's data, if it has one."""
    limit = data.get("limit")
    if not is_limit(limit):
        return
    yield Fact("Limit", limit_text(limit))
    for name, label in (("used", "Used"), ("reserved", "Reserved under it")):
        amount = _amount_text(limit, name)
        if amount:
            yield Fact(label, amount)
    resets_at = instant_of(str(limit.get("resets_at")))
    if resets_at is not None:
        yield Fact("Limit resets", resets_at)


def limit_row_text(limit: Mapping[str, Any]) -> str:
    """Return the limit in one line of a list: where it stands, or how it was raised."""
    amounts = ((words, _amount_text(limit, name)) for name, words in _AMOUNTS.items())
    parts = [f"{words} {amount}" for words, amount in amounts if amount]
    lifted_until = instant_of(str(limit.get("lifted_until")))
    if lifted_until is not None:
        parts.append(f"lifted until {time_text(lifted_until)}")
    if limit.get("action") == "warn":
        parts.append("only warns")
    return f"{limit_text(limit)}: {', '.join(parts)}" if parts else limit_text(limit)


def _amount_text(limit: Mapping[str, Any], name: str) -> str | None:
    credits_, percent = limit.get(f"{name}_credits"), limit.get(f"{name}_percent")
    if not isinstance(credits_, str) or (credits_ == "0" and percent is None):
        return None
    share = f" ({percent}%)" if isinstance(percent, int) else ""
    return f"{decimal_credits_text(credits_)}{share}"


def raise_fix(limit: Mapping[str, Any], team_id: str) -> str:
    """Return who can make room under a limit that refuses, and how."""
    return (
        f"An admin of team {team_id}: raise {limit_name(limit)} in the team's settings, or lift it "
        "for a while with raise_until."
    )


def reset_fix(limit: Mapping[str, Any]) -> list[str]:
    """Return the step to wait for the limit's next period, if it has one."""
    resets_at = instant_of(str(limit.get("resets_at")))
    return [f"Or wait: the limit resets on {time_text(resets_at)}."] if resets_at else []


def _whose(limit: Mapping[str, Any]) -> str:
    scope, limit_id = limit["scope"], limit.get("id")
    if scope == "run":
        # The same for every run, whichever one is at it.
        return "each run"
    whose = f"{scope} {limit_id}" if limit_id else f"each {scope}"
    return f"each run of {whose}" if limit["period"] == "run" else whose
