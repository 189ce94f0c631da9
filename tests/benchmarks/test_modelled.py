"""What is written as the model's result is what the written counts and today's prices come to."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.benchmarks.cost_model import read_prices
from tests.benchmarks.counts import Counts
from tests.benchmarks.log_bytes import LogBytes
from tests.benchmarks.modelled import model
from tests.benchmarks.report import RESULTS_FILE

# The counts are written with four digits, and a full run models them with all.
ROUNDING = 0.005


def test_the_written_model_is_of_the_written_counts_and_todays_prices() -> None:
    """Where this fails, run `make bench-model`."""
    results: dict[str, Any] = json.loads(RESULTS_FILE.read_text())
    counts = TypeAdapter(Counts).validate_python(results["counts"])
    log_bytes = TypeAdapter(LogBytes).validate_python(results["log_bytes"])
    announce_cpu = {int(n): cpu for n, cpu in results["announce_cpu_microseconds"].items()}

    modelled = model(counts, announce_cpu, log_bytes, read_prices())

    assert len(modelled) == len(results["modelled"]) > 0
    for fresh, written in zip(modelled, results["modelled"], strict=True):
        for figures in ("dollars_per_million", "ledger_class"):
            expected = asdict(fresh)[figures]
            assert written[figures] == pytest.approx(expected, rel=ROUNDING)
