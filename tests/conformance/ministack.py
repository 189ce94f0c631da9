"""MiniStack as a child process on a free port, alone: nothing is deployed to it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_credits_local.checkout import this_checkout
from agent_credits_local.emulator import HOST, Emulator, free_port


@contextmanager
def ministack(folder: Path) -> Iterator[str]:
    """Yield the endpoint of a running emulator, and stop it afterwards."""
    log, port = folder / "ministack.log", free_port()
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "GATEWAY_PORT": str(port),
        "BIND_HOST": HOST,
        "TMPDIR": str(folder),
        # It removes the containers of every MiniStack that it finds in Docker.
        "DOCKER_HOST": f"unix://{folder}/no-docker",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    emulator = Emulator.spawn(this_checkout().ministack_command, port, log, environment)
    try:
        emulator.wait_until_healthy(log)
        yield emulator.endpoint_url
    finally:
        emulator.stop()
