"""The pictures of the README show what is posted: drawn anew, they are the committed ones."""

from xml.etree import ElementTree

import pytest

from tools.pictures import DRAWN, PICTURES, ROOT, draw


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_drawn_from_todays_message(name: str) -> None:
    assert draw(name) == (PICTURES / f"{name}.svg").read_text(), "draw it anew: make pictures"


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_an_svg_that_the_readme_shows(name: str) -> None:
    picture = PICTURES / f"{name}.svg"

    assert ElementTree.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - it is ours.
    assert str(picture.relative_to(ROOT)) in (ROOT / "README.md").read_text()
