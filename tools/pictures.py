"""Draws the pictures of the documentation: notices as they look in Slack, from golden files.

`make pictures` writes docs/pictures/; tests/repository/test_pictures.py checks that they are still
what the code posts.
"""

import io
import json
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from agent_credits_cli.slack_view import WIDTH_MAX, slack_view

# The bar, and the room beside it.
MARGIN = 4

ROOT = Path(__file__).parents[1]
MESSAGES = ROOT / "tests" / "unit" / "notices" / "golden" / "slack"
PICTURES = ROOT / "docs" / "pictures"

# By the name of the picture: the golden message, and what the picture is called.
DRAWN = {
    "run-failed": ("insufficient_credits--after_decline", "#agent-credits: a run failed"),
    "run-paused": ("insufficient_credits--paused", "#agent-credits: a run is to pause"),
    "credits-low": ("credits_low", "#agent-credits: an account is low"),
}

# An emoji is drawn by whatever font there is, or as an empty box; these every font can draw.
GLYPHS = {":rotating_light:": "●", ":warning:": "⚠"}

# Slack's own colours, on a white that stands out from that of a page.
THEME = TerminalTheme(
    (246, 246, 246),
    (29, 28, 29),
    [(29, 28, 29), (224, 30, 90), (46, 182, 125), (236, 178, 46)] + [(97, 96, 97)] * 4,
)


def draw(name: str) -> str:
    """Return the picture as SVG; the same message gives the same text each time."""
    message, title = DRAWN[name]
    text = (MESSAGES / f"{message}.json").read_text()
    for emoji, glyph in GLYPHS.items():
        text = text.replace(emoji, glyph)
    payload = json.loads(text)
    console = Console(
        record=True,
        file=io.StringIO(),
        width=WIDTH_MAX + MARGIN,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print()
    for attachment in payload["attachments"]:
        console.print(slack_view(attachment))
    return console.export_svg(title=title, theme=THEME, unique_id=f"picture-{name}")


def write() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in DRAWN:
        (PICTURES / f"{name}.svg").write_text(draw(name))


if __name__ == "__main__":
    write()
