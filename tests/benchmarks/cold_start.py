"""Cold starts of what `sam build` built, with byte code and without, beside the least there is.

Instructions are counted by valgrind and come out alike however busy the machine is. Processor time
is the least of several starts, one of each function after the other.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_credits_local.checkout import this_checkout
from agent_credits_local.session import LOCAL_KEY, LOCAL_REGION
from tests.benchmarks.artefacts import (
    LAYER,
    LEAST,
    NOWHERE,
    Artefacts,
    build_artefacts,
    functions,
)
from tests.benchmarks.first_events import FirstEvents, stage
from tests.conformance.ministack import ministack
from tests.template import load_template

PROGRAM = Path(__file__).parent / "start_function.py"
ROUNDS = 3
START_SECONDS_MAX = 120
NO_VALGRIND = "valgrind is not installed"

_COUNTED = re.compile(r"I\s+refs:\s+(?P<instructions>[0-9,]+)")


@dataclass(frozen=True, slots=True)
class Times:
    """Processor time; `first_event` is None where nothing handles one."""

    import_milliseconds: float
    first_event_milliseconds: float | None


@dataclass(frozen=True, slots=True)
class Start:
    """A function: its import's instructions with byte code, beside what the interpreter takes."""

    function: str
    instructions: int | None
    with_byte_code: Times
    as_built: Times
    zip_bytes_with_byte_code: int
    zip_bytes_as_built: int


@dataclass(frozen=True, slots=True)
class ColdStarts:
    """`starts` begin with the least; without valgrind, `uncounted_because` says so."""

    starts: tuple[Start, ...]
    layer_zip_bytes_with_byte_code: int
    layer_zip_bytes_as_built: int
    uncounted_because: str | None

    @property
    def share_of_least(self) -> float | None:
        """Return the import of debit_runs by that of the least; None where none was counted."""
        least = self.starts[0]
        ours = next(start for start in self.starts if start.function == "debit_runs")
        if ours.instructions is None or least.instructions is None:
            return None
        return ours.instructions / least.instructions


def why_uncounted() -> str | None:
    return None if shutil.which("valgrind") else NO_VALGRIND


def count_share_of_least(begin: Callable[[str], None]) -> float:
    """Count the import of debit_runs and the least alone; valgrind must be there."""
    with tempfile.TemporaryDirectory() as path:
        begin("building")
        compiled, _ = build_artefacts(Path(path))
        begin("counting imports")
        counted = _instructions(compiled, ("least", "debit_runs"))
    return counted["debit_runs"] / counted["least"]


COUNT_STEPS = 2


def steps() -> int:
    return COUNT_STEPS + ROUNDS


def measure_cold_starts(begin: Callable[[str], None]) -> ColdStarts:
    with tempfile.TemporaryDirectory() as path:
        begin("building")
        compiled, built = build_artefacts(Path(path))
        names = ("least", *functions())
        begin("counting imports")
        counted = _instructions(compiled, names) if why_uncounted() is None else {}
        with ministack(Path(path)) as endpoint_url:
            events = stage(endpoint_url)
            kinds = [(artefacts, name) for artefacts in (compiled, built) for name in names]
            taken: dict[tuple[Artefacts, str], list[Times]] = {kind: [] for kind in kinds}
            for number in range(ROUNDS):
                begin(f"starting, {number + 1} of {ROUNDS}")
                for artefacts, name in kinds:
                    taken[artefacts, name].append(_start(artefacts, name, events, endpoint_url))
        return ColdStarts(
            starts=tuple(
                Start(
                    function=name,
                    instructions=counted.get(name),
                    with_byte_code=_least(taken[compiled, name]),
                    as_built=_least(taken[built, name]),
                    zip_bytes_with_byte_code=compiled.zip_bytes(_logical_id(name)),
                    zip_bytes_as_built=built.zip_bytes(_logical_id(name)),
                )
                for name in names
            ),
            layer_zip_bytes_with_byte_code=compiled.zip_bytes(LAYER),
            layer_zip_bytes_as_built=built.zip_bytes(LAYER),
            uncounted_because=why_uncounted(),
        )


def _logical_id(name: str) -> str:
    return LEAST if name == "least" else functions()[name]


def _least(taken: list[Times]) -> Times:
    events = [t.first_event_milliseconds for t in taken if t.first_event_milliseconds is not None]
    return Times(
        import_milliseconds=min(t.import_milliseconds for t in taken),
        first_event_milliseconds=min(events) if events else None,
    )


def _start(artefacts: Artefacts, name: str, events: FirstEvents, endpoint_url: str) -> Times:
    arguments = [artefacts.path_of(_logical_id(name))]
    if name in events.makers:
        arguments.append(json.dumps(events.makers[name]()))
    else:
        assert name == "least", f"there is no first event for {name}"
    environment = events.environment | {"AWS_ENDPOINT_URL": endpoint_url}
    printed = _run([], arguments, environment).stdout
    measured: dict[str, Any] = json.loads(printed.splitlines()[-1])
    event_seconds = measured.get("event_seconds")
    return Times(
        import_milliseconds=measured["import_seconds"] * 1_000,
        first_event_milliseconds=None if event_seconds is None else event_seconds * 1_000,
    )


def _instructions(artefacts: Artefacts, names: tuple[str, ...]) -> dict[str, int]:
    """Return the instructions of each import alone, without those of a bare interpreter."""
    paths = ["", *(artefacts.path_of(_logical_id(name)) for name in names)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bare, *counted = pool.map(_count, paths)
    return {name: whole - bare for name, whole in zip(names, counted, strict=True)}


def _count(path: str) -> int:
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no"]
    told = _run([*valgrind, f"--cachegrind-out-file={os.devnull}"], [path], _any_settings()).stderr
    match = _COUNTED.search(told)
    assert match is not None, f"valgrind told no instructions: {told[-500:]}"
    return int(match["instructions"].replace(",", ""))


def _any_settings() -> dict[str, str]:
    """Return settings for an import, which reads them and calls nothing."""
    resources = load_template()["Resources"]
    names = {
        name
        for logical_id in functions().values()
        for name in resources[logical_id]["Properties"]["Environment"]["Variables"]
    }
    # A number that is text as well; signatures are not required unless a stack says so.
    return {**dict.fromkeys(names, "7"), "EVENT_SIGNATURES": "off"}


def _run(
    under: list[str], arguments: list[str], settings: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Start a bare interpreter: no packages of its own, no byte code kept, the same hashes."""
    return subprocess.run(
        [
            *under,
            *(str(this_checkout().ministack_python), "-s", "-S", "-B", "-P"),
            *(str(PROGRAM), *arguments),
        ],
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONHASHSEED": "0",
            "AWS_DEFAULT_REGION": LOCAL_REGION,
            "AWS_ACCESS_KEY_ID": LOCAL_KEY,
            "AWS_SECRET_ACCESS_KEY": LOCAL_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_ENDPOINT_URL": NOWHERE,
            "POWERTOOLS_METRICS_NAMESPACE": "AgentCredits",
            "POWERTOOLS_LOG_LEVEL": "INFO",
            **settings,
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=START_SECONDS_MAX,
    )
