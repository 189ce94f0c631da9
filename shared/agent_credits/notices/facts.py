"""The facts of a notice, labelled and worded once for every channel that people read.

A fact is made from the notice's `data`, which machines read. A name that is not known here is shown
as it is, with its unit, so a new type of notice needs no change here.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Any, Final, get_args

from msgspec import Struct

from agent_credits.ledger.reloads import DeclineCause
from agent_credits.notices.reload_declines import decline_in_words
from agent_credits.values.display import (
    count_text,
    decimal_credits_text,
    money_text,
    time_text,
)
from agent_credits.values.principals import Principal

# Labels that are clearer than the member's own name.
_LABELS: Final = {
    "auto_reload": "Auto-reload",
    "available_credits": "Left",
    "burned_1_day_credits": "Burned in 1 day",
    "burned_30_days_credits": "Burned in 30 days",
    "burned_7_days_credits": "Burned in 7 days",
    "exhausted_on": "Lasts until",
    "grant_id": "Grant",
    "percent": "Warning level",
    "paused_runs_count": "Paused runs",
    "principal": "Account",
    "project_id": "Project",
    "provider": "Model provider",
    "reload_id": "Reload",
    "resets_at": "Refills",
    "reserved_credits": "Reserved",
    "run_id": "Run",
    "shortfall_credits": "Short by",
    "spent_percent": "Percent spent",
    "team_id": "Team",
    "trigger": "Started by",
}
# Its team may still have a plan: the plan of an enterprise, for example, grants no credits.
_NEVER_REFILLS: Final = "never; no plan refills this account"


class Fact(Struct, frozen=True):
    """An instant stays one, because some channels show it in the reader's own time zone."""

    label: str
    value: str | datetime

    @property
    def text(self) -> str:
        return time_text(self.value) if isinstance(self.value, datetime) else self.value


def all_facts(data: Mapping[str, Any], without: Iterable[str]) -> Iterator[Fact]:
    """Yield a fact for each member that is not a list, and for the members of each object."""
    for name, value in data.items():
        if name in without or is_said_elsewhere(name, data):
            continue
        if name == "auto_reload" or not isinstance(value, dict):
            yield from facts(data, name)
        else:
            nested = {f"{name}.{member}": inner for member, inner in value.items()}
            yield from facts(nested, *nested)


def facts(data: Mapping[str, Any], *names: str) -> Iterator[Fact]:
    """Yield the facts of these names, in this order; what the data does not hold is left out."""
    for name in names:
        value = _value(name, data)
        if value is not None:
            yield Fact(label_of(name, data), value)


def pool_facts(data: Mapping[str, Any]) -> Iterator[Fact]:
    """Yield what is left in each pool of the data, labelled with the pool's name."""
    pools = data.get("pools")
    for pool in pools if isinstance(pools, list) else []:
        if isinstance(pool, dict) and "pool" in pool:
            left = str(pool.get("remaining_credits", pool.get("available_credits", "?")))
            text = "empty" if left == "0" else f"{decimal_credits_text(left)} left"
            yield Fact(str(pool["pool"]), text)


def fact_lines(facts: Iterable[Fact]) -> list[str]:
    """Return a line for each fact, with the values below each other."""
    rows = [(f"{fact.label}:", fact.text) for fact in facts]
    width = max((len(label) for label, _ in rows), default=0)
    return [f"{label:<{width}} {text}" for label, text in rows]


def step_lines(fix: Iterable[str]) -> list[str]:
    """Return what to do, one step per line, under its heading."""
    return ["What to do now:", *(f"- {step}" for step in fix)]


def account_text(principal: Principal, team_id: str) -> str:
    """Return the account with its team: "user:ana of team acme", "team:bigcorp"."""
    if principal.kind == "team" or not team_id:
        return str(principal)
    return f"{principal} of team {team_id}"


def instant_of(text: str) -> datetime | None:
    """Read an RFC 3339 time; None for any other text."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    # An instant within a day of the ends of the calendar may not exist in UTC.
    if instant.tzinfo is None or not MINYEAR < instant.year < MAXYEAR:
        return None
    return instant


def is_said_elsewhere(name: str, data: Mapping[str, Any]) -> bool:
    """Return whether another fact includes this one, or makes it irrelevant."""
    match name:
        case "auto_reload" | "resets_at" if data.get("cause") == "limit_reached":
            # Neither a reload nor a refill makes room under a limit.
            return True
        case "limits":
            return bool(data[name] == [data.get("limit")])
        case "cause":
            # Why there was no reload.
            return isinstance(data.get("auto_reload"), dict)
        case "threshold_credits" | "percent_of_credits":
            return "threshold" in data
        case "directive":
            return "task_state" in data
        case "percent_left":
            return "available_credits" in data
        case _:
            # How many a list holds.
            return name.endswith("_count") and isinstance(
                data.get(name.removesuffix("_count")), list
            )


def label_of(name: str, data: Mapping[str, Any]) -> str:
    """Return the label of a member of the data."""
    if name in _LABELS:
        return _LABELS[name]
    for unit in ("_cents", "_credits", "_seconds", "_at"):
        # Without its unit a name may be that of another fact.
        if name.removesuffix(unit) not in data:
            name = name.removesuffix(unit)
    *words, last = name.replace(".", ": ").replace("_", " ").split(" ")
    return _sentence(" ".join([*words, "ID" if last == "id" else last]))


def _value(name: str, data: Mapping[str, Any]) -> str | datetime | None:
    value = data.get(name)
    match value:
        case None:
            return _NEVER_REFILLS if name == "resets_at" and name in data else None
        case bool():
            return "yes" if value else "no"
        case int():
            return _number(name, value, data.get("currency"))
        case dict() if name == "auto_reload":
            return _auto_reload(value, data.get("cause"))
        case list() if name == "pools":
            return ", ".join(f"{fact.label} {fact.text}" for fact in pool_facts(data))
        case dict() | list():
            return None
        case "0" if name == "shortfall_credits":
            return None
        case str() if name == "trigger":
            return _trigger(value, data.get("trigger_id"))
        case str() if name == "cause":
            return _sentence(_cause(value))
        case str() if name == "threshold":
            return _threshold(value, data.get("percent_of_credits"))
        case str() if name == "available_credits" and isinstance(data.get("percent_left"), int):
            return f"{decimal_credits_text(value)} ({data['percent_left']}%)"
        case str() if name == "credits" or name.endswith("_credits"):
            return decimal_credits_text(value)
        case str():
            return instant_of(value) or value
        case _:
            return str(value)


def _number(name: str, value: int, currency: object) -> str:
    if name.endswith("_cents") and isinstance(currency, str):
        return money_text(value, currency)
    if name.endswith("_seconds"):
        return count_text(value, "second")
    if name.startswith("percent") or name.endswith("percent"):
        return f"{value}%"
    return f"{value:,}"


def _threshold(threshold: str, percent_of: object) -> str:
    if not threshold.endswith("%"):
        return decimal_credits_text(threshold)
    if not isinstance(percent_of, str):
        return threshold
    return f"{threshold} of {decimal_credits_text(percent_of)}"


def _trigger(kind: str, trigger_id: object) -> str:
    words = "team API key" if kind == "team_api_key" else kind
    return f"{words} {trigger_id}" if isinstance(trigger_id, str) else words


def _auto_reload(auto_reload: Mapping[str, Any], cause_of_failure: object) -> str:
    state, cause = str(auto_reload.get("state")), auto_reload.get("cause") or cause_of_failure
    if state == "off" or cause not in get_args(DeclineCause):
        return state
    return f"{state} ({_cause(str(cause))})"


def _cause(cause: str) -> str:
    known = next((decline for decline in get_args(DeclineCause) if decline == cause), None)
    return decline_in_words(known) if known else cause.replace("_", " ")


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}"
