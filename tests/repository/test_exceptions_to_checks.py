"""Nothing that a security tool finds is passed over without a reason that can be judged, and no
exception outlives what it was made for.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.template import Template, load_template

ROOT = Path(__file__).parents[2]
ACCEPTED = ROOT / "tools" / "accepted-advisories"
CHECKOV = ROOT / ".tools" / "checkov"
CHECKOV_CONFIGURATION = ROOT / ".checkov.yaml"
CHECKOV_SECONDS_MAX = 120
# What the configuration may set. Anything else could let a finding pass: `soft-fail`, for one.
CHECKOV_SETTINGS = {"framework", "skip-download", "compact", "quiet", "skip-check"}
# Fewer words than these hardly make a reason.
REASON_WORDS_MIN = 5

# A check and the logical id of the resource that does not pass it.
Finding = tuple[str, str]


def skips_at_resources(template: Template) -> Iterator[tuple[str, dict[str, str]]]:
    for name, resource in template["Resources"].items():
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
            yield name, skip


def skips_everywhere(configuration: str) -> list[str]:
    skips: list[str] = yaml.safe_load(configuration)["skip-check"]
    assert isinstance(skips, list)
    return skips


def reasons(configuration: str) -> dict[str, str]:
    """Return, for each check that stands on a line of its own, the comment right above it."""
    found: dict[str, str] = {}
    comment: list[str] = []
    for line in configuration.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.strip(" #"))
            continue
        if skipped := re.fullmatch(r" *- (\w+)", line):
            found[skipped[1]] = " ".join(comment)
        comment = []
    return found


def unexplained_suppressions(template: Template) -> Iterator[str]:
    for name, skip in skips_at_resources(template):
        if len(skip.get("comment", "").split()) < REASON_WORDS_MIN:
            yield f"{name} does not say why {skip['id']} does not hold for it"


def unexplained_skips(configuration: str) -> Iterator[str]:
    for check in skips_everywhere(configuration):
        if len(reasons(configuration).get(check, "").split()) < REASON_WORDS_MIN:
            yield f"{CHECKOV_CONFIGURATION.name} does not say why {check} is skipped"


def stale_skips(template: Template, configuration: str, findings: set[Finding]) -> Iterator[str]:
    everywhere = skips_everywhere(configuration)
    for check in everywhere:
        if check not in {found for found, _ in findings}:
            yield f"{check} is skipped everywhere, and finds nothing"
    for name, skip in skips_at_resources(template):
        if (skip["id"], name) not in findings or skip["id"] in everywhere:
            yield f"{skip['id']} is skipped at {name} without need"


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


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> set[Finding]:
    """Everything that checkov finds in the template when nothing is skipped."""
    if not (CHECKOV / ".ready").exists():
        reason = "checkov is not installed; `make .tools/checkov/.ready` does that"
        assert "CI" not in os.environ, reason
        pytest.skip(reason)
    template = load_template()
    for resource in template["Resources"].values():
        resource.get("Metadata", {}).pop("checkov", None)
        # checkov leaves out what is deployed only under a condition.
        resource.pop("Condition", None)
    # Where no .checkov.yaml is, so that its skips are not read.
    folder = tmp_path_factory.mktemp("checkov")
    (folder / "template.json").write_text(json.dumps(template))
    answer = subprocess.run(
        [
            *(CHECKOV / "bin" / "checkov", "--file", "template.json", "--output", "json"),
            *("--framework", "cloudformation", "--skip-download", "--quiet", "--compact"),
        ],
        cwd=folder,
        capture_output=True,
        timeout=CHECKOV_SECONDS_MAX,
        check=False,
    )
    report: dict[str, Any] = json.loads(answer.stdout)
    return {
        (failed["check_id"], failed["resource"].rpartition(".")[2])
        for failed in report["results"]["failed_checks"]
    }


def test_every_suppression_in_the_template_carries_its_reason() -> None:
    assert list(unexplained_suppressions(load_template())) == []


def test_every_check_that_is_skipped_everywhere_carries_its_reason() -> None:
    assert list(unexplained_skips(CHECKOV_CONFIGURATION.read_text())) == []


def test_every_skip_still_hides_a_finding(findings: set[Finding]) -> None:
    configuration = CHECKOV_CONFIGURATION.read_text()

    assert list(stale_skips(load_template(), configuration, findings)) == []


def test_the_configuration_of_checkov_lets_no_other_finding_pass() -> None:
    assert yaml.safe_load(CHECKOV_CONFIGURATION.read_text()).keys() == CHECKOV_SETTINGS


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
    skips = template["Resources"]["SlackPostsTable"]["Metadata"]["checkov"]["skip"]
    skips[0]["comment"] = "false positive"

    assert list(unexplained_suppressions(template)) == [
        f"SlackPostsTable does not say why {skips[0]['id']} does not hold for it"
    ]


@pytest.mark.parametrize(
    "skips",
    [
        "  - CKV_AWS_1",
        "  # false positive\n  - CKV_AWS_1",
        "  # Five words or even more.\n\n  - CKV_AWS_1",
        "  # Five words or even more.\n  - CKV_AWS_2\n  - CKV_AWS_1",
        "  # Five words or even more.\n  [CKV_AWS_1]",
    ],
)
def test_a_check_that_is_skipped_everywhere_without_a_reason_is_noticed(skips: str) -> None:
    assert list(unexplained_skips(f"skip-check:\n{skips}\n")) == [
        ".checkov.yaml does not say why CKV_AWS_1 is skipped"
    ]


def test_a_skip_that_is_stale_is_noticed(findings: set[Finding]) -> None:
    template = load_template()
    at_queue: dict[str, Any] = {"id": "CKV_AWS_27", "comment": "The same as everywhere."}
    at_table = {"id": "CKV_AWS_28", "comment": "The ledger has backups."}
    resources = template["Resources"]
    resources["AgentRunsQueue"]["Metadata"] = {"checkov": {"skip": [at_queue]}}
    resources["LedgerTable"]["Metadata"] = {"checkov": {"skip": [at_table]}}
    # The last one is about load balancers.
    configuration = "skip-check: [CKV_AWS_27, CKV_AWS_2]"

    assert list(stale_skips(template, configuration, findings)) == [
        "CKV_AWS_2 is skipped everywhere, and finds nothing",
        "CKV_AWS_28 is skipped at LedgerTable without need",
        "CKV_AWS_27 is skipped at AgentRunsQueue without need",
    ]


@pytest.mark.parametrize("line", ["PYSEC-2026-1", "PYSEC-2026-1  # later"])
def test_an_accepted_advisory_without_a_reason_is_noticed(line: str) -> None:
    assert list(unexplained_advisories(line)) == ["PYSEC-2026-1 is accepted without a reason"]


@pytest.mark.parametrize("mark", ["# nosec", "# nosec B608", "# nosec because it is safe, really"])
def test_a_line_passed_over_without_a_reason_is_noticed(mark: str) -> None:
    assert list(unexplained_lines(f"run(x)  {mark}")) == [f"run(x)  {mark}"]
    assert list(unexplained_lines("run(x)  # nosec B608 - The name is the stack's own.")) == []
