"""Bearer tokens for `PeopleApiUrl`."""

from collections.abc import Callable, Generator

import httpx


class Bearer(httpx.Auth):
    """Sends a token. A callable is asked before each request, so it can return a fresh one."""

    def __init__(self, token: str | Callable[[], str]) -> None:
        self._token = token

    def __repr__(self) -> str:
        return "Bearer(...)"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        token = self._token if isinstance(self._token, str) else self._token()
        request.headers["Authorization"] = f"Bearer {token}"
        yield request
