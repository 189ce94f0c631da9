"""A run that a limit refuses: where its limits stand after the event, and what can be done.

What the pools hold does not matter then, so nothing here speaks of buying credits.
"""

from typing import Final

from msgspec.structs import replace

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Move
from agent_credits.ledger.limits import COUNTS_MAX, LimitKey, LimitStanding
from agent_credits.ledger.reservations import line_of
from agent_credits.notices.limit_words import (
    limit_name,
    raise_fix,
    reset_fix,
    standing_to_json,
)
from agent_credits.values.display import credits_text

_RETRY: Final = (
    "To retry: once the limit has room, start the run again as a new run with new event IDs. This "
    "run stays failed."
)
_RETRY_AS_NEW_RUN: Final = (
    "To retry: start what is left to do as a new run with new event IDs, which the limit counts by "
    "itself. This run stays failed."
)


def limits_after(account: Account, entry: Entry) -> list[LimitStanding]:
    """Return where the limits of the entry's run stand after it, the one that refused first.

    Empty for an entry that no limit refused.
    """
    return [_after(standing, account, entry) for standing in entry.limits.standings]


def refusal_text(limit: LimitStanding) -> str:
    """Return why the limit refuses, to be read behind a colon."""
    name = limit_name(standing_to_json(limit))
    if limit.cannot_count:
        return f"{name} is one more than the account can count"
    if limit.room_microcredits:
        return f"{name} leaves only {credits_text(limit.room_microcredits)}"
    if limit.held_microcredits:
        return f"{name} leaves nothing beside what is reserved"
    return f"{name} is reached"


def refusal_fixes(limit: LimitStanding, team_id: str) -> list[str]:
    """Return what makes room under the limit, by whom, most direct first."""
    if limit.cannot_count:
        return [
            (
                f"An admin of team {team_id}: remove limits that are not needed. An account counts "
                f"at most {COUNTS_MAX:,} of them in their periods."
            )
        ]
    data, reserved = standing_to_json(limit), limit.held_microcredits
    steps = [raise_fix(data, team_id)]
    if reserved and limit.key.period != "run":
        steps.append(
            "The platform: wait until other runs finish. What they leave of the "
            f"{credits_text(reserved)} reserved under the limit makes room again."
        )
    return [*steps, *reset_fix(data)]


def retry_of(limit: LimitStanding) -> str:
    return _RETRY_AS_NEW_RUN if limit.key.period == "run" else _RETRY


def _after(standing: LimitStanding, account: Account, entry: Entry) -> LimitStanding:
    key = standing.key
    # A limit of each run is not counted: what the run draws is in its own entries.
    drawn = (
        entry.drawn_microcredits
        if key.period == "run"
        else sum(c.microcredits for c in entry.limits.counted if c.key == key)
    )
    held = sum(
        move.microcredits
        for move in entry.reservation.moves
        if _is_held_under(key, move, account, entry)
    )
    return replace(
        standing,
        drawn_microcredits=standing.drawn_microcredits + drawn,
        held_microcredits=max(standing.held_microcredits + held, 0),
    )


def _is_held_under(key: LimitKey, move: Move, account: Account, entry: Entry) -> bool:
    """Return whether what the move puts into a reservation, or takes out, counts under the limit.

    What a later entry of the same commit ended is no longer on the row; it counted.
    """
    if key.period == "run":
        return move.run_id == entry.identity.subject
    line = line_of(account.reservations, move.run_id)
    return not line or any(key in reservation.limits for reservation in line)
