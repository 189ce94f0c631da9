"""Golden files: notices as e-mails, as messages for Slack, and as data.

`GOLDEN=write make test-quick` writes the texts that the code makes now and fails wherever one is
new: read the difference before you commit it.
"""

import json
import os
from pathlib import Path

import pytest

from agent_credits.notices.notice import Notice

GOLDEN = Path(__file__).parent / "unit" / "notices" / "golden"


def assert_golden(name: str, text: str) -> None:
    """Compare with the file of this name, such as `reload/succeeded.txt`."""
    path = GOLDEN / name
    golden = path.read_text() if path.exists() else ""
    if text != golden and os.environ.get("GOLDEN") == "write":
        path.write_text(text)
        pytest.fail(f"{path} was written; read it")

    assert text == golden


def email_of(notice: Notice) -> str:
    return f"Subject: {notice.email_subject}\n\n{notice.email_text}"


def data_and_email_of(notice: Notice) -> str:
    """Return a notice as machines and as people get it."""
    return f"{json.dumps(notice.to_cloudevent(), indent=2)}\n\n{email_of(notice)}"
