"""`agent-credits report` against the stack's tables: it reads only accounts and ledgers."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.commit.write_protocol import commit
from agent_credits_cli.commands import report
from agent_credits_cli.errors import CommandGroup
from agent_credits_cli.target import Target
from tests.unit.builders import (
    ACME,
    ANA,
    BIGCORP_TEAM,
    OLGA,
    POLICY,
    TRIGGERS,
    finished,
    grant_change,
    open_account,
    pause,
    run_change,
    usage,
)

Run = Callable[..., Result]

NOW = datetime.now(UTC)
# Noon, so that neither the clock nor the length of the test moves an event to another day.
YESTERDAY = NOW.replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)


@pytest.fixture
def run(target: Target, monkeypatch: pytest.MonkeyPatch) -> Run:
    app = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)
    monkeypatch.setattr(report, "connect", lambda _: target)
    app.command()(report.report)
    app.command()(lambda: None)  # A single command would be called without its name.
    return lambda *arguments: CliRunner().invoke(app, ["report", *arguments])


@pytest.fixture
def burned(rows: DynamoDBRows) -> DynamoDBRows:
    """Ana burns 20 credits a day for 40 days over several pages; a nightly run of Olga's failed."""
    rows.put_policy(POLICY)
    for team in (ACME, BIGCORP_TEAM):
        rows.compare_and_set_team(team.model_copy(update={"version": 1}))
    begin = YESTERDAY - timedelta(days=39)
    for principal in (ANA, OLGA):
        change = grant_change("g-1", credits="1000", principal=principal)
        open_account(rows, change, now=begin - timedelta(hours=1))
    for day in range(40):
        at = begin + timedelta(days=day)
        documents = [usage(f"e{day}-{n}", "10", run=f"run-{day}", time=at) for n in range(2)]
        commit(rows, ANA, [run_change(d) for d in documents], now=at, pause=pause)
    nightly = {"trigger": TRIGGERS["schedule"], "run": "nightly-1", "time": YESTERDAY}
    for document in (usage("n1", "300", **nightly), finished("n2", "error", **nightly)):
        commit(rows, OLGA, [run_change(document)], now=YESTERDAY, pause=pause)
    return rows


def burned_of(document: dict[str, Any]) -> list[str]:
    return [document[f"burned_{days}_credits"] for days in ("1_day", "7_days", "30_days")]


@pytest.mark.usefixtures("burned")
def test_the_report_shows_what_each_account_holds_and_burns(run: Run) -> None:
    shown = json.loads(run("acme", "--json").stdout)

    assert shown["accounts_count"] == 2
    assert burned_of(shown) == ["20", "140", "600"]
    ana, olga = shown["accounts"]
    assert (ana["principal"], ana["available_credits"]) == ("user:ana", "200")
    assert burned_of(ana) == ["20", "140", "600"]
    assert ana["exhausted_on"] == (NOW + timedelta(days=10)).date().isoformat()
    assert (olga["principal"], olga["available_credits"]) == ("user:olga", "1000")
    assert burned_of(olga) == ["0", "0", "0"]
    assert olga["exhausted_on"] is None


@pytest.mark.usefixtures("burned")
def test_the_report_for_people_says_the_same(run: Run) -> None:
    shown = run("acme").stdout

    assert "Team acme holds 1,200 credits." in shown
    assert "user:ana: 200 credits\n" in shown
    assert "  pools: trial empty, plan empty, add_on 200 credits left\n" in shown
    assert "  burned: 20 in 1 day, 140 in 7 days, 600 in 30 days\n" in shown


@pytest.mark.usefixtures("burned")
def test_a_team_without_accounts_has_a_report_too(run: Run) -> None:
    shown = json.loads(run("bigcorp", "--json").stdout)

    assert (shown["accounts"], shown["available_credits"]) == ([], "0")


@pytest.mark.usefixtures("burned")
def test_an_unknown_team_is_rejected_by_name(run: Run) -> None:
    result = run("nobody")

    assert result.exit_code != 0
    assert "there is no team nobody" in result.output


def test_pages_are_read_newest_first_and_no_further_than_asked(burned: DynamoDBRows) -> None:
    row = burned.read_account(ANA)
    assert row is not None

    newest = list(burned.read_newest_pages(ANA))

    assert newest == list(burned.read_pages(ANA))[::-1]
    assert len(newest) > 5
    assert next(iter(burned.read_newest_pages(ANA))).number == row.page_number - 1
