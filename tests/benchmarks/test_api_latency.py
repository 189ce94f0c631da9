"""What a request takes, in calls to DynamoDB and in the time that those take together."""

import pytest

from tests.benchmarks.api_latency import (
    CALL_SECONDS,
    COMPUTING_SECONDS,
    CONTENTION_SECONDS,
    in_virtual_time,
    mismatches,
)

# What DynamoDB takes on one item, in writes of up to 1 KB.
WRITES_PER_SECOND_MAX = 1_000


def test_a_warm_reservation_is_two_round_trips_one_after_the_other() -> None:
    found, _ = in_virtual_time(1, rounds=3)

    assert found.statuses == {201: 3}
    assert found.seconds == pytest.approx([2 * CALL_SECONDS + COMPUTING_SECONDS] * 3)


@pytest.mark.parametrize("clients", [10, 50])
def test_clients_of_one_account_are_all_answered_in_time_and_exactly(clients: int) -> None:
    found, rows = in_virtual_time(clients, rounds=3)

    assert found.statuses == {201: 3 * clients}
    assert found.seconds[-1] < CONTENTION_SECONDS
    assert mismatches(rows) == 0
    writes_per_request = rows.writes / (4 * clients)
    assert writes_per_request * found.rate < WRITES_PER_SECOND_MAX
