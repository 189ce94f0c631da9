"""Nothing that a security tool finds is passed over without a reason that can be judged."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.template import Template, load_template

ROOT = Path(__file__).parents[2]
ACCEPTED = ROOT / "tools" / "accepted-advisories"
# Fewer words than these hardly make a reason.
REASON_WORDS_MIN = 5


def unexplained_suppressions(template: Template) -> Iterator[str]:
    for name, resource in template["Resources"].items():
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
            if len(skip.get("comment", "").split()) < REASON_WORDS_MIN:
                yield f"{name} does not say why {skip['id']} does not hold for it"


def unexplained_advisories(text: str) -> Iterator[str]:
    for line in text.splitlines():
        advisory, _, reason = line.partition("#")
        if advisory.strip() and len(reason.split()) < REASON_WORDS_MIN:
            yield f"{advisory.strip()} is accepted without a reason"


def unexplained_lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        marked = re.search(r"#\s*nosec\b(.*)", line)
        if marked and not re.fullmatch(r" B\d{3} - .{20,}", marked[1]):
            yield line.strip()


def test_every_suppression_in_the_template_carries_its_reason() -> None:
    assert list(unexplained_suppressions(load_template())) == []


def test_every_accepted_advisory_carries_its_reason() -> None:
    assert list(unexplained_advisories(ACCEPTED.read_text())) == []


def test_every_line_that_bandit_passes_over_says_which_check_and_why() -> None:
    sources = [
        p
        for top in ("shared", "functions", "cli", "local", "tools")
        for p in ROOT.glob(f"{top}/**/*.py")
    ]

    assert len(sources) > 50
    assert [(p, line) for p in sources for line in unexplained_lines(p.read_text())] == []


def test_a_suppression_without_a_reason_is_noticed() -> None:
    template = load_template()
    skips = template["Resources"]["LedgerTable"]["Metadata"]["checkov"]["skip"]
    skips[0]["comment"] = "false positive"

    assert list(unexplained_suppressions(template)) == [
        f"LedgerTable does not say why {skips[0]['id']} does not hold for it"
    ]


@pytest.mark.parametrize("line", ["PYSEC-2026-1", "PYSEC-2026-1  # later"])
def test_an_accepted_advisory_without_a_reason_is_noticed(line: str) -> None:
    assert list(unexplained_advisories(line)) == ["PYSEC-2026-1 is accepted without a reason"]


@pytest.mark.parametrize("mark", ["# nosec", "# nosec B608", "# nosec because it is safe, really"])
def test_a_line_passed_over_without_a_reason_is_noticed(mark: str) -> None:
    assert list(unexplained_lines(f"run(x)  {mark}")) == [f"run(x)  {mark}"]
    assert list(unexplained_lines("run(x)  # nosec B608 - The name is the stack's own.")) == []
