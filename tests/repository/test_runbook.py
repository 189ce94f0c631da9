"""Each alarm names its entry of the runbook, and the runbook has no other."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from agent_credits.values import errors
from agent_credits_cli.queues import QUEUE_NAMES
from tests.emitted_metrics import ROOT, Emitted, by_the_code
from tests.template import load_template

HOW_TO = ROOT / "docs" / "how-to"
RUNBOOK = (HOW_TO / "runbook.md").read_text()
ENTRIES = dict(
    re.findall(r"^### (\w+)\n\n(.+?)(?=^##|\Z)", RUNBOOK, flags=re.MULTILINE | re.DOTALL)
)
ALARMS: dict[str, dict[str, Any]] = {
    name: resource["Properties"]
    for name, resource in load_template()["Resources"].items()
    if resource["Type"] == "AWS::CloudWatch::Alarm"
}
# What the helpers of the page take: a function with a message of its log, a function, a queue.
LOG = re.compile(r"`log (\w+) \"?([\w ]+?)\"?`")
CRASHES = re.compile(r"`crashes (\w+)`")
REDRIVE = re.compile(r"`agent-credits dead-letters redrive --all --queue ([\w-]+)`")
METRIC = re.compile(r"`([A-Z]\w+)`")


def test_each_alarm_has_an_entry_and_each_entry_an_alarm() -> None:
    assert sorted(ENTRIES) == sorted(ALARMS)


@pytest.mark.parametrize("alarm", ALARMS)
def test_the_description_of_an_alarm_names_its_entry(alarm: str) -> None:
    # The anchor is the heading in lower case; `make docs` checks those of links.
    runbook = f" Runbook: docs/how-to/runbook.md#{alarm.lower()}"

    assert ALARMS[alarm]["AlarmDescription"].endswith(runbook)


@pytest.mark.parametrize("alarm", ENTRIES)
def test_an_entry_says_what_it_means_what_to_look_at_and_what_to_do(alarm: str) -> None:
    bold = re.findall(r"^- \*\*(.+?)\*\*", ENTRIES[alarm], flags=re.MULTILINE)

    assert [word.rstrip(":") for word in bold] == ["Means", "Look at", "Do"]


def test_the_entry_about_postponed_events_has_every_cause() -> None:
    # A missing account is a rejection, no event needs the row of a team that does not exist, only
    # Announce announces, and what needs more rows is committed with them at once.
    never = {
        errors.AccountMissing,
        errors.TeamMissing,
        errors.NotAnnounceable,
        errors.MoreRowsNeeded,
    }
    causes = {error.__name__ for error in set(errors.AgentCreditsError.__subclasses__()) - never}

    listed = re.findall(r"^    - `(\w+)`:", ENTRIES["EventsPostponedAlarm"], flags=re.MULTILINE)

    assert set(listed) == {cause for cause in causes if hasattr(errors, cause)}


def test_what_the_entries_ask_to_look_at_exists() -> None:
    functions = {path.parent.name for path in (ROOT / "functions").glob("*/app.py")}
    logged, crashed = LOG.findall(RUNBOOK), CRASHES.findall(RUNBOOK)
    redriven = REDRIVE.findall(RUNBOOK)

    assert min(map(len, (logged, crashed, redriven))) > 3
    assert {function for function, _ in logged} | set(crashed) <= functions
    for function, message in logged:
        code = (ROOT / "functions" / function / "app.py").read_text()
        code += (ROOT / "shared/agent_credits/intake/debited_batch.py").read_text()
        code += (ROOT / "shared/agent_credits/aws/http_api.py").read_text()
        assert f'"{message}"' in code, (function, message)
    assert set(redriven) == set(QUEUE_NAMES)


def metrics_of_the_guide() -> Iterator[Emitted]:
    """Yield what the table of metrics lists: a function, its metrics, and some by one dimension."""
    section = (HOW_TO / "operate.md").read_text().partition("## Logs and metrics")[2]
    usual = {"stack", "service"}
    for line in section.splitlines():
        if not line.startswith("| `"):
            continue
        service, names, names_by = (cell.strip() for cell in line.strip("|").split("|"))
        for name in METRIC.findall(names):
            yield Emitted(service.strip("`"), name, frozenset(usual))
        for name in METRIC.findall(names_by):
            dimension = names_by.split()[-1].strip("`")
            yield Emitted(service.strip("`"), name, frozenset({*usual, dimension}))


def test_the_guide_lists_the_metrics_that_the_functions_emit() -> None:
    emitted = {metric for metric in by_the_code() if metric.name != "ColdStart"}

    assert set(metrics_of_the_guide()) == emitted
