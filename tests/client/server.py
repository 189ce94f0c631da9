"""An API behind a real socket, for clients in processes of their own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import httpx

from tests.api_world import Got

# What becomes of a request: an answer, an answer that gets lost, or no answer and no end.
Fate = Literal["answer", "lose", "hang"]
Deliver = Callable[[httpx.Request], Got]


class Server:
    """`fate` is asked about each request, by its path, after it was handled."""

    def __init__(
        self, deliver: Deliver, httpd: ThreadingHTTPServer, released: threading.Event
    ) -> None:
        self._deliver = deliver
        self.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        self.fate: Callable[[str], Fate] = lambda _: "answer"
        self._released = released

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length", "0"))
        request = httpx.Request(
            handler.command,
            f"{self.url}{handler.path}",
            headers=dict(handler.headers),
            content=handler.rfile.read(length),
        )
        got = self._deliver(request)
        match self.fate(handler.path):
            case "hang":
                self._released.wait()
            case "lose":
                handler.close_connection = True
            case "answer":
                body = got.text.encode()
                handler.send_response(got.status)
                for name, value in got.headers.items():
                    handler.send_header(name, value)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)


@contextmanager
def serving(deliver: Deliver) -> Iterator[Server]:
    """Serve on a free port until the block ends."""
    released = threading.Event()
    servers: list[Server] = []

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            servers[0].handle(self)

        do_GET = do_POST = handle_any  # noqa: N815 -- The base class calls them so.

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    servers.append(Server(deliver, httpd, released))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield servers[0]
    finally:
        released.set()
        httpd.shutdown()
        thread.join()
        httpd.server_close()
