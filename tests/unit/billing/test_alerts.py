"""A team's thresholds: what is accepted, and how they are stored."""

import json

import pytest
from pydantic import ValidationError

from agent_credits.aws.items import team_from_item, team_item
from agent_credits.billing.alerts import THRESHOLDS_MAX, Alerts
from agent_credits.ledger.thresholds import Threshold, parse_threshold
from tests.unit.builders import ACME

TEAM = ACME.model_copy(update={"version": 1})


@pytest.mark.parametrize(
    ("written", "threshold"),
    [
        ("30%", Threshold("percent", 30)),
        ("5 %", Threshold("percent", 5)),
        ("100%", Threshold("percent", 100)),
        ("50", Threshold("microcredits", 50_000_000)),
        ("0.5", Threshold("microcredits", 500_000)),
        (50, Threshold("microcredits", 50_000_000)),
    ],
)
def test_a_threshold_is_a_percentage_or_credits(written: str | int, threshold: Threshold) -> None:
    assert parse_threshold(written) == threshold
    assert parse_threshold(str(threshold)) == threshold


@pytest.mark.parametrize("written", ["0%", "101%", "2.5%", "-5", "0", "%", "", 0.3, None, True])
def test_anything_else_is_rejected_with_a_sentence(written: object) -> None:
    with pytest.raises(ValueError, match=r"^a threshold is a share of the plan .* is neither$"):
        parse_threshold(written)


def test_a_threshold_may_be_listed_once() -> None:
    with pytest.raises(ValidationError, match="the threshold 30% is listed twice"):
        Alerts.model_validate({"low": ["30%", "10%", "30 %"]})


def test_the_number_of_thresholds_is_bounded() -> None:
    low = [str(number) for number in range(1, THRESHOLDS_MAX + 1)]
    assert len(Alerts.model_validate({"low": low}).low) == THRESHOLDS_MAX

    with pytest.raises(ValidationError):
        Alerts.model_validate({"low": [*low, "10%"]})


def test_the_default_thresholds_are_30_and_10_percent() -> None:
    assert [str(threshold) for threshold in Alerts().low] == ["30%", "10%"]


@pytest.mark.parametrize("low", [["50", "20%"], []], ids=["other", "none"])
def test_thresholds_are_read_back_from_the_row_as_they_were_written(low: list[str]) -> None:
    team = TEAM.model_copy(update={"alerts": Alerts.model_validate({"low": low})})

    assert team_from_item(team_item(team)) == team


def test_an_older_version_can_read_a_row_with_default_alerts() -> None:
    settings = json.loads(team_item(TEAM)["settings"]["S"])

    assert "alerts" not in settings
    assert team_from_item(team_item(TEAM)) == TEAM
