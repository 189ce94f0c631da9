"""The results as one JSON document: what was measured, on what kind of machine, and the bounds."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from tests.benchmarks import postgres_server
from tests.benchmarks.cold_start import ColdStarts
from tests.benchmarks.cost_model import PriceFile
from tests.benchmarks.counts import Counts
from tests.benchmarks.end_to_end import EndToEnd
from tests.benchmarks.false_rejections import FalseRejections
from tests.benchmarks.gates import Gate
from tests.benchmarks.idle_stack import IdleStacks
from tests.benchmarks.log_bytes import LogBytes
from tests.benchmarks.modelled import Modelled
from tests.benchmarks.rates import Rates
from tests.benchmarks.spanned_limit import SpannedRate

SIGNIFICANT_DIGITS = 4
TOOLS = Path(__file__).parents[2] / "tools"
LIBRARIES = ("aws-lambda-powertools", "boto3", "botocore", "msgspec", "psycopg", "pydantic")


def document(
    *,
    on: date,
    load_before: float,
    counts: Counts,
    modelled: Sequence[Modelled],
    announce_cpu: dict[int, float],
    log_bytes: LogBytes,
    prices: PriceFile,
    idle_stacks: IdleStacks,
    rates: Rates,
    end_to_end: EndToEnd,
    cold_starts: ColdStarts,
    false_rejections: Sequence[FalseRejections],
    spanned_rates: Sequence[SpannedRate],
    gates: Iterable[Gate],
) -> dict[str, Any]:
    """Return it all, in an order and with a precision that make two runs easy to compare."""
    measured = {
        "measured_on": on.isoformat(),
        "machine": {**machine(), "load_before": load_before},
        "versions": versions(),
        "counts": asdict(counts),
        "announce_cpu_microseconds": announce_cpu,
        **modelled_part(modelled, log_bytes, prices, idle_stacks),
        "rates": [{**asdict(r), "events_per_second": r.events_per_second} for r in rates.rates],
        "skipped": rates.skipped,
        "end_to_end": asdict(end_to_end),
        "cold_starts": asdict(cold_starts),
        "false_rejections": [{**asdict(f), "share": f.share} for f in false_rejections],
        "spanned_rates": spanned_part(spanned_rates),
        "gates": [{**asdict(gate), "holds": gate.holds} for gate in gates],
    }
    rounded: dict[str, Any] = _rounded(measured)
    return rounded


def spanned_part(rates: Sequence[SpannedRate]) -> list[dict[str, Any]]:
    return [
        {
            **asdict(rate),
            "events_per_second": rate.events_per_second,
            "commits_per_second": rate.commits_per_second,
            "share_lost": rate.share_lost,
        }
        for rate in rates
    ]


def modelled_part(
    modelled: Sequence[Modelled], log_bytes: LogBytes, prices: PriceFile, idle_stacks: IdleStacks
) -> dict[str, Any]:
    """Return what is computed from the counts, the template and the prices, and from no clock."""
    part: dict[str, Any] = _rounded(
        {
            "modelled": [asdict(m) for m in modelled],
            "log_bytes": asdict(log_bytes),
            "prices": prices.model_dump(mode="json"),
            "idle_stacks": asdict(idle_stacks),
        }
    )
    return part


def machine() -> dict[str, Any]:
    """Return what matters of the machine, and nothing that names it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "memory_gb": round(memory / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    pins = (TOOLS / "ministack.txt").read_text().splitlines()
    (pin,) = [line for line in pins if line.startswith("ministack==")]
    found["ministack"] = pin.removeprefix("ministack==").split()[0]
    if postgres_server.why_unavailable() is None:
        found["postgresql"] = postgres_server.version()
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, dict):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value
