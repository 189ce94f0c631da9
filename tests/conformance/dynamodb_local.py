"""Amazon's DynamoDB Local as a child process; it keeps what it holds only in a given folder."""

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_credits_local.emulator import HOST, free_port

FOLDER = Path(__file__).parents[2] / ".tools" / "dynamodb-local"
MAIN_CLASS = "software.amazon.dynamodb.services.local.main.ServerRunner"
START_SECONDS_MAX = 60
POLL_SECONDS = 0.2


def why_unavailable() -> str | None:
    """Return why it cannot be started here, or None if it can."""
    if shutil.which("java") is None:
        return "there is no Java on this machine"
    if not (FOLDER / ".ready").exists():
        return "it is not installed; `make .tools/dynamodb-local/.ready` does that with Maven"
    return None


def require_or_skip() -> None:
    """Skip where it cannot be started; in continuous integration that is a failure."""
    reason = why_unavailable()
    if reason is not None:
        assert "CI" not in os.environ, f"DynamoDB Local is required here: {reason}"
        pytest.skip(f"DynamoDB Local: {reason}")


@contextmanager
def dynamodb_local(port: int | None = None, kept_in: Path | None = None) -> Iterator[str]:
    """Yield the endpoint of a running server, and kill it afterwards."""
    java, port = shutil.which("java"), port or free_port()
    assert java is not None
    kept = ("-dbPath", str(kept_in), "-sharedDb") if kept_in else ("-inMemory",)
    command = [
        *(java, f"-Djava.library.path={FOLDER}", "-cp", f"{FOLDER}/*", MAIN_CLASS),
        *(*kept, "-disableTelemetry", "-port", str(port)),
    ]
    with subprocess.Popen(
        command,
        env={"PATH": os.environ.get("PATH", os.defpath)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            endpoint_url = f"http://{HOST}:{port}"
            _wait_until_it_answers(server, endpoint_url)
            yield endpoint_url
        finally:
            server.kill()


def _wait_until_it_answers(server: subprocess.Popen[bytes], endpoint_url: str) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        assert server.poll() is None, "DynamoDB Local ended as soon as it was started"
        try:
            no_proxy.open(endpoint_url, timeout=1)
        except urllib.error.HTTPError:
            return  # It answers, if only that this was no request of DynamoDB's.
        except OSError:
            time.sleep(POLL_SECONDS)
    raise TimeoutError(f"DynamoDB Local did not answer within {START_SECONDS_MAX} s")
