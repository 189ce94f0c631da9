"""A stand-in for Slack's incoming webhooks: it accepts and rejects what Slack does.

A separate program that needs only the standard library: `slack_server.py PORT` answers until it is
stopped, and keeps every message until then. A client can set its next answers, as Slack gives them
when it is busy or down, or when a webhook was revoked.
"""

import http
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, TypedDict

HOST: Final = "127.0.0.1"
HEALTH_PATH: Final = "/health"
MESSAGES_PATH: Final = "/messages"
ANSWERS_PATH: Final = "/answers"
WEBHOOK_PREFIX: Final = "/services/"
BODY_BYTES_MAX: Final = 1_000_000

# Slack's limits, from its reference of Block Kit.
BLOCKS_MAX: Final = 50
ATTACHMENTS_MAX: Final = 100
MESSAGE_TEXT_MAX: Final = 40_000
HEADER_TEXT_MAX: Final = 150
SECTION_TEXT_MAX: Final = 3_000
FIELDS_MAX: Final = 10
FIELD_TEXT_MAX: Final = 2_000
ELEMENTS_MAX: Final = 10
ELEMENT_TEXT_MAX: Final = 3_000
BLOCK_ID_MAX: Final = 255


class Answer(TypedDict):
    """The answer to the next `times` posts to a webhook."""

    path: str
    status: int
    body: str
    retry_after: str
    times: int


class Message(TypedDict):
    path: str
    payload: dict[str, Any]


@dataclass
class Memory:
    messages: list[Message] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class SlackServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__((HOST, port), _Handler)
        self.memory = Memory()


class _Handler(BaseHTTPRequestHandler):
    server: SlackServer
    # A client that connects and sends nothing must not keep a thread for ever.
    timeout = 10.0

    def do_GET(self) -> None:
        memory = self.server.memory
        if self.path == HEALTH_PATH:
            self._answer(http.HTTPStatus.OK, "ok")
        elif self.path == MESSAGES_PATH:
            with memory.lock:
                self._answer(http.HTTPStatus.OK, json.dumps(memory.messages))
        elif self.path.startswith(WEBHOOK_PREFIX):
            self._answer(http.HTTPStatus.BAD_REQUEST, "invalid_http_method")
        else:
            self._answer(http.HTTPStatus.NOT_FOUND, "no_such_path")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            self._answer(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "invalid_payload")
            return
        body = self.rfile.read(int(length))
        if self.path == ANSWERS_PATH:
            with self.server.memory.lock:
                self.server.memory.answers.append(json.loads(body))
            self._answer(http.HTTPStatus.OK, "ok")
            return
        self._take(body)

    def _take(self, body: bytes) -> None:
        memory = self.server.memory
        with memory.lock:
            scripted = next(
                (a for a in memory.answers if a["path"] == self.path and a["times"]), None
            )
            if scripted is not None:
                scripted["times"] -= 1
        if scripted is not None:
            self._answer(scripted["status"], scripted["body"], scripted["retry_after"])
            return
        rejection = rejection_of(self.path, self.headers.get("Content-Type", ""), body)
        if rejection is not None:
            self._answer(*rejection)
            return
        with memory.lock:
            memory.messages.append({"path": self.path, "payload": json.loads(body)})
        self._answer(http.HTTPStatus.OK, "ok")

    def _answer(self, status: int, body: str, retry_after: str = "") -> None:
        content = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there.
        """Log nothing: the path of a webhook is a secret, even a stand-in's."""


def rejection_of(path: str, content_type: str, body: bytes) -> tuple[int, str] | None:
    """Return the status and the code with which Slack rejects a post; None if it accepts it."""
    # /services/T…/B…/…: the workspace, the app and the webhook's own secret.
    parts = path.removeprefix(WEBHOOK_PREFIX).split("/")
    if not path.startswith(WEBHOOK_PREFIX) or len(parts) != 3 or not all(parts):
        return http.HTTPStatus.NOT_FOUND, "no_service"
    if not parts[0].startswith("T") or not parts[1].startswith("B"):
        return http.HTTPStatus.NOT_FOUND, "no_team"
    if content_type.partition(";")[0].strip() != "application/json":
        return http.HTTPStatus.BAD_REQUEST, "invalid_payload"
    try:
        payload = json.loads(body)
    except ValueError:
        return http.HTTPStatus.BAD_REQUEST, "invalid_payload"
    code = code_of(payload)
    return (http.HTTPStatus.BAD_REQUEST, code) if code else None


def code_of(payload: object) -> str | None:
    """Return Slack's code for what is wrong with a message; None for a valid one."""
    if not isinstance(payload, dict):
        return "invalid_payload"
    text, blocks = payload.get("text"), payload.get("blocks", [])
    attachments = payload.get("attachments", [])
    if not (text or blocks or attachments):
        return "no_text"
    if text is not None and not _is_text(text, MESSAGE_TEXT_MAX):
        return "msg_too_long" if isinstance(text, str) else "invalid_payload"
    if not isinstance(attachments, list):
        return "invalid_attachments"
    if len(attachments) > ATTACHMENTS_MAX:
        return "too_many_attachments"
    if not _are_blocks(blocks):
        return "invalid_blocks"
    return None if all(map(_is_attachment, attachments)) else "invalid_attachments"


def _is_attachment(attachment: object) -> bool:
    if not isinstance(attachment, dict) or not _are_blocks(attachment.get("blocks", [])):
        return False
    texts = [attachment.get(name) for name in ("blocks", "text", "fallback", "fields")]
    return any(texts)


def _are_blocks(blocks: object) -> bool:
    if not isinstance(blocks, list) or len(blocks) > BLOCKS_MAX:
        return False
    ids = [b["block_id"] for b in blocks if isinstance(b, dict) and "block_id" in b]
    return (
        all(map(_is_block, blocks))
        and len(set(ids)) == len(ids)
        and all(_is_text(block_id, BLOCK_ID_MAX) for block_id in ids)
    )


def _is_block(block: object) -> bool:
    return (
        isinstance(block, dict)
        and block.get("type") in _BLOCKS
        and not block.keys() - {"type", "block_id", "text", "fields", "elements", "expand"}
        and all(_BLOCKS[block["type"]](block))
    )


def _header(block: dict[str, Any]) -> Iterator[bool]:
    yield _is_text_object(block.get("text"), HEADER_TEXT_MAX, "plain_text")


def _section(block: dict[str, Any]) -> Iterator[bool]:
    text, fields = block.get("text"), block.get("fields")
    yield text is not None or fields is not None
    yield text is None or _is_text_object(text, SECTION_TEXT_MAX)
    yield fields is None or (isinstance(fields, list) and 1 <= len(fields) <= FIELDS_MAX)
    yield fields is None or all(_is_text_object(text, FIELD_TEXT_MAX) for text in fields)


def _context(block: dict[str, Any]) -> Iterator[bool]:
    elements = block.get("elements")
    yield isinstance(elements, list) and 1 <= len(elements) <= ELEMENTS_MAX
    yield all(_is_text_object(element, ELEMENT_TEXT_MAX) for element in elements or ())


def _divider(block: dict[str, Any]) -> Iterator[bool]:
    yield not block.keys() - {"type", "block_id"}


_BLOCKS: Final[dict[str, Callable[[dict[str, Any]], Iterator[bool]]]] = {
    "context": _context,
    "divider": _divider,
    "header": _header,
    "section": _section,
}


def _is_text_object(text: object, length_max: int, kind: str | None = None) -> bool:
    if not isinstance(text, dict) or not _is_text(text.get("text"), length_max):
        return False
    allowed = {"plain_text": {"type", "text", "emoji"}, "mrkdwn": {"type", "text", "verbatim"}}
    of_type = text.get("type")
    return of_type in allowed and not text.keys() - allowed[of_type] and kind in (None, of_type)


def _is_text(text: object, length_max: int) -> bool:
    return isinstance(text, str) and 1 <= len(text) <= length_max


if __name__ == "__main__":
    SlackServer(int(sys.argv[1])).serve_forever()
