"""The pictures in the documentation show what is posted: drawn again, they are the same."""

from xml.etree import ElementTree

import pytest

from tools.pictures import DRAWN, PICTURES, ROOT, draw


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_drawn_from_todays_message(name: str) -> None:
    assert draw(name) == (PICTURES / f"{name}.svg").read_text(), "run make pictures"


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_an_svg_that_a_page_shows(name: str) -> None:
    picture = PICTURES / f"{name}.svg"

    assert ElementTree.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - it is ours.
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert any(f"pictures/{picture.name})" in page.read_text() for page in pages)
