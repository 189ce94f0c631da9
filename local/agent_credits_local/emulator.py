"""An emulator's process: it starts in its own process group, and only that group is stopped.

MiniStack keeps everything in memory and runs each Lambda worker as a child in its own group, so
killing the group leaves no worker behind. It saves its state only when it is stopped gently. The
stand-ins for Stripe and for Slack are emulators of this kind too.
"""

import contextlib
import http.client
import os
import secrets
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
# Below the ports of outgoing connections: Linux takes these from 32768, macOS from 49152.
PORTS: Final = range(20_000, 32_768)
PORTS_TRIED_MAX: Final = 100

# Zombies have ended and wait to be collected. ps reports nothing about a process that is gone.
DEAD_STATES: Final = ("Z", "X", "")


class Emulator(BaseModel):
    """A started emulator. `birth` distinguishes it from a later process with the same pid."""

    model_config = ConfigDict(frozen=True)

    title: ClassVar[str] = "the emulator"
    health_path: ClassVar[str] = "/_ministack/health"

    pid: int
    birth: str
    port: int

    @classmethod
    def spawn(
        cls, command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]
    ) -> Self:
        """Start a detached process whose command makes it answer on the port.

        It is not yet healthy when this returns.
        """
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
            # In its own session, Ctrl-C and the end of the terminal do not reach it.
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
        # http.client uses no proxy, and a proxy would answer instead of the emulator.
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2.0)
        try:
            connection.request("GET", self.health_path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        # It may just have died, and another process may answer on its port.
        return status == http.HTTPStatus.OK and self.is_running()

    def ask(
        self, method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Make one request to the emulator itself, and return the body of a successful answer."""
        # http.client uses no proxy, and a proxy could not reach this machine's loopback.
        connection = http.client.HTTPConnection(HOST, self.port, timeout=CALL_SECONDS_MAX)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(
                f"{self.title} does not answer; start it again with `agent-credits local up`"
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
        """Stop the emulator and its workers; return whether it was running."""
        if not self.is_running():
            return False
        self.stop_workers()
        self._wait_until_gone(STOP_SECONDS_MAX)
        return True

    def stop_gently(self) -> None:
        """Let the emulator save its state, if it keeps any, and stop it with its workers."""
        os.kill(self.pid, signal.SIGTERM)
        self._wait_until_gone(SAVE_SECONDS_MAX)
        self.stop_workers()

    def kill_alone(self) -> None:
        """Kill the emulator without its workers, which have to notice by themselves."""
        os.kill(self.pid, signal.SIGKILL)
        self._wait_until_gone(STOP_SECONDS_MAX)

    def stop_workers(self) -> None:
        """Kill what is left of the emulator's process group."""
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
        # The port is freed shortly after the process ends. If it stays taken, another process took
        # it, and waiting any longer is useless.
        deadline = time.monotonic() + PORT_SECONDS_MAX
        while not is_port_free(self.port) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        # Only a parent must collect its child, and usually another process started it.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def birth_of(pid: int) -> str | None:
    """Return when the process was started, in the system's own words; None unless it is alive."""
    if Path("/proc/self/stat").exists():
        return birth_in_proc(pid)
    return birth_by_ps(pid)


def birth_in_proc(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command's name in parentheses, and may itself contain parentheses.
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
    """Raise `CommandError` unless the URL is that of a stand-in on this machine."""
    if urlsplit(url).hostname != HOST:
        raise CommandError(f"a local stack {what} at a stand-in on {HOST}, and {url!r} is not one")


def free_port() -> int:
    """Return a port on which nothing listens, for a process that takes it a moment later.

    The port is none that a system gives to outgoing connections: one of those could take it first.
    """
    for _ in range(PORTS_TRIED_MAX):
        port = secrets.choice(PORTS)
        if is_port_free(port):
            return port
    raise CommandError(f"none of {PORTS_TRIED_MAX} ports was free; stop what listens on them")


def is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        # Connections of an emulator that has just been stopped may linger for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
