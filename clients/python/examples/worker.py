"""A plain worker: takes jobs from a folder, does their steps, and reports what each has used.

    python worker.py JOBS JOURNALS

JOBS has a file for each job, `<run id>.json`; JOURNALS is a folder that outlives the process. Kill
the worker whenever you like: the next one continues where it was, and no step is billed twice.

What a worker has to keep for that is in the job: its id, `started_at`, its estimate, and how many
steps are done. A real platform has them in its queue or its database.
"""

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from agent_credits_client import (
    AgentCredits,
    InsufficientCredits,
    ReloadPending,
    RunEnded,
    RunPaused,
)


class ModelDown(Exception):
    """The platform could not do its part: the customer gets everything back."""


def main(jobs: Path, journals: Path) -> None:
    with AgentCredits(
        os.environ["AGENT_CREDITS_URL"],
        token=os.environ["AGENT_CREDITS_TOKEN"],
        source="/examples/worker",
        on_unavailable="deny",
        journals=journals,
    ) as credits:
        for path in sorted(jobs.glob("*.json")):
            work_on(path, credits)


def work_on(path: Path, credits: AgentCredits) -> None:
    """Do a job, or what is left of it."""
    job = json.loads(path.read_text())
    run = credits.run(
        path.stem,
        team_id=job["team_id"],
        trigger=job["trigger"],
        credits=job["estimate"],
        started_at=datetime.fromisoformat(job["started_at"]),
        # A job that was refused may be tried again, once there are credits.
        request_id=f"attempt-{job.get('attempt', 1)}",
        platform_errors=[ModelDown],
    )
    try:
        with run:
            for number in range(job.get("done", 0), len(job["steps"])):
                used = do_step(job["steps"][number])
                # First the usage, under the step's own key; then that the step is done. Between the
                # two, a kill repeats the step, and the key counts it once.
                run.use(used, key=f"step-{number}")
                save(path, job | {"done": number + 1})
        finish(path, "done")
    except RunEnded:
        # An earlier worker was killed after the end was recorded, and before it said so here.
        finish(path, "done")
    except InsufficientCredits as refused:
        print(f"{path.stem}: {refused.title} {refused.fix[0]}")
        save(path, job | {"attempt": job.get("attempt", 1) + 1})
    except (RunPaused, ReloadPending) as waiting:
        print(f"{path.stem}: {waiting}")
    except ModelDown:
        finish(path, "failed")


def do_step(step: dict[str, Any]) -> str:
    """Do the work of a step, and return the credits that it used. Here, they are in the job."""
    if step.get("fails"):
        raise ModelDown
    return str(step["credits"])


def save(path: Path, job: dict[str, Any]) -> None:
    """Replace the job's file in one step, so that a kill leaves the old one or the new one."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(job))
    new.replace(path)


def finish(path: Path, how: str) -> None:
    path.rename(path.with_suffix(f".{how}"))
    print(f"{path.stem}: {how}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
