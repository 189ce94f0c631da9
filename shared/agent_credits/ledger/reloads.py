"""A reload, an automatic purchase of add-on credits, as the account's row holds it.

A commit that finds too few credits, or falls below the team's threshold, requests a reload on the
row. The events that it would cover wait in the queue until it is granted or declined. After its
deadline a reload counts as declined.
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

# The events that wait for a reload fail when it takes longer than this.
RELOAD_DEADLINE = timedelta(minutes=5)
# For this long after a decline, waiting events fail and new events do not request a reload.
DECLINE_HOLD = timedelta(minutes=10)

# Declines that hold until the team's settings change, however long that takes.
LIFTED_BY_SETTINGS: frozenset[DeclineCause] = frozenset(
    {"auto_reload_off", "payment_method_missing", "suspended"}
)


class ReloadTerms(Struct, frozen=True):
    """The team's settings for reloads of this account, as they were when the event was billed.

    `pools` are those that the run draws, in order. A reload buys into one of them or not at all.
    """

    team_id: str
    settings_version: int
    pools: tuple[str, ...]
    threshold_microcredits: int
    reloads_max: int
    window: timedelta


class Reload(Struct, frozen=True):
    """The account's newest reload, while it is under way or its decline holds.

    `pools`: what the run that asked for it draws. `wanted_microcredits`: what the events that wait
    for it need together. `until`: the deadline of a requested reload, or when a decline stops
    holding; None if only the settings end it.
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
    """The message on ReloadsQueue.

    `follows_up`: the reload was declined, and its payment may still be open. It is asked about
    until it has ended, apart from the team's other reloads.
    """

    reload_id: str
    team_id: str
    principal: Principal
    follows_up: bool = False


# How soon the payment provider is asked again about a payment whose outcome is unknown: at once, as
# long as events wait, and less and less often after that. A bank debit can take days.
ASK_AGAIN_SECONDS = 15
ASK_AGAIN_SECONDS_LONGEST = 900


def ask_again_seconds(request: ReloadRequest, receives: int) -> int:
    """Return when to ask again after a message was received this many times."""
    if not request.follows_up:
        return ASK_AGAIN_SECONDS
    return min(ASK_AGAIN_SECONDS << min(receives, 10), ASK_AGAIN_SECONDS_LONGEST)


def hold_after(cause: DeclineCause, now: datetime, month_ends_at: datetime) -> datetime | None:
    """Return until when a decline holds, unless the settings change first."""
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
    """Return whether a reload can be requested, is under way, or why there is none."""
    if terms is None:
        return "auto_reload_off"
    if reload is not None and reload.state == "requested" and reload.until is not None:
        if now < reload.until:
            return "waiting"
        # Its outcome is still unknown. After the hold, a later event may request another reload.
        if now < reload.until + DECLINE_HOLD:
            return "payment_unavailable"
    if reload is not None and reload.cause is not None and _holds(reload, terms, now):
        return reload.cause
    if sum(at > now - terms.window for at in reloaded_at) >= terms.reloads_max:
        return "too_many_reloads"
    return "able"


def _holds(reload: Reload, terms: ReloadTerms, now: datetime) -> bool:
    if terms.team_id != reload.team_id:
        # This team has another cap, card and settings.
        return False
    if terms.settings_version > reload.settings_version:
        return False
    return reload.until is None or now < reload.until


def packs_to_close(
    *, available: int, wanted: int, threshold: int, pack: int, affordable_packs: int
) -> int:
    """Return how many packs close the whole shortfall and end above the threshold.

    All amounts are microcredits. Returns fewer packs if the cap does not afford as many.
    """
    lacking = wanted + threshold - available
    needed = max(lacking // pack + 1, 1)
    return min(needed, affordable_packs)
