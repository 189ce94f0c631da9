"""The commands of the tutorial and of the README print exactly what these pages show."""

from pathlib import Path

import pytest

from tests.e2e.pages import PAGES, fences, run_page, shows, terminal


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=["tutorial", "README"])
def test_a_page_shows_what_its_commands_print(page: Path, tmp_path: Path) -> None:
    text = page.read_text()

    # Nothing is up: the page starts a stack itself.
    with terminal(tmp_path) as opened:
        now = run_page(text, opened, lambda shown, printed, _: shows(shown, printed))

    assert now == text, "run make tutorial"


def test_the_pages_have_commands_to_run() -> None:
    for page in PAGES:
        kinds = [fence.kind for fence in fences(page.read_text())]

        assert kinds.count("sh") >= 4
        assert kinds.count("text") >= 2


def test_another_amount_is_noticed_and_another_time_is_not() -> None:
    shown = "drew 12.5 credits at 2026-11-26 12:43:18Z\n…\nin all 3\n"

    assert shows(shown, "drew 12.5 credits at 2027-01-02 03:04:05Z\none\ntwo\nin all 3\n")
    assert not shows(shown, "drew 12.6 credits at 2026-11-26 12:43:18Z\nin all 3\n")
    assert not shows(shown, "drew 12.5 credits at 2026-11-26 12:43:18Z\nin all 3\nand more\n")
