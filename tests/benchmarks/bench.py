"""`make bench` and `make bench-quick`: measure, show, and hold the figures to their bounds."""

import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_credits_cli.tables import AsJson, err, out, print_json, progress
from agent_credits_cli.target import LOCAL_CLIENT_CONFIG, local_session
from tests.benchmarks.counts import Counts, Plan, full_plan, quick_plan, take_counts
from tests.benchmarks.gates import Gate, gates_on_counts
from tests.benchmarks.tables import cost_table, depth_table, gate_table
from tests.conformance.ministack import ministack

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

FAILED_EXIT_STATUS = 1


def bench(
    quick: Annotated[bool, typer.Option(help="Only what the gates on counts need.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the write path on an emulator of its own; exit with 1 where a bound is passed."""
    began = time.monotonic()
    with _emulator() as client:
        counts = _counted(client, quick_plan() if quick else full_plan())
    gates = list(gates_on_counts(counts))
    if as_json:
        print_json({**asdict(counts), "gates": [asdict(gate) for gate in gates]})
    else:
        _show(counts, gates)
    err().print(f"measured in {time.monotonic() - began:.0f} s")
    _fail_on(gates)


def _counted(client: "DynamoDBClient", plan: Plan) -> Counts:
    with progress() as bar:
        task = bar.add_task("counting", total=plan.steps)
        begun = 0

        def begin(title: str) -> None:
            nonlocal begun
            bar.update(task, description=title, completed=begun)
            begun += 1

        counts = take_counts(client, plan, begin)
        bar.update(task, description="counted", completed=begun)
    return counts


@contextmanager
def _emulator() -> Iterator["DynamoDBClient"]:
    with tempfile.TemporaryDirectory() as folder, ministack(Path(folder)) as endpoint_url:
        yield local_session().client(
            "dynamodb", endpoint_url=endpoint_url, config=LOCAL_CLIENT_CONFIG
        )


def _show(counts: Counts, gates: Iterable[Gate]) -> None:
    out().print(cost_table([*counts.costs, *counts.few_and_many_accounts]))
    out().print(depth_table(counts.depths))
    out().print(gate_table(gates))


def _fail_on(gates: Iterable[Gate]) -> None:
    broken = [gate.name for gate in gates if not gate.holds]
    if broken:
        err().print(f"{len(broken)} bounds are passed: {'; '.join(broken)}", soft_wrap=True)
        raise typer.Exit(FAILED_EXIT_STATUS)


if __name__ == "__main__":
    typer.run(bench)
