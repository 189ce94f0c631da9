"""What the emulator saved: complete or not, and how far the change stream had been read."""

import json
from pathlib import Path

import pytest

from agent_credits_local.saved_state import SAVED, forget_positions, forget_saved, is_saved

# As MiniStack writes it: by account, region and event source mapping.
POSITIONS = {
    "__account_region_scoped__": True,
    "data": {"000000000000\x00us-east-1\x00'mapping'": 41},
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    for name in SAVED:
        (tmp_path / name).write_text("{}")
    payload = {"functions": {"a": 1}, "dynamodb_stream_positions": POSITIONS}
    (tmp_path / "lambda.json").write_text(
        json.dumps({"__ministack_format__": 2, "payload": payload})
    )
    return tmp_path


def test_how_far_the_stream_was_read_is_returned_and_forgotten(saved: Path) -> None:
    read = forget_positions(saved)

    assert read == 41
    assert json.loads((saved / "lambda.json").read_text()) == {
        "__ministack_format__": 2,
        "payload": {"functions": {"a": 1}},
    }


@pytest.mark.parametrize("name", SAVED)
def test_a_state_that_lacks_a_part_is_not_saved(saved: Path, name: str) -> None:
    assert is_saved(saved)

    (saved / name).unlink()

    assert not is_saved(saved)


def test_what_was_loaded_is_removed_so_that_a_crash_does_not_bring_it_back(saved: Path) -> None:
    (saved / "lambda-blobs").mkdir()

    forget_saved(saved)

    assert not is_saved(saved)
    # The emulator reads the code from there while it runs.
    assert (saved / "lambda-blobs").exists()
