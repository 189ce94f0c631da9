"""The example of a worker, in processes of its own that a test may kill at any moment."""

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.client.server import Fate, Server

EXAMPLES = Path(__file__).parents[2] / "clients" / "python" / "examples"
# How long a test waits for what must happen. It decides nothing else.
PATIENCE_SECONDS = 60
STEPS = ["1.5", "2", "0.000001", "3"]

# The worker as it is, but each step waits for a line on standard input before it is done.
STEPPED = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import worker
from pathlib import Path
def do_step(step):
    print("step", flush=True)
    sys.stdin.readline()
    return step["credits"]
worker.do_step = do_step
worker.main(Path(sys.argv[1]), Path(sys.argv[2]))
"""


class Workers:
    """Starts workers one after another on the same folders."""

    def __init__(self, folder: Path, server: Server, token: str) -> None:
        self.jobs, self.journals = folder / "jobs", folder / "journals"
        self.jobs.mkdir()
        self.server = server
        self._env = {
            "PATH": os.defpath,
            "AGENT_CREDITS_URL": server.url,
            "AGENT_CREDITS_TOKEN": token,
        }

    def add_job(
        self,
        run_id: str,
        steps: list[dict[str, Any]],
        estimate: str = "75",
        team_id: str = "acme",
        user_id: str = "ana",
    ) -> Path:
        path = self.jobs / f"{run_id}.json"
        job = {
            "team_id": team_id,
            "trigger": {"kind": "user", "user_id": user_id},
            "estimate": estimate,
            "started_at": datetime.now(UTC).isoformat(),
            "steps": steps,
        }
        path.write_text(json.dumps(job))
        return path

    def start(self, *command: str) -> subprocess.Popen[str]:
        program = command or (str(EXAMPLES / "worker.py"),)
        return subprocess.Popen(
            [sys.executable, *program, str(self.jobs), str(self.journals)],
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start_stepped(self) -> subprocess.Popen[str]:
        return self.start("-c", STEPPED, str(EXAMPLES))

    def work(self) -> str:
        """Let a worker do all that is left, and return what it printed."""
        with self.start() as worker:
            printed, _ = worker.communicate(timeout=PATIENCE_SECONDS)
        assert worker.returncode == 0
        return printed

    def kill_during(self, part: str, fate: Fate = "hang") -> None:
        """Kill a worker while it waits for the answer to a request that the service has handled."""
        reached = threading.Event()

        def hang(path: str) -> Fate:
            if part in path:
                reached.set()
                return fate
            return "answer"

        self.server.fate = hang
        worker = self.start()
        assert reached.wait(PATIENCE_SECONDS)
        kill(worker)
        self.server.fate = lambda _: "answer"


def kill(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    with worker:
        worker.wait(PATIENCE_SECONDS)
    assert worker.returncode == -signal.SIGKILL


def tell(worker: subprocess.Popen[str], line: str = "go") -> None:
    assert worker.stdin is not None
    worker.stdin.write(f"{line}\n")
    worker.stdin.flush()


def hear(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def steps() -> list[dict[str, Any]]:
    return [{"credits": credits} for credits in STEPS]
