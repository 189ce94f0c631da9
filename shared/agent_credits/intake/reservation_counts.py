"""What was reserved beside what was drawn, so that an operator sees estimates that are too high.

Only the roots of trees are counted: what children hold is part of what their root reserved.
"""

from collections.abc import Iterable, Sequence

from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, reservations_expiry_identity
from agent_credits.values.credits import MICROCREDITS_PER_CREDIT


def expired_in(account: Account) -> tuple[Entry, ...]:
    """Return the entry of the reservations that had expired when this row was committed, if any."""
    identity = reservations_expiry_identity(account.principal, account.version)
    return tuple(entry for entry in account.entries if entry.identity == identity)


def reservation_counts(entries: Sequence[Entry]) -> dict[str, int]:
    """Return the metrics of these new entries, in whole credits, rounded.

    `CreditsDrawnOfReserved` leaves out what a run drew past its reservation.
    """
    ended = [
        ended
        for entry in entries
        for ended in entry.reservation.ended
        if ended.parent_run_id is None
    ]
    return {
        "CreditsReserved": _whole(root.reserved_microcredits for root in ended),
        "CreditsDrawnOfReserved": _whole(
            root.drawn_microcredits - root.overdrawn_microcredits for root in ended
        ),
        "RunsFailedWhileReserved": sum(map(_fails_for_what_others_hold, entries)),
    }


def _fails_for_what_others_hold(entry: Entry) -> bool:
    """Tell whether a request failed its run, and would have been accepted without reservations."""
    is_request = entry.fails_run and entry.type == "agent_run.requested"
    is_of_the_pools = entry.reservation.parent_run_id is None
    return is_request and is_of_the_pools and entry.lacks_only_what_is_reserved


def _whole(microcredits: Iterable[int]) -> int:
    return (sum(microcredits) + MICROCREDITS_PER_CREDIT // 2) // MICROCREDITS_PER_CREDIT
