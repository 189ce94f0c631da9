"""`make bench` and `make bench-quick`: measure, show, and hold the figures to their bounds.

The quick one counts only what is gated on. The full one also times, models and measures end to end,
holds the model to its bound, and writes docs/benchmarks.json, the plots, and the figures of
README.md and the pages. `make bench-model` measures nothing but log lines: it applies today's
prices and template to the written counts, and writes the same files.
"""

import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from agent_credits_cli.tables import AsJson, err, out, print_json, progress
from tests.benchmarks import cold_start
from tests.benchmarks import rates as timed
from tests.benchmarks.cost_model import read_prices
from tests.benchmarks.counts import Counts, Plan, full_plan, quick_plan, take_counts
from tests.benchmarks.end_to_end import measure_end_to_end
from tests.benchmarks.false_rejections import count_false_rejections
from tests.benchmarks.gates import (
    Gate,
    gate_on_cold_start,
    gate_on_hot_account,
    gates_on_counts,
    gates_on_spanned_rates,
)
from tests.benchmarks.idle_stack import idle_stacks
from tests.benchmarks.log_bytes import measure_log_bytes
from tests.benchmarks.modelled import announce_cpu_microseconds, model
from tests.benchmarks.report import RESULTS_FILE, ROOT, refresh_pages
from tests.benchmarks.results import document, modelled_part
from tests.benchmarks.spanned_limit import (
    CASES,
    QUICK_CASES,
    SECONDS,
    SECONDS_QUICK,
    spanned_rates,
)
from tests.benchmarks.stores import dynamodb_client
from tests.benchmarks.tables import (
    advantage_table,
    cold_start_table,
    cost_table,
    depth_table,
    end_to_end_table,
    gate_table,
    model_table,
    rate_table,
    spanned_table,
)
from tests.conformance.ministack import ministack
from tests.template import load_template

FAILED_EXIT_STATUS = 1
PLOTTING = (ROOT / ".tools/plots/bin/python", ROOT / "tests/benchmarks/plots.py")
PLOTS_FOLDER = ROOT / "docs/benchmarks"
PLOTTING_SECONDS_MAX = 120

# SAM's translator counts what it does for its makers, and warns that nobody fetched the counts.
logging.getLogger("samtranslator.metrics").setLevel(logging.ERROR)


def bench(
    quick: Annotated[bool, typer.Option(help="Only the counts that are gated on.")] = False,
    only_model: Annotated[
        bool, typer.Option("--model", help="Only the model, by today's prices and template.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure on emulators of its own; exit with 1 where a bound does not hold."""
    began = time.monotonic()
    if only_model:
        gates, results = _model_again(as_json)
    else:
        gates, results = _measure_quickly(as_json) if quick else _measure_all(as_json)
    if as_json:
        print_json(results)
    err().print(f"measured in {time.monotonic() - began:.0f} s")
    broken = [gate.name for gate in gates if not gate.holds]
    if broken:
        err().print(f"{len(broken)} bounds do not hold: {'; '.join(broken)}", soft_wrap=True)
        raise typer.Exit(FAILED_EXIT_STATUS)


Measured = tuple[list[Gate], dict[str, Any]]


def _measure_quickly(as_json: bool) -> Measured:
    counts = _counted(quick_plan())
    with _steps("limit of a team", len(QUICK_CASES)) as begin:
        spanned = spanned_rates(QUICK_CASES, SECONDS_QUICK, begin)
    gates = [*gates_on_counts(counts), *gates_on_spanned_rates(spanned)]
    uncounted_because = cold_start.why_uncounted()
    if uncounted_because is None:
        with _steps("cold start", cold_start.COUNT_STEPS) as begin:
            gates.append(gate_on_cold_start(cold_start.count_share_of_least(begin)))
    else:
        err().print(f"skipped: counting a cold start: {uncounted_because}")
    if not as_json:
        _show_counts(counts)
        out().print(spanned_table(spanned))
        out().print(gate_table(gates))
    return gates, {**asdict(counts), "gates": [asdict(gate) for gate in gates]}


def _model_again(as_json: bool) -> Measured:
    results = json.loads(RESULTS_FILE.read_text())
    counts = TypeAdapter(Counts).validate_python(results["counts"])
    announce_cpu = {int(n): cpu for n, cpu in results["announce_cpu_microseconds"].items()}
    prices, log_bytes = read_prices(), measure_log_bytes()
    modelled = model(counts, announce_cpu, log_bytes, prices)
    gate = gate_on_hot_account(modelled)
    if not as_json:
        out().print(model_table(modelled))
        out().print(gate_table([gate]))
    idle = idle_stacks(load_template(), prices)
    results |= modelled_part(modelled, log_bytes, prices, idle)
    publish(results)
    return [gate], results


def _measure_all(as_json: bool) -> Measured:
    load_before, *_ = os.getloadavg()
    counts = _counted(full_plan())
    prices, announce_cpu = read_prices(), announce_cpu_microseconds()
    log_bytes = measure_log_bytes()
    modelled = model(counts, announce_cpu, log_bytes, prices)
    with _steps("timing", timed.steps()) as begin:
        rates = timed.take_rates(begin)
    end_to_end = measure_end_to_end()
    with _steps("cold start", cold_start.steps()) as begin:
        cold_starts = cold_start.measure_cold_starts(begin)
    false_rejections = count_false_rejections()
    with _steps("limit of a team", len(CASES)) as begin:
        spanned = spanned_rates(CASES, SECONDS, begin)
    gates = [
        *gates_on_counts(counts),
        *gates_on_spanned_rates(spanned),
        gate_on_hot_account(modelled),
    ]
    if cold_starts.share_of_least is not None:
        gates.append(gate_on_cold_start(cold_starts.share_of_least))
    if not as_json:
        _show_counts(counts)
        out().print(rate_table(rates.rates))
        out().print(advantage_table(rates.rates))
        for what, why in rates.skipped.items():
            out().print(f"skipped: {what}: {why}\n")
        out().print(model_table(modelled))
        out().print(spanned_table(spanned))
        out().print(end_to_end_table(end_to_end))
        out().print(cold_start_table(cold_starts))
        out().print(gate_table(gates))
    results = document(
        on=datetime.now(UTC).date(),
        load_before=load_before,
        counts=counts,
        modelled=modelled,
        announce_cpu=announce_cpu,
        log_bytes=log_bytes,
        prices=prices,
        idle_stacks=idle_stacks(load_template(), prices),
        rates=rates,
        end_to_end=end_to_end,
        cold_starts=cold_starts,
        false_rejections=false_rejections,
        spanned_rates=spanned,
        gates=gates,
    )
    publish(results)
    return gates, results


def publish(results: dict[str, Any]) -> None:
    """Write the results, draw the plots, and bring the pages up to date."""
    RESULTS_FILE.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    refresh_pages(results)
    draw_plots(PLOTS_FOLDER)


def draw_plots(folder: Path) -> None:
    """Draw the plots of the written results into the folder."""
    subprocess.run([*PLOTTING, folder], check=True, timeout=PLOTTING_SECONDS_MAX)


def _counted(plan: Plan) -> Counts:
    with (
        tempfile.TemporaryDirectory() as folder,
        ministack(Path(folder)) as endpoint_url,
        _steps("counting", plan.steps) as begin,
    ):
        return take_counts(dynamodb_client(endpoint_url), plan, begin)


@contextmanager
def _steps(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar; what is yielded is called with the title of each step as it begins."""
    with progress() as bar:
        task = bar.add_task(what, total=total)
        begun = 0

        def begin(title: str) -> None:
            nonlocal begun
            bar.update(task, description=title, completed=begun)
            begun += 1

        yield begin
        bar.update(task, description=what, completed=begun)


def _show_counts(counts: Counts) -> None:
    costs: Iterable[Any] = (*counts.costs, *counts.few_and_many_accounts)
    out().print(cost_table(costs))
    out().print(depth_table(counts.depths))


if __name__ == "__main__":
    typer.run(bench)
