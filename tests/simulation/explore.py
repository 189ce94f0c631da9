"""`make explore`: visit every state of every model, and print how many there are.

Each model is explored in a process of its own, so that its memory is known and then given back.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from multiprocessing import get_context
from typing import Any

from agent_credits.commit.changes import Change, RunChange
from agent_credits.payments.reload_saga import ReloadSaga
from tests.simulation import (
    limit_model,
    reload_saga_model,
    reservation_model,
    write_protocol_model,
)
from tests.simulation.limit_model import LimitModel
from tests.simulation.reload_saga_model import IN_TIME, PRICE_CENTS, TOO_LATE, Begins
from tests.simulation.reservation_model import ReservationModel
from tests.unit.builders import finished, run_changes, usage

# On Linux it is counted in KiB.
KIB_PER_MIB = 1_024

USAGE = run_changes(usage("e1", "1"), usage("e2", "2"), usage("e3", "4", run="run-2"))
GIVES_BACK = run_changes(usage("e1", "1"), finished("e2", "error"), usage("e3", "4", run="run-2"))

ONE_ASKS: dict[str, Any] = {
    "deliveries": (3,),
    "clocks": (IN_TIME, TOO_LATE),
    "endings": ("paid", "declined", "processing"),
}
TWO_ASK: dict[str, Any] = {"deliveries": (2, 1), "clocks": (IN_TIME,), "endings": ("paid",)}
# Head-room for a second purchase, so that nothing but the protocol stands in its way.
ROOM_FOR_TWO: dict[str, Any] = {
    "deliveries": (3,),
    "clocks": (IN_TIME,),
    "endings": ("paid",),
    "cap_cents": 2 * PRICE_CENTS,
}


# A file is applied at any moment; head-room for the dearer pack of the next policy.
KIND_CHANGES: dict[str, Any] = {
    "deliveries": (2,),
    "clocks": (IN_TIME, TOO_LATE),
    "endings": ("paid", "declined"),
    "applies": "another kind",
}
POLICY_CHANGES = KIND_CHANGES | {"applies": "another policy", "cap_cents": 2 * PRICE_CENTS}
CAP_FALLS = KIND_CHANGES | {
    "endings": ("paid", "declined", "processing"),
    "applies": "a lower cap",
}


def asks_again(earlier: Begins) -> dict[str, Any]:
    """Return the bounds of an account that asks again while its earlier payment is open."""
    return {
        "deliveries": (1, 1),
        "clocks": (IN_TIME,),
        "endings": ("paid", "declined"),
        "cap_cents": 2 * PRICE_CENTS,
        "begins": earlier,
    }


def protocol(changes: list[RunChange], entries_full: int, *, overlaps: bool) -> int:
    model = write_protocol_model.Model(changes, entries_full=entries_full, overlaps=overlaps)
    return model.explore()


def reservations(
    changes: Sequence[Change],
    deliveries: tuple[int, ...],
    before: Sequence[Change] = reservation_model.FIRST,
    **bounds: Any,
) -> int:
    return ReservationModel(before, changes, deliveries=deliveries, **bounds).explore()


def limits(
    changes: Sequence[RunChange], deliveries: tuple[int, ...], later: datetime, **bounds: Any
) -> int:
    clocks = (limit_model.IN_TIME, later)
    return LimitModel(changes, deliveries=deliveries, clocks=clocks, **bounds).explore()


def saga(bounds: dict[str, Any]) -> int:
    return reload_saga_model.Model(ReloadSaga, **bounds).explore()


MODELS: Mapping[str, Callable[[], int]] = {
    "write protocol: usage": lambda: protocol(USAGE, 2, overlaps=True),
    "write protocol: usage and a run given back": lambda: protocol(GIVES_BACK, 1, overlaps=False),
    "reservation: it expires, or its run is settled": lambda: reservations(
        reservation_model.SETTLES, (1, 2, 1)
    ),
    "reservation: it expires, or its run ends in an error": lambda: reservations(
        reservation_model.FAILS, (1, 1, 1)
    ),
    "reservation: it expires, or is extended": lambda: reservations(
        reservation_model.EXTENDS, (1, 1, 1)
    ),
    "reservation: a child, and its parent's end": lambda: reservations(
        reservation_model.HAS_CHILD, (1, 1, 1)
    ),
    "reservation: a reload in between": lambda: reservations(
        reservation_model.RELOADED, (2, 1, 1), reservation_model.WAITS
    ),
    "reservation: extended before it is known": lambda: reservations(
        reservation_model.UNKNOWN_AT_FIRST, (1, 2, 1), []
    ),
    "reservation: one worker runs the code of before": lambda: reservations(
        reservation_model.MIXED, (2, 1, 1), [], one_is_old=True
    ),
    "limit: two accounts draw": lambda: limits(limit_model.DRAWS, (2, 2), limit_model.NEXT_DAY),
    "limit: a run is given back, in its period or later": lambda: limits(
        limit_model.GIVES_BACK, (1, 1, 1), limit_model.NEXT_DAY, before=limit_model.DRAWN
    ),
    "limit: a run that reserved is settled, or expires": lambda: limits(
        limit_model.SETTLES, (1, 1, 1), limit_model.EXPIRED, before=limit_model.RESERVED
    ),
    "limit: a reservation expires on an idle account": lambda: limits(
        limit_model.EXPIRES_IDLE, (1, 1, 1), limit_model.EXPIRED, before=limit_model.RESERVED
    ),
    "reload saga: one reload, in time or late": lambda: saga(ONE_ASKS),
    "reload saga: two reloads, a cap for one": lambda: saga(TWO_ASK),
    "reload saga: one reload, a cap for two": lambda: saga(ROOM_FOR_TWO),
    "reload saga: one reload, the kind changes": lambda: saga(KIND_CHANGES),
    "reload saga: one reload, the policy changes": lambda: saga(POLICY_CHANGES),
    "reload saga: one reload, the cap falls": lambda: saga(CAP_FALLS),
    "reload saga: asks again, an earlier payment made": lambda: saga(asks_again("made")),
    "reload saga: asks again, an earlier payment processing": lambda: saga(
        asks_again("processing")
    ),
    "reload saga: asks again, an earlier payment paid": lambda: saga(asks_again("paid")),
}


def main() -> int:
    sys.stdout.write(f"{'model':<56} {'states':>9} {'seconds':>8} {'peak MiB':>9}\n")
    # A fresh process for each, so that none is charged with what another one took.
    with ProcessPoolExecutor(mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for name, (states, seconds, mib) in zip(MODELS, pool.map(_explore, MODELS), strict=True):
            sys.stdout.write(f"{name:<56} {states:>9,} {seconds:>8.1f} {mib:>9,}\n")
            sys.stdout.flush()
    sys.stdout.write("No state breaks an invariant.\n")
    return 0


def _explore(name: str) -> tuple[int, float, int]:
    began = time.monotonic()
    states = MODELS[name]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // KIB_PER_MIB
    return states, time.monotonic() - began, peak


if __name__ == "__main__":
    sys.exit(main())
