"""A team's thresholds, from the operator's file to the notices and the output of `account`."""

import json

import pytest

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.teams import Team
from agent_credits.commit.write_protocol import commit
from agent_credits_cli.holdings import holdings_at, holdings_to_json
from tests.integration.test_apply import Declare, applied, differences, team
from tests.integration.test_apply import declare as declare
from tests.integration.test_operator_reads import Run, debit
from tests.integration.test_operator_reads import run as run
from tests.integration.test_operator_reads import settled as settled
from tests.unit.builders import (
    ACME,
    ANA,
    NOW,
    ON,
    POLICY,
    open_account,
    pause,
    plan_change,
    run_change,
    usage,
)

ALERTED = ("anchor = 2025-01-15\n", 'anchor = 2025-01-15\nalerts = { low = ["50%", "20"] }\n')
SILENCED = ("anchor = 2025-01-15\n", "anchor = 2025-01-15\nalerts = { low = [] }\n")


def test_other_thresholds_are_shown_and_lift_no_decline_of_a_reload(
    rows: DynamoDBRows, declare: Declare
) -> None:
    applied(rows, declare())
    before = team(rows, "acme")

    steps = applied(rows, declare(ALERTED))

    assert differences(steps) == [
        ("team", "acme", "alerts", "low below 30%, 10%", "low below 50%, 20")
    ]
    assert team(rows, "acme").settings_version == before.settings_version
    assert team(rows, "acme").version == before.version + 1
    assert applied(rows, declare(ALERTED)) == []


def test_thresholds_can_be_switched_off(rows: DynamoDBRows, declare: Declare) -> None:
    steps = applied(rows, declare(SILENCED))

    assert ("team", "acme", "alerts", None, "off") in differences(steps)
    assert team(rows, "acme").alerts.low == ()


@pytest.mark.usefixtures("settled")
def test_a_team_shows_its_thresholds(run: Run, rows: DynamoDBRows) -> None:
    open_account(rows)

    shown = json.loads(run("team", "acme", "--json").stdout)

    assert shown["alerts"] == {"low": ["30%", "10%"]}
    assert "alerts: low below 30%, 10%" in run("team", "acme").stdout


@pytest.mark.usefixtures("settled")
def test_an_account_shows_its_notified_thresholds(run: Run, rows: DynamoDBRows) -> None:
    # No period begins between the run and the day of this test, so no refill lifts the account.
    open_account(rows)
    debit(rows, usage("e1", "75"))

    shown = json.loads(run("account", "user:ana", "--json").stdout)

    assert shown["low"] == {
        "notified": ["30%"],
        "deferred": [],
        "percent_of_credits": "100",
        "decline": "auto_reload_off",
    }
    line = (
        "Low: below 30% of 100 credits; subscribers were notified. No reload: auto-reload is off."
    )
    assert line in run("account", "user:ana").stdout


def reloading_team() -> Team:
    return ACME.model_copy(
        update={"version": 2, "auto_reload": ON.model_copy(update={"threshold_microcredits": 1})}
    )


@pytest.mark.usefixtures("settled")
def test_an_account_shows_its_deferred_thresholds(run: Run, rows: DynamoDBRows) -> None:
    open_account(rows)
    change = run_change(usage("e1", "75"), reloading_team())
    commit(rows, ANA, [change], now=NOW, pause=pause)

    shown = run("account", "user:ana").stdout

    assert (
        "Low: below 30% of 100 credits; the notice is deferred because a reload may help." in shown
    )


def test_a_refill_that_is_due_is_taken_into_account(settled: DynamoDBRows) -> None:
    open_account(settled, plan_change("100"))
    debit(settled, usage("e1", "75"))
    row = settled.read_account(ANA)
    assert row is not None

    now = holdings_to_json(holdings_at(row, POLICY, NOW))
    in_the_next_period = holdings_to_json(holdings_at(row, POLICY, NOW.replace(month=12)))

    assert now["low"]["notified"] == ["30%"]
    assert in_the_next_period["low"] is None
