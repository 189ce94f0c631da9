"""The stand-in for Slack rejects what Slack rejects, with Slack's own codes."""

import json
from typing import Any

import pytest

from agent_credits_local.slack_server import code_of, rejection_of
from agent_credits_local.slack_stand_in import WEBHOOK_PATH

JSON = "application/json;charset=utf-8"


def text(length: int, kind: str = "mrkdwn") -> dict[str, Any]:
    return {"type": kind, "text": "x" * length}


def header(length: int = 10, kind: str = "plain_text") -> dict[str, Any]:
    return {"type": "header", "text": text(length, kind)}


def section(length: int = 10, **more: Any) -> dict[str, Any]:
    return {"type": "section", "text": text(length), **more}


GOOD = {"attachments": [{"color": "#E01E5A", "blocks": [header(), section()]}]}


def rejected(
    payload: object, *, path: str = WEBHOOK_PATH, content_type: str = JSON
) -> tuple[int, str] | None:
    return rejection_of(path, content_type, json.dumps(payload).encode())


def test_a_valid_message_is_accepted() -> None:
    assert rejected(GOOD) is None
    assert rejected({"text": "hello"}) is None
    assert rejected({"blocks": [section()]}) is None


@pytest.mark.parametrize(
    "path", ["/", "/services/", "/services/T0/B0", "/services/T0/B0/", "/services/T0/B0/x/y"]
)
def test_a_path_other_than_a_webhook_has_no_service(path: str) -> None:
    assert rejected(GOOD, path=path) == (404, "no_service")


def test_a_webhook_without_a_workspace_has_no_team() -> None:
    assert rejected(GOOD, path="/services/X0/B0/x") == (404, "no_team")


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_a_content_type_other_than_json_is_rejected(content_type: str) -> None:
    assert rejected(GOOD, content_type=content_type) == (400, "invalid_payload")


def test_a_body_that_is_not_json_is_rejected() -> None:
    assert rejection_of(WEBHOOK_PATH, JSON, b"{") == (400, "invalid_payload")


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ([], "invalid_payload"),
        ({}, "no_text"),
        ({"text": "", "blocks": []}, "no_text"),
        ({"text": 5}, "invalid_payload"),
        ({"text": "x" * 40_001}, "msg_too_long"),
        ({"attachments": "x"}, "invalid_attachments"),
        ({"attachments": [{}]}, "invalid_attachments"),
        ({"attachments": [{"blocks": [header(151)]}]}, "invalid_attachments"),
        ({"attachments": [{"text": "x"}] * 101}, "too_many_attachments"),
        ({"blocks": [section()] * 51}, "invalid_blocks"),
        ({"blocks": [header(151)]}, "invalid_blocks"),
        ({"blocks": [header(0)]}, "invalid_blocks"),
        ({"blocks": [header(kind="mrkdwn")]}, "invalid_blocks"),
        ({"blocks": [section(3_001)]}, "invalid_blocks"),
        ({"blocks": [{"type": "section"}]}, "invalid_blocks"),
        ({"blocks": [{"type": "section", "fields": []}]}, "invalid_blocks"),
        ({"blocks": [{"type": "section", "fields": [text(1)] * 11}]}, "invalid_blocks"),
        ({"blocks": [{"type": "section", "fields": [text(2_001)]}]}, "invalid_blocks"),
        ({"blocks": [{"type": "context", "elements": []}]}, "invalid_blocks"),
        ({"blocks": [{"type": "context", "elements": [text(1)] * 11}]}, "invalid_blocks"),
        ({"blocks": [{"type": "context", "elements": "x"}]}, "invalid_blocks"),
        ({"blocks": [{"type": "divider", "text": text(1)}]}, "invalid_blocks"),
        ({"blocks": [{"type": "unheard_of"}]}, "invalid_blocks"),
        ({"blocks": ["x"]}, "invalid_blocks"),
        ({"blocks": [section(unknown=1)]}, "invalid_blocks"),
        ({"blocks": [section(block_id="a"), section(block_id="a")]}, "invalid_blocks"),
        ({"blocks": [section(block_id="a" * 256)]}, "invalid_blocks"),
        (
            {"blocks": [{"type": "section", "text": {"type": "html", "text": "x"}}]},
            "invalid_blocks",
        ),
    ],
)
def test_an_invalid_message_is_rejected_with_slacks_code(payload: Any, code: str) -> None:
    assert code_of(payload) == code


def test_a_message_within_all_limits_is_accepted() -> None:
    most = {
        "blocks": [
            header(150),
            section(3_000, fields=[text(2_000)] * 10, block_id="b" * 255),
            {"type": "context", "elements": [text(3_000)] * 10},
            *[{"type": "divider"}] * 47,
        ]
    }

    assert code_of(most) is None
