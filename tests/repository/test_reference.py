"""docs/reference/ lists what there is today, and its schema says what the parser says."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agent_credits.events.agent_runs import parse_message
from tests.unit.builders import body, finished, requested, usage
from tests.unit.events.test_agent_runs import MALFORMED
from tools import blocks
from tools.reference import BLOCKS, FOLDER, OWNER, SCHEMA, pages
from tools.reference_blocks import configuration, limits, notices

EVENTS_FOLDER = Path(__file__).parents[2] / "events"
VALIDATOR = jsonschema.Draft202012Validator(json.loads((FOLDER / SCHEMA).read_text()))
PAGES = pages()
# A schema never sees equal keys, of which JSON itself leaves open which one counts; and in Python's
# regular expressions, unlike JavaScript's, `$` also stands before a line break at the end.
BEYOND_A_SCHEMA = {"duplicate key", "duplicate key inside", "id with a line break"}


@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_a_page_lists_what_there_is_today(path: Path) -> None:
    assert path.read_text() == PAGES[path], "run make reference"


def test_every_block_stands_on_one_page() -> None:
    standing = [
        block["name"]
        for page in FOLDER.glob("*.md")
        for block in blocks.pattern(OWNER).finditer(page.read_text())
    ]

    assert sorted(standing) == sorted(BLOCKS)


def test_a_key_without_its_meaning_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(configuration.MEANINGS)
    del known["teams.auto_reload.reloads_max"]
    monkeypatch.setattr(configuration, "MEANINGS", known)

    with pytest.raises(LookupError, match=r"teams\.auto_reload\.reloads_max"):
        configuration.tables()


def test_a_bound_without_its_words_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GROUPS", {"Events": limits.EVENTS})

    with pytest.raises(LookupError, match=r"billing\.alerts\.THRESHOLDS_MAX"):
        limits.tables()


def test_a_field_of_a_notice_without_its_meaning_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = dict(notices.MEANINGS)
    del known["shortfall_credits"]
    monkeypatch.setattr(notices, "MEANINGS", known)

    with pytest.raises(LookupError, match="shortfall_credits"):
        notices.by_type()


def sample_events() -> dict[str, Any]:
    """Return every event of a sample message that the parser takes as a whole."""
    found = {}
    for path in sorted(EVENTS_FOLDER.glob("*.json")):
        text = path.read_text()
        if not parse_message(text).rejections:
            document = json.loads(text)
            events = document if isinstance(document, list) else [document]
            found |= {f"{path.stem}-{number}": event for number, event in enumerate(events)}
    return found


@pytest.mark.parametrize("event", sample_events().values(), ids=sample_events().keys())
def test_the_schema_takes_every_good_sample_event(event: Any) -> None:
    VALIDATOR.validate(event)


@pytest.mark.parametrize(
    "event_type", ["requested", "extended", "usage", "finished", "released", "provider_error"]
)
def test_the_samples_have_events_of_every_type(event_type: str) -> None:
    assert f"agent_run.{event_type}" in {event["type"] for event in sample_events().values()}


@pytest.mark.parametrize(
    "credits_text",
    ["0", "0.0", 0, "1", "0.000001", "12.5", "999999999.999999", "1000000000", "1000000000.0", 1],
)
def test_the_schema_takes_credits_that_the_parser_takes(credits_text: str | int) -> None:
    event = usage("e1", credits_text)  # type: ignore[arg-type]

    assert not parse_message(body(event)).rejections
    assert VALIDATOR.is_valid(event)


@pytest.mark.parametrize(
    "credits_text", ["-1", "00.1", "01", "1000000000.000001", "1000000001", "1.", ".5", -1]
)
def test_the_schema_rejects_credits_that_the_parser_rejects(credits_text: str | int) -> None:
    event = usage("e1", credits_text)  # type: ignore[arg-type]

    assert parse_message(body(event)).rejections
    assert not VALIDATOR.is_valid(event)


@pytest.mark.parametrize("event", [requested("e1"), requested("e1", credits="5"), finished("e1")])
def test_the_schema_takes_what_the_tests_send(event: Any) -> None:
    assert not parse_message(body(event)).rejections
    assert VALIDATOR.is_valid(event)


@pytest.mark.parametrize("name", MALFORMED)
def test_the_schema_rejects_an_event_that_is_malformed(name: str) -> None:
    try:
        event = json.loads(MALFORMED[name][0])
    except (ValueError, RecursionError):
        return
    if name not in BEYOND_A_SCHEMA:
        assert not VALIDATOR.is_valid(event)


def test_what_a_schema_cannot_say_is_no_more_than_that() -> None:
    assert MALFORMED.keys() >= BEYOND_A_SCHEMA
    for name in BEYOND_A_SCHEMA:
        assert VALIDATOR.is_valid(json.loads(MALFORMED[name][0]))
