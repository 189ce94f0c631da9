"""`make simulate SEEDS=1..1000`: run histories, print what they met, stop at a violation."""

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.history import Failed, Report, run_history

CHUNK = 25
PROGRESS_EVERY = 500
# What a shell reports of a command that was ended by Ctrl-C.
INTERRUPTED_STATUS = 130


def main(wanted: str) -> int:
    seeds = parse_seeds(wanted)
    began = time.monotonic()
    totals: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    applied: Counter[str] = Counter()
    reserved: Counter[str] = Counter()
    limited: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    status = 0
    with contextlib.closing(_reports(seeds)) as reports:
        try:
            for report in reports:
                if isinstance(report, str):
                    sys.stdout.write(f"{report}\n")
                    return 1
                totals.update(
                    histories=1, steps=report.steps, events=report.events, commits=report.commits
                )
                faults.update(report.faults)
                applied.update(report.applied)
                reserved.update(report.reserved)
                limited.update(report.limited)
                shared.update(report.shared)
                if totals["histories"] % PROGRESS_EVERY == 0:
                    done = f"{totals['histories']:,} histories, {faults.total():,} faults"
                    sys.stdout.write(f"… {done}\n")
                    sys.stdout.flush()
        except KeyboardInterrupt:
            # What was run was run, in the order of the seeds.
            status = INTERRUPTED_STATUS
    ran = seeds[: totals["histories"]]
    seconds = time.monotonic() - began
    sys.stdout.write(summary(ran, totals, faults, applied, reserved, limited, shared, seconds))
    return status


def parse_seeds(wanted: str) -> range:
    """Read `1000` as the seeds 1..1000, `7..9` as those three, `=42` as that very one."""
    if wanted.startswith("="):
        return range(int(wanted[1:]), int(wanted[1:]) + 1)
    first, dots, last = wanted.partition("..")
    return range(int(first), int(last) + 1) if dots else range(1, int(first) + 1)


def summary(
    seeds: range,
    totals: Counter[str],
    faults: Counter[str],
    applied: Counter[str],
    reserved: Counter[str],
    limited: Counter[str],
    shared: Counter[str],
    seconds: float,
) -> str:
    rate = totals["events"] / max(seconds, 0.001)
    lines = [
        f"seeds      {seeds.start}..{seeds.stop - 1}, each a history of its own",
        f"steps      {totals['steps']:,} calls, each a point where workers interleave",
        f"events     {totals['events']:,} ({rate:,.0f} per second), {totals['commits']:,} commits",
        f"violations 0 in {seconds:,.0f} s",
        f"faults     {faults.total():,}",
        *(f"  {count:>9,}  {kind}" for kind, count in faults.most_common()),
        f"applied    {applied.total():,} changes of teams meanwhile",
        *(f"  {count:>9,}  {what}" for what, count in applied.most_common()),
        "reservations",
        *(f"  {count:>9,}  {what}" for what, count in reserved.most_common()),
        "limits",
        *(f"  {count:>9,}  {what}" for what, count in limited.most_common()),
        "shared pools",
        *(f"  {count:>9,}  {what}" for what, count in shared.most_common()),
    ]
    return "\n".join(lines) + "\n"


def _reports(seeds: range) -> Iterator[Report | str]:
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        try:
            yield from pool.map(_run, seeds, chunksize=min(CHUNK, len(seeds) // 8 + 1))
        finally:
            # After a violation, or Ctrl-C, nobody wants to wait for the other seeds.
            pool.shutdown(cancel_futures=True)


def _run(seed: int) -> Report | str:
    # A failure crosses processes as its text: the trace, the seed and what broke.
    try:
        return run_history(seed)
    except Failed as failed:
        return str(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
