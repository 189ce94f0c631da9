"""Writes what docs/reference/ lists: `make reference`, after a change of what is listed there.

The tables come from the code and the template themselves, so that no page can say something else;
tests/repository/test_reference.py checks that they were written since.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tools import blocks
from tools.reference_blocks import (
    command_line,
    configuration,
    events,
    http_api,
    limits,
    notices,
    stack,
)

FOLDER: Final = Path(__file__).parents[1] / "docs" / "reference"

OWNER: Final = "reference"

# By the name of the block, which stands on one of the pages.
BLOCKS: Final[Mapping[str, Callable[[], str]]] = {
    "alarms": stack.alarms,
    "causes": notices.causes,
    "commands": command_line.commands,
    "configuration": configuration.tables,
    "http-problems": http_api.problems,
    "http-roles": http_api.roles,
    "limits": limits.tables,
    "notices": notices.by_type,
    "options-for-all": command_line.options_for_all,
    "outcomes": events.outcomes,
    "outputs": stack.outputs,
    "parameters": stack.parameters,
    "rejections": events.rejections,
    "rules": stack.rules,
    "texts": limits.texts,
}
SCHEMA: Final = "agent-run-event.schema.json"
# Served by the API, so it is part of the package.
OPENAPI: Final = FOLDER.parents[1] / "shared" / "agent_credits" / "api" / "openapi.json"


def pages() -> dict[Path, str]:
    """Return every file of the reference as it should be."""
    written = {
        page: blocks.refreshed(page.read_text(), OWNER, BLOCKS) for page in FOLDER.glob("*.md")
    }
    return {
        **written,
        FOLDER / SCHEMA: events.event_schema(),
        OPENAPI: http_api.openapi(),
    }


def main() -> None:
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
