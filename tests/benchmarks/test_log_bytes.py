"""What is measured is what DebitRuns prints: a line for each commit, and the metrics."""

import json

import pytest

from tests.benchmarks.log_bytes import measure_log_bytes
from tests.benchmarks.report import RESULTS_FILE

# Of what the docs show: a change of the lines that matters is written again.
TOLERANCE = 0.1


def test_the_log_of_a_batch_costs_what_is_written() -> None:
    """Where this fails, run `make bench-model`."""
    written = json.loads(RESULTS_FILE.read_text())["log_bytes"]

    measured = measure_log_bytes()

    for size, size_in_bytes in measured.of_commit.items():
        assert size_in_bytes == pytest.approx(written["of_commit"][str(size)], rel=TOLERANCE)
        assert measured.of_events[size] == pytest.approx(
            written["of_events"][str(size)], rel=TOLERANCE
        )
    assert measured.of_metrics == pytest.approx(written["of_metrics"], rel=TOLERANCE)


def test_a_hundred_events_in_a_commit_share_one_line() -> None:
    measured = measure_log_bytes()

    assert measured.of_commit[100] / 100 < measured.of_commit[1] / 5
    assert measured.of_events[100] == pytest.approx(100 * measured.of_events[1], rel=0.05)
