"""What the metrics say of reservations: what was reserved, what of it was drawn, who fell short."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from agent_credits.billing.directory import Directory
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    NOW,
    body,
    finished,
    grant_change,
    open_account,
    pause,
    requested,
    settle,
    usage,
)
from tests.unit.reservation_world import NO_STEP, RESERVING, policy, requests


class Counted:
    """Ana with 500 credits, and the metrics of each batch of her events."""

    def __init__(self) -> None:
        self.rows = MemoryRows()
        settle(self.rows)
        self.rows.policies[RESERVING.version] = RESERVING
        open_account(self.rows, grant_change("g-1", credits="500"))
        self.debits = Debits(self.rows, Directory(self.rows), pause)

    def counts(self, *documents: dict[str, Any], now: datetime = NOW) -> tuple[int, int, int]:
        delivery = Delivery("m", body(*documents))
        counts = self.debits.debit([delivery], now=now, time_is_left=lambda: True).counts
        return (
            counts["CreditsReserved"],
            counts["CreditsDrawnOfReserved"],
            counts["RunsFailedWhileReserved"],
        )


@pytest.fixture
def ana() -> Counted:
    return Counted()


def test_a_reservation_is_counted_once_as_it_ends(ana: Counted) -> None:
    assert ana.counts(requested("r-1"), usage("u-1", "10.4")) == (0, 0, 0)
    assert ana.counts(finished("f-1")) == (75, 10, 0)
    assert ana.counts(finished("f-1")) == (0, 0, 0)


def test_one_that_expired_is_counted_with_the_next_commit_and_with_no_repeat(ana: Counted) -> None:
    ana.counts(requested("r-1"))
    later = NOW + timedelta(hours=2)

    assert ana.counts(usage("u-2", "1", run="run-2"), now=later) == (75, 0, 0)
    assert ana.counts(usage("u-2", "1", run="run-2"), now=later) == (0, 0, 0)


def test_children_are_part_of_what_their_root_reserved(ana: Counted) -> None:
    ana.counts(
        requested("r-1", run="root"),
        requested("r-2", run="child", credits="40", parent_run_id="root"),
        usage("u-1", "30", run="child"),
    )

    assert ana.counts(finished("f-2", run="child")) == (0, 0, 0)
    assert ana.counts(finished("f-1", run="root")) == (75, 30, 0)


def test_what_was_overdrawn_was_not_drawn_of_what_was_reserved(ana: Counted) -> None:
    finishing = policy(**NO_STEP)
    ana.rows.policies[finishing.version] = finishing
    ana.counts(requested("r-1", reserve="estimate", credits="75"), usage("u-1", "90"))

    assert ana.counts(finished("f-1")) == (75, 75, 0)


def test_only_requests_that_reservations_alone_kept_from_starting_are_counted(
    ana: Counted,
) -> None:
    assert ana.counts(*requests(6)) == (0, 0, 0)

    # 50 are left, so with what the six hold both of 75 would have started, and one of 501 not.
    assert ana.counts(*requests(2, first=7), *requests(1, "501", first=9)) == (0, 0, 2)
    # A run fails once, and usage that falls short is no request.
    assert ana.counts(requested("r-7b", run="run-7", credits="75")) == (0, 0, 0)
    assert ana.counts(usage("u-8", "60", run="run-8"), usage("u-9", "1", run="x")) == (0, 0, 0)


def test_a_child_that_its_parent_cannot_pay_for_is_no_false_rejection(ana: Counted) -> None:
    ana.counts(requested("r-1", run="root"))

    short = requested("r-2", run="child", credits="80", parent_run_id="root")

    assert ana.counts(short) == (0, 0, 0)
