"""The figures as tables on the terminal."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from agent_credits_cli.tables import table
from tests.benchmarks.cold_start import ColdStarts
from tests.benchmarks.end_to_end import EndToEnd
from tests.benchmarks.gates import Gate
from tests.benchmarks.modelled import Modelled
from tests.benchmarks.spanned_limit import SpannedRate
from tests.benchmarks.throughput import Rate, best_rate
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
        "design",
        ">accounts",
        ">events a batch",
        ">warm",
        ">cold",
        title="Round trips in a row, fewest to most",
    )
    for depth in depths:
        listing.add_row(
            depth.design,
            f"{depth.accounts:,}",
            f"{depth.events_per_batch:,}",
            _range(depth.warm_min, depth.warm_max),
            _range(depth.cold_min, depth.cold_max),
        )
    return listing


def gate_table(gates: Iterable[Gate]) -> Table:
    listing = table("what must hold", ">figure", ">bound", "", title="Gates")
    for gate in gates:
        bound = f"{'≥' if gate.is_least else '≤'} {gate.bound:g}"
        listing.add_row(gate.name, f"{gate.figure:.4g}", bound, "ok" if gate.holds else "BROKEN")
    return listing


def rate_table(rates: Iterable[Rate]) -> Table:
    listing = table(
        "store",
        "network",
        "design",
        ">accounts",
        ">a batch",
        ">workers",
        ">events/s",
        ">races lost",
        ">client CPU",
        title="Events per second",
    )
    for rate in rates:
        listing.add_row(
            rate.store,
            rate.network.title,
            rate.design,
            f"{rate.accounts:,}",
            f"{rate.events_per_batch:,}",
            str(rate.workers),
            f"{rate.events_per_second:,.0f}",
            f"{rate.races_lost:,}",
            f"{rate.cpu_microseconds:,.0f} µs",
        )
    return listing


def spanned_table(rates: Iterable[SpannedRate]) -> Table:
    listing = table(
        ">a batch",
        ">workers",
        ">events/s",
        ">commits/s",
        ">transactions lost",
        ">events that came back",
        title="Members under one limit of their team, in virtual time",
    )
    for rate in rates:
        listing.add_row(
            f"{rate.events_per_batch:,}",
            str(rate.workers),
            f"{rate.events_per_second:,.0f}",
            f"{rate.commits_per_second:,.0f}",
            f"{rate.share_lost:.0%}",
            f"{rate.came_back:,}",
        )
    return listing


def advantage_table(rates: Sequence[Rate]) -> Table:
    listing = table(
        "network",
        ">agent-credits, events/s",
        ">transaction-1, events/s",
        ">times",
        title="One account, each design at its best number of workers",
    )
    for network in dict.fromkeys(rate.network for rate in rates):
        ours, theirs = (
            best_rate(rates, design, network).events_per_second
            for design in ("agent-credits", "transaction-1")
        )
        listing.add_row(network.title, f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.1f}")
    return listing


def model_table(modelled: Iterable[Modelled]) -> Table:
    listing = table(
        ">a batch",
        "design",
        ">one account, events/s",
        ">DynamoDB",
        ">all in, per million",
        title="Modelled on AWS's limits and prices",
    )
    for each in modelled:
        listing.add_row(
            f"{each.events_per_batch:,}",
            each.design,
            f"{each.ceiling_per_second:,.0f}",
            f"${each.dollars_per_million.dynamodb:.2f}",
            f"${each.total_dollars_per_million:.2f}",
        )
    return listing


def end_to_end_table(measured: EndToEnd) -> Table:
    listing = table("end to end", ">", title="The whole stack")
    for passage in measured.passages:
        listing.add_row(
            f"{passage.deliveries:,} deliveries, {passage.pack} in a message",
            f"{passage.deliveries_per_second:,.0f}/s",
        )
    latency = measured.latency
    for name, milliseconds in (
        ("p50", latency.p50_milliseconds),
        ("p95", latency.p95_milliseconds),
        ("p99", latency.p99_milliseconds),
    ):
        listing.add_row(f"from SendMessage to notice, {name}", f"{milliseconds:,.0f} ms")
    return listing


def cold_start_table(measured: ColdStarts) -> Table:
    listing = table(
        "function",
        ">instructions",
        ">import",
        ">as built",
        ">first event",
        ">zip",
        ">as built",
        title="Cold start, with byte code and as built",
    )
    for start in measured.starts:
        event = start.with_byte_code.first_event_milliseconds
        listing.add_row(
            start.function,
            "" if start.instructions is None else f"{start.instructions / 1e6:,.0f} M",
            f"{start.with_byte_code.import_milliseconds:,.0f} ms",
            f"{start.as_built.import_milliseconds:,.0f} ms",
            "" if event is None else f"{event:,.1f} ms",
            f"{start.zip_bytes_with_byte_code / 1_000:,.0f} kB",
            f"{start.zip_bytes_as_built / 1_000:,.0f} kB",
        )
    return listing


def _range(fewest: int, most: int) -> str:
    return str(fewest) if fewest == most else f"{fewest} to {most}"
