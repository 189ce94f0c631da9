"""The URLs of the HTTP API in the emulator."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

_API_URLS: Final = ("ProducersApiUrl", "PeopleApiUrl")


def reachable(outputs: Mapping[str, str], endpoint_url: str) -> dict[str, str]:
    """Return a stack's outputs with URLs of the HTTP API that any client finds.

    The emulator names each API a host of its own, which few machines resolve, and answers under a
    path as well.
    """
    urls = {
        name: f"{endpoint_url}/_aws/execute-api/{urlsplit(outputs[name]).netloc.partition('.')[0]}"
        for name in _API_URLS
        if name in outputs
    }
    return {**outputs, **urls}
