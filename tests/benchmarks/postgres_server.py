"""A PostgreSQL of our own: its own data, a free port, as durable as it comes, gone afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from agent_credits_local.emulator import HOST, free_port

# Where Debian puts what it does not link into the PATH.
DEBIAN_FOLDERS = Path("/usr/lib/postgresql")
# It refuses to run as root, so then it runs as one of these.
OTHER_USERS = ("postgres", "nobody")
SUPERUSER = "bench"
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30
POLL_SECONDS = 0.1
# The defaults, written out: a commit has answered only when it is on disk.
DURABILITY = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")


def why_unavailable() -> str | None:
    """Return why it cannot be started here, or None if it can."""
    if _program("initdb") is None or _program("postgres") is None:
        return "PostgreSQL is not installed (Debian's package is called postgresql)"
    if os.geteuid() == 0 and _other_user() is None:
        return "PostgreSQL does not run as root, and there is no user to run it as"
    return None


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the connection string of a running server."""
    initdb, postgres = _program("initdb"), _program("postgres")
    assert initdb is not None
    assert postgres is not None
    with tempfile.TemporaryDirectory(prefix="bench-postgres-") as folder:
        data, port, run_as = Path(folder) / "data", free_port(), {}
        if os.geteuid() == 0:
            user = _other_user()
            assert user is not None
            os.chown(folder, user.pw_uid, user.pw_gid)
            run_as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        _run([initdb, f"--pgdata={data}", f"--username={SUPERUSER}", "--auth=trust"], run_as)
        settings = [f"listen_addresses={HOST}", "unix_socket_directories=", *DURABILITY]
        with subprocess.Popen(
            [postgres, "-D", str(data), "-p", str(port), *(f"-c{s}" for s in settings)],
            cwd=folder,
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **run_as,
        ) as server:
            try:
                address = f"host={HOST} port={port} user={SUPERUSER} dbname=postgres"
                _wait_until_it_answers(server, address)
                yield address
            finally:
                # Fast shutdown: clients are cut off, and everything is written.
                server.send_signal(2)
                server.wait(STOP_SECONDS_MAX)


def version() -> str:
    """Return the server's version, such as `15.8`."""
    postgres = _program("postgres")
    assert postgres is not None
    told = subprocess.run(
        [postgres, "--version"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return told.removeprefix("postgres (PostgreSQL) ").split()[0]


def _program(name: str) -> str | None:
    found = shutil.which(name)
    if found is not None:
        return found
    installed = sorted(DEBIAN_FOLDERS.glob(f"*/bin/{name}"))
    return str(installed[-1]) if installed else None


def _other_user() -> pwd.struct_passwd | None:
    users = {user.pw_name: user for user in pwd.getpwall()}
    return next((users[name] for name in OTHER_USERS if name in users), None)


def _run(command: Sequence[str], run_as: dict[str, Any]) -> None:
    subprocess.run(
        command, env=_environment(), cwd="/", stdout=subprocess.DEVNULL, check=True, **run_as
    )


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}


def _wait_until_it_answers(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        assert server.poll() is None, "PostgreSQL ended as soon as it was started"
        try:
            psycopg.connect(address, connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(POLL_SECONDS)
        else:
            return
    raise TimeoutError(f"PostgreSQL did not answer within {START_SECONDS_MAX} s")
