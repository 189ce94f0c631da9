"""A message for Slack as Slack shows it: its colour, headline, facts in two columns, steps."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.emoji import Emoji
from rich.table import Table
from rich.text import Text

# <!date^seconds^format|what is shown where the format is not known>
DATE: Final = re.compile(r"<!date\^[^|>]*\|([^>]*)>")
BOLD: Final = re.compile(r"\*([^*\n]+)\*")
WIDTH_MAX: Final = 88


def slack_view(attachment: Mapping[str, Any]) -> RenderableType:
    """Return a posted message as a terminal shows it."""
    parts: list[RenderableType] = []
    for block in attachment["blocks"]:
        # An empty line, as Slack leaves room between blocks.
        parts += [Text(""), *_block(block)] if parts else _block(block)
    message = Table.grid()
    # The coloured bar at the left of an attachment, and a margin.
    message.add_column(width=1, style=f"on {attachment['color']}")
    message.add_column(width=2)
    message.add_column(width=WIDTH_MAX)
    message.add_row("", "", Group(*parts))
    return message


def _block(block: Mapping[str, Any]) -> Iterator[RenderableType]:
    match block["type"]:
        case "header":
            yield Text(_shown(block["text"]["text"]), style="bold")
        case "context":
            elements = [_markdown(element["text"]) for element in block["elements"]]
            yield Text(" · ", style="dim").join(elements)
        case "section" if "fields" in block:
            yield _two_columns([_markdown(field["text"]) for field in block["fields"]])
        case "section":
            yield _markdown(block["text"]["text"])
        case _:
            # Slack's own text for a block that a client does not know.
            yield Text("This content can't be displayed.", style="dim")


def _two_columns(fields: list[Text]) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    for start in range(0, len(fields), 2):
        if start:
            grid.add_row()
        row = fields[start : start + 2]
        grid.add_row(*row, *[Text("")] * (2 - len(row)))
    return grid


def _markdown(text: str) -> Text:
    """Return text with the part of Slack's markup that our messages use."""
    shown = Text()
    end = 0
    for bold in BOLD.finditer(text):
        shown.append(_shown(text[end : bold.start()]))
        shown.append(_shown(bold[1]), style="bold")
        end = bold.end()
    shown.append(_shown(text[end:]))
    return shown


def _shown(text: str) -> str:
    text = DATE.sub(r"\1", Emoji.replace(text))
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
