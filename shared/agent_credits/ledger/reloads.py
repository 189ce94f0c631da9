"""A reload: an automatic purchase of add-on credits, as it stands on the account's row.

The commit that finds too little, or that falls below the team's threshold, requests a reload on the
row itself; events that it would cover wait in the queue until it has been granted or declined. A
reload is resolved within a bounded time: after its deadline it counts as declined.
"""

from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from agent_credits.values.principals import Principal

DeclineCause = Literal[
    "auto_reload_off",
    "auto_reload_not_applicable",
    "spend_cap_reached",
    "payment_declined",
    "payment_method_missing",
    "suspended",
    "too_many_reloads",
    "payment_unavailable",
]

# How long a reload may be under way before the events that wait for it fail.
RELOAD_DEADLINE = timedelta(minutes=5)
# After a decline that settings cannot lift, waiting events fail and new ones do not ask again.
DECLINE_HOLD = timedelta(minutes=10)

# Rejections that hold until the team's settings change, however long that takes.
LIFTED_BY_SETTINGS: frozenset[DeclineCause] = frozenset(
    {"auto_reload_off", "payment_method_missing", "suspended"}
)


class ReloadTerms(Struct, frozen=True):
    """What a team's settings say about reloading this account, as known when it was billed.

    `pools` are those that the run draws, in order; a reload buys into one of them or not at all.
    """

    team_id: str
    settings_version: int
    pools: tuple[str, ...]
    threshold_microcredits: int
    reloads_max: int
    window: timedelta


class Reload(Struct, frozen=True):
    """The account's newest reload, while it is under way and while its decline holds.

    `pools` are those that the run which asked for it draws. `wanted_microcredits` is what the
    events that wait for it ask for together. `until` is the deadline of a requested reload and the
    end of a declined one's hold; None, if only the settings end it.
    """

    id: str
    team_id: str
    pools: tuple[str, ...]
    state: Literal["requested", "declined"]
    wanted_microcredits: int
    settings_version: int
    since: datetime
    until: datetime | None
    cause: DeclineCause | None = None


class ReloadRequest(Struct, frozen=True):
    """The message on ReloadsQueue."""

    reload_id: str
    team_id: str
    principal: Principal


def hold_after(cause: DeclineCause, now: datetime, month_ends_at: datetime) -> datetime | None:
    """Return until when a decline stands, unless the settings change first."""
    if cause in LIFTED_BY_SETTINGS:
        return None
    return month_ends_at if cause == "spend_cap_reached" else now + DECLINE_HOLD


Standing = Literal["able", "waiting"] | DeclineCause


def standing(
    reload: Reload | None,
    reloaded_at: tuple[datetime, ...],
    terms: ReloadTerms | None,
    now: datetime,
) -> Standing:
    """Tell whether a reload can be requested, is under way, or which decline stands in the way."""
    if terms is None:
        return "auto_reload_off"
    if reload is not None and reload.state == "requested" and reload.until is not None:
        if now < reload.until:
            return "waiting"
        # Its outcome is still open, but nobody waits for ever: a later event may ask again.
        if now < reload.until + DECLINE_HOLD:
            return "payment_unavailable"
    if reload is not None and reload.cause is not None and _holds(reload, terms, now):
        return reload.cause
    if sum(at > now - terms.window for at in reloaded_at) >= terms.reloads_max:
        return "too_many_reloads"
    return "able"


def _holds(reload: Reload, terms: ReloadTerms, now: datetime) -> bool:
    if terms.team_id != reload.team_id:
        # Another team's cap, card and settings.
        return False
    if terms.settings_version > reload.settings_version:
        return False
    return reload.until is None or now < reload.until


def packs_to_close(
    *, available: int, wanted: int, threshold: int, pack: int, affordable_packs: int
) -> int:
    """Return how many packs close the whole shortfall and land above the threshold.

    All amounts in microcredits. Where the cap does not afford as many, as many as it affords.
    """
    lacking = wanted + threshold - available
    needed = max(lacking // pack + 1, 1)
    return min(needed, affordable_packs)
