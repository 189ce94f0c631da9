"""What `make docs` does not see: links outside of the site, and files that a page shows."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from agent_credits_cli.commands.outputs import variable_of
from tests.template import load_template

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
MKDOCS = ROOT / ".tools" / "docs" / "bin" / "mkdocs"
FRONT = sorted(ROOT.glob("*.md"))
PAGES = sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
SHOWN_FILE = re.compile(
    r'^```\w+ title="(?P<path>[^"]+\.\w+)"\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL
)
SHELL = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"`(?P<path>(?:shared|functions|tests|tools|docs|events|data|\.ci)/[\w./-]+)`")


def links(page: Path) -> list[str]:
    targets = (found["target"] for found in LINK.finditer(page.read_text()))
    return [target for target in targets if "://" not in target]


@pytest.mark.parametrize(
    "page",
    [*FRONT, ROOT / "data" / "README.md", ROOT / "clients" / "python" / "README.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_a_link_of_a_page_outside_of_the_site_leads_to_a_file(page: Path) -> None:
    # `make docs` checks the links and anchors of the site itself.
    missing = [link for link in links(page) if not (page.parent / link.partition("#")[0]).exists()]

    assert missing == []


def test_the_pages_have_links_to_check() -> None:
    assert len(links(ROOT / "README.md")) > 10


@pytest.mark.parametrize("page", [*FRONT, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_files_that_exist(page: Path) -> None:
    named = {found["path"] for found in PATH.finditer(page.read_text())}

    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_files_as_they_are(page: Path) -> None:
    for shown in SHOWN_FILE.finditer(page.read_text()):
        assert shown["text"] in (ROOT / shown["path"]).read_text()


def test_the_tutorial_shows_its_files() -> None:
    tutorial = (ROOT / "docs" / "tutorial" / "index.md").read_text()

    shown = {found["path"] for found in SHOWN_FILE.finditer(tutorial)}

    assert shown == {
        "docs/tutorial/world.toml",
        "docs/tutorial/world-with-reload.toml",
        "docs/tutorial/events/first.json",
    }


def test_the_reload_of_the_tutorial_is_added_to_its_first_file() -> None:
    folder = ROOT / "docs" / "tutorial"

    later = (folder / "world-with-reload.toml").read_text()

    assert later.startswith((folder / "world.toml").read_text())


def test_every_decision_is_in_the_index() -> None:
    index, _, entries = (
        (ROOT / "docs" / "explanation" / "decisions.md").read_text().partition("\n## ")
    )

    titles = re.findall(r"^(?:## )?\d{4}-\d{2}-\d{2} (.+)$", entries, re.MULTILINE)

    assert len(titles) > 40
    assert [title for title in titles if f"- [{title}](#" not in index] == []
    assert index.count("](#") == len(titles)


def test_each_variable_of_an_output_is_one_that_the_command_exports() -> None:
    exported = {variable_of(output) for output in load_template()["Outputs"]}
    used: set[str] = set()
    for page in (*FRONT, *PAGES):
        text = page.read_text()
        own = set(re.findall(r"^([A-Z_]+)=", text, re.MULTILINE))
        used |= set(re.findall(r"\$([A-Z_]+_(?:URL|ARN|NAME))\b", text)) - own

    assert used >= {"AGENT_RUNS_QUEUE_URL", "STRIPE_SECRET_ARN", "LEDGER_TABLE_NAME"}
    assert used <= exported


def test_a_page_defines_the_functions_of_the_shell_that_its_commands_call() -> None:
    called, defined = set[tuple[Path, str]](), set[tuple[Path, str]]()
    for page in PAGES:
        commands = "\n".join(SHELL.findall(page.read_text()))
        called |= {(page, name) for name in re.findall(r"\$\(([\w./-]+)", commands)}
        defined |= {(page, name) for name in re.findall(r"^(\w+)\(\) \{", commands, re.MULTILINE)}

    programs = {"aws", "python3", ".venv/bin/agent-credits"}
    undefined = {(page.name, name) for page, name in called - defined if name not in programs}

    assert len(called & defined) > 1
    assert undefined == set()


@pytest.mark.skipif(not MKDOCS.exists(), reason="run make .tools/docs/.ready first")
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[gone](gone.md)", "is not found among documentation files"),
        ("[gone](other.md#gone)", "does not contain an anchor"),
        ("![gone](gone.svg)", "is not found among documentation files"),
        ("[outside](../README.md)", "is not found among documentation files"),
    ],
)
def test_a_broken_link_fails_what_make_docs_runs(text: str, complaint: str, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "index.md").write_text(f"# Page\n\n{text}\n\n[other](other.md)\n")
    (folder / "other.md").write_text("# Other\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: {folder}\nsite_dir: {tmp_path / 'site'}\n"
        "nav: [index.md, other.md]\n"
    )
    (command,) = re.findall(r"^\t@(\.tools/docs/bin/mkdocs build.*)$", MAKEFILE, re.MULTILINE)

    built = subprocess.run(
        [*command.split(), "--config-file", config],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert built.returncode != 0
    assert complaint in built.stderr
