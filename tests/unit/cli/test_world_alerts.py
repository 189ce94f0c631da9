"""`[teams.alerts]` in the file that `agent-credits apply` takes."""

from pathlib import Path

import pytest

from tests.unit.cli.test_world import WORLD, changed, complaint_about, load_world


def with_alerts(alerts: str) -> str:
    return changed("anchor = 2025-01-31\n", f"anchor = 2025-01-31\n\n[teams.alerts]\n{alerts}\n")


@pytest.mark.parametrize(
    ("text", "low"),
    [
        (WORLD, ["30%", "10%"]),
        (with_alerts(""), ["30%", "10%"]),
        (with_alerts('low = ["50%", "100", 20]'), ["50%", "100", "20"]),
        (with_alerts("low = []"), []),
    ],
)
def test_reads_the_thresholds_of_a_team(text: str, low: list[str], tmp_path: Path) -> None:
    file = tmp_path / "world.toml"
    file.write_text(text)

    world = load_world(file)

    assert [str(threshold) for threshold in world.teams[0].alerts.low] == low
    assert [str(threshold) for threshold in world.teams[1].alerts.low] == ["30%", "10%"]


@pytest.mark.parametrize(
    ("alerts", "complaint"),
    [
        (
            'low = ["30%", "a third"]',
            (
                ": teams[0].alerts.low[1]: a threshold is a share of the plan from "
                '"1%" to "100%", or credits such as "50"; '
                "'a third' is neither"
            ),
        ),
        (
            'low = ["30%", "30 %"]',
            ": teams[0].alerts.low: the threshold 30% is listed twice; remove one of them",
        ),
        (
            'high = ["90%"]',
            (": teams[0].alerts.high: is not a known key; remove it or correct its spelling"),
        ),
        (
            'low = "30%"',
            ": teams[0].alerts.low: Input should be a valid array; correct the value",
        ),
    ],
)
def test_rejects_an_invalid_threshold_and_names_its_place(
    alerts: str, complaint: str, tmp_path: Path
) -> None:
    assert complaint_about(tmp_path / "world.toml", with_alerts(alerts)) == complaint
