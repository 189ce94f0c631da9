"""Unit tests never talk to anything: a connection is a failure, whatever catches exceptions."""

import socket
from typing import Never

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*where: object) -> Never:
        # pytest's failure is no Exception, so that no client takes it for an outage and retries.
        pytest.fail(f"a unit test used the network: {where[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: refuse(None, *where))
