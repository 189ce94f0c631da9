"""The figures as tables on the terminal."""

from collections.abc import Iterable

from rich.table import Table

from agent_credits_cli.tables import table
from tests.benchmarks.gates import Gate
from tests.benchmarks.write_path import Cost, Depth


def cost_table(costs: Iterable[Cost]) -> Table:
    listing = table(
        "workload",
        "design",
        ">events",
        ">write units",
        ">of which index",
        ">read units",
        ">requests",
        ">bytes stored",
        ">client CPU",
        title="Per event",
    )
    for cost in costs:
        listing.add_row(
            cost.workload,
            cost.design,
            f"{cost.events:,}",
            f"{cost.write_units:.3f}",
            f"{cost.index_write_units:.3f}",
            f"{cost.read_units:.3f}",
            f"{cost.requests:.3f}",
            f"{cost.stored_bytes:,.0f}",
            f"{cost.cpu_microseconds:,.0f} µs",
        )
    return listing


def depth_table(depths: Iterable[Depth]) -> Table:
    listing = table(
        "design", ">events a batch", ">warm", ">cold", title="Round trips in a row, fewest to most"
    )
    for depth in depths:
        listing.add_row(
            depth.design,
            f"{depth.events_per_batch:,}",
            _range(depth.warm_min, depth.warm_max),
            _range(depth.cold_min, depth.cold_max),
        )
    return listing


def gate_table(gates: Iterable[Gate]) -> Table:
    listing = table("what must hold", ">figure", ">bound", "", title="Gates")
    for gate in gates:
        bound = f"{'≥' if gate.is_least else '≤'} {gate.bound:g}"
        listing.add_row(gate.name, f"{gate.figure:.4g}", bound, "ok" if gate.holds else "PASSED")
    return listing


def _range(fewest: int, most: int) -> str:
    return str(fewest) if fewest == most else f"{fewest} to {most}"
