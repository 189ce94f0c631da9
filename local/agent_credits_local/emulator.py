"""An emulator's process: started in a group of its own, and only that very group is stopped.

MiniStack keeps everything in memory and runs each Lambda worker as a child in its own group. So
ending the group at once loses nothing that a gentler end would keep, and leaves no worker behind.
One that was told to keep its state saves it when it is stopped gently, and only then.
The stand-ins for Stripe and for Slack are further emulators of this kind.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from agent_credits_cli.errors import CommandError

HOST: Final = "127.0.0.1"
START_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 10.0
# It waits for the calls that it is answering, and writes everything that it holds.
SAVE_SECONDS_MAX: Final = 30.0
PORT_SECONDS_MAX: Final = 5.0
CALL_SECONDS_MAX: Final = 5.0
POLL_SECONDS: Final = 0.05
# Zombies have ended and wait to be collected. ps reports nothing about what is gone altogether.
DEAD_STATES: Final = ("Z", "X", "")


class Emulator(BaseModel):
    """A started emulator. `birth` tells it from a later process that got the same pid."""

    model_config = ConfigDict(frozen=True)

    title: ClassVar[str] = "the emulator"
    health_path: ClassVar[str] = "/_ministack/health"

    pid: int
    birth: str
    port: int

    @classmethod
    def start(cls, python: Path, port: int, log: Path, environment: Mapping[str, str]) -> Self:
        """Start a detached MiniStack; it is not yet healthy when this returns."""
        return cls.spawn([str(python), "-m", "ministack"], port, log, environment)

    @classmethod
    def spawn(
        cls, command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]
    ) -> Self:
        """Start a detached process that will answer on the port; the command makes it do so."""
        write_log = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        pid = os.posix_spawn(
            command[0],
            list(command),
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, write_log, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            # A session of its own: Ctrl-C and the end of the terminal do not reach it.
            setsid=True,
        )
        birth = birth_of(pid)
        if birth is None:
            raise CommandError(f"the emulator ended as soon as it was started; see {log}")
        return cls(pid=pid, birth=birth, port=port)

    @property
    def endpoint_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def is_running(self) -> bool:
        return birth_of(self.pid) == self.birth

    def is_healthy(self) -> bool:
        if not self.is_running():
            return False
        # http.client knows no proxies, and a proxy would answer for somebody else.
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2.0)
        try:
            connection.request("GET", self.health_path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        # It may just have died, and have left its port to another process that answers here.
        return status == http.HTTPStatus.OK and self.is_running()

    def ask(
        self, method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Make one request of the emulator's own, and return the body of an answer that is good."""
        # http.client knows no proxies, and a proxy would not find this machine's loopback.
        connection = http.client.HTTPConnection(HOST, self.port, timeout=CALL_SECONDS_MAX)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(
                f"{self.title} does not answer; `agent-credits local up` starts it again"
            ) from error
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise CommandError(f"{self.title} answered {response.status} to {method} {path}")
        return answer

    def wait_until_healthy(self, log: Path) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.is_healthy():
            if not self.is_running():
                raise CommandError(f"the emulator ended before it was healthy; see {log}")
            if time.monotonic() > deadline:
                raise CommandError(
                    f"the emulator was not healthy after {START_SECONDS_MAX:.0f} s; see {log}"
                )
            time.sleep(POLL_SECONDS)

    def stop(self) -> bool:
        """End the emulator with all its workers; whether there was anything to end."""
        if not self.is_running():
            return False
        self.stop_workers()
        self._wait_until_gone(STOP_SECONDS_MAX)
        return True

    def stop_gently(self) -> None:
        """Let the emulator save its state, where it keeps any, and end with all its workers."""
        os.kill(self.pid, signal.SIGTERM)
        self._wait_until_gone(SAVE_SECONDS_MAX)
        self.stop_workers()

    def kill_alone(self) -> None:
        """End the emulator at once, and leave its workers to notice by themselves."""
        os.kill(self.pid, signal.SIGKILL)
        self._wait_until_gone(STOP_SECONDS_MAX)

    def stop_workers(self) -> None:
        """End whatever is left of the emulator's group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _wait_until_gone(self, seconds_max: float) -> None:
        deadline = time.monotonic() + seconds_max
        while self.is_running():
            if time.monotonic() > deadline:
                raise CommandError(
                    f"process {self.pid} did not end within {seconds_max:.0f} s; try again"
                )
            time.sleep(POLL_SECONDS)
        # The port outlives the process by the moment in which its last threads end. One that stays
        # taken has been taken by another process since, and is no longer waited for.
        deadline = time.monotonic() + PORT_SECONDS_MAX
        while not is_port_free(self.port) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        # Only a parent has to collect its child, and mostly it was another process that started it.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def birth_of(pid: int) -> str | None:
    """When the process was started, as the operating system words it; None unless it is alive."""
    if Path("/proc/self/stat").exists():
        return birth_in_proc(pid)
    return birth_by_ps(pid)


def birth_in_proc(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name of the command stands second, in parentheses, and may itself contain parentheses.
    # The state is the third field; the start, in clock ticks since boot, the twenty-second.
    fields = stat.rpartition(")")[2].split()
    state, ticks = fields[0], fields[19]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None if state in DEAD_STATES else f"{boot} {ticks}"


def birth_by_ps(pid: int) -> str | None:
    report = subprocess.run(
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)],
        env={"LC_ALL": "C"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    ).stdout
    state, _, started = report.strip().partition(" ")
    return None if state[:1] in DEAD_STATES else started.strip()


def require_local(url: str, what: str) -> None:
    """Refuse to let a local stack talk to anything but a stand-in on this machine."""
    if urlsplit(url).hostname != HOST:
        raise CommandError(f"a local stack {what} at a stand-in on {HOST}, and {url!r} is not one")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        # Connections of an emulator that has just been stopped may linger for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
