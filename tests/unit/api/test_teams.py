"""What is changed of a team through the API, and the record of who changed it."""

from typing import Any

import pytest

from agent_credits.api.audit import AuditEntry
from agent_credits.billing.teams import Team
from tests.api_world import ApiWorld, token, world_with
from tests.memory_rows import MemoryRows
from tests.unit.builders import ACME, RELOADING_ACME, sample_rows

SETTINGS = "/v1/teams/acme/settings"
ADMIN: dict[str, Any] = {"door": "people", "bearer": token("olga", role="billing_admin")}


@pytest.fixture
def world() -> ApiWorld:
    world = world_with("100")
    world.rows.teams["acme"] = RELOADING_ACME.model_copy(update={"members": ACME.members})
    return world


def patch(world: ApiWorld, body: dict[str, Any], **more: Any) -> Any:
    return world.call("PATCH", SETTINGS, body, **{**ADMIN, **more})


def test_a_change_is_recorded_with_who_made_it_when_and_from_what_to_what(world: ApiWorld) -> None:
    got = patch(world, {"spend_cap_cents": 5_000, "alerts_low": ["40%", "20"]})

    assert got.status == 200
    assert got.json["spending"]["spend_cap_cents"] == 5_000
    assert got.json["audit"] == [
        {
            "number": 1,
            "time": "2025-11-21T10:00:00Z",
            "who": "user:olga",
            "action": "settings.changed",
            "request_id": "request-1",
            "changes": [
                {"field": "spend_cap_cents", "before": 20_000, "after": 5_000},
                {"field": "alerts_low", "before": ["30%", "10%"], "after": ["40%", "20"]},
            ],
        }
    ]


def test_a_producer_is_recorded_by_its_arn(world: ApiWorld) -> None:
    got = world.call("PATCH", SETTINGS, {"spend_cap_cents": 1})

    assert got.json["audit"][0]["who"] == "iam:arn:aws:iam::000000000000:role/platform"


def test_what_is_not_named_stays_and_a_change_of_nothing_writes_nothing(world: ApiWorld) -> None:
    before = world.rows.teams["acme"]

    got = patch(world, {"spend_cap_cents": 20_000, "auto_reload": {"enabled": True}})

    assert (got.status, got.json["audit"]) == (200, [])
    assert world.rows.teams["acme"] == before


def test_a_change_of_money_counts_as_a_change_of_the_settings(world: ApiWorld) -> None:
    after_alerts = patch(world, {"alerts_low": []}).json["settings_version"]
    after_cap = patch(world, {"spend_cap_cents": 7}).json["settings_version"]

    assert (after_alerts, after_cap) == (1, 2)


def test_a_change_based_on_older_settings_is_refused(world: ApiWorld) -> None:
    patch(world, {"spend_cap_cents": 5_000}, headers={"if-match": "1"})

    got = patch(world, {"spend_cap_cents": 6_000}, headers={"if-match": "1"})

    assert (got.status, got.json["error"]) == (409, "settings_changed")
    assert world.rows.teams["acme"].spend_cap_cents == 5_000


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"spend_cap_cents": -1}, "spend_cap_cents"),
        ({"spend_cap_cents": "5"}, "spend_cap_cents"),
        ({"auto_reload": {"pack_credits": "7"}}, "auto_reload.pack_credits"),
        ({"auto_reload": {"threshold_credits": "0"}}, "auto_reload.threshold_credits"),
        ({"auto_reload": {"reloads_max": 0}}, "auto_reload.reloads_max"),
        ({"auto_reload": {"pool": "Bad Pool"}}, "auto_reload.pool"),
        ({"alerts_low": ["200%"]}, "alerts_low"),
        ({"alerts_low": ["10%", "10%"]}, "alerts_low"),
        ({"owner": "ana"}, "owner"),
        ({"members": ["eve"]}, "members"),
    ],
)
def test_a_setting_that_will_not_do_is_named_and_nothing_changes(
    world: ApiWorld, body: dict[str, Any], field: str
) -> None:
    before = world.rows.teams["acme"]

    got = patch(world, body)

    assert (got.status, got.json["errors"][0]["field"]) == (422, field)
    assert world.rows.teams["acme"] == before
    assert world.rows.audit == {}


def test_auto_reload_is_turned_on_with_a_threshold_and_a_pack(world: ApiWorld) -> None:
    world.rows.teams["acme"] = ACME.model_copy(update={"version": 1})

    without = patch(world, {"auto_reload": {"enabled": True}})
    reload = {"enabled": True, "threshold_credits": "50", "pack_credits": "400"}
    got = patch(world, {"auto_reload": reload})

    assert without.json["errors"][0] == {
        "field": "auto_reload.threshold_credits",
        "in": "body",
        "complaint": "is missing",
    }
    assert got.json["auto_reload"]["threshold_credits"] == "50"
    assert got.json["audit"][0]["changes"][0]["before"] is None


def test_a_cap_below_what_is_spent_may_warn_again(world: ApiWorld) -> None:
    spent = RELOADING_ACME.spending.model_copy(
        update={"month": "2025-11", "spent_cents": 10_000, "warned_percents": (70, 90, 100)}
    )
    world.rows.teams["acme"] = RELOADING_ACME.model_copy(
        update={"spending": spent, "spend_cap_cents": 10_000}
    )

    patch(world, {"spend_cap_cents": 100_000})

    assert world.rows.teams["acme"].spending.warned_percents == ()


class Raced(MemoryRows):
    """Rows of a team that somebody else changes just before each of the first writes."""

    races = 0

    def compare_and_set_team_audited(self, team: Team, entry: AuditEntry) -> Team | None:
        if self.races:
            self.races -= 1
            newer = self.teams[team.team_id]
            other = newer.model_copy(
                update={"version": newer.version + 1, "plan": f"{newer.plan}+"}
            )
            self.teams[team.team_id] = other
        return super().compare_and_set_team_audited(team, entry)


def test_a_lost_race_is_decided_again_and_leaves_one_entry() -> None:
    rows = Raced()
    rows.policies = sample_rows().policies
    rows.teams["acme"] = RELOADING_ACME
    rows.races = 2
    world = ApiWorld(rows)

    got = patch(world, {"spend_cap_cents": 5_000})

    assert (got.json["plan"], got.json["spending"]["spend_cap_cents"]) == ("max++", 5_000)
    assert [entry["number"] for entry in got.json["audit"]] == [1]


def test_entries_are_numbered_without_a_gap_and_the_newest_are_shown(world: ApiWorld) -> None:
    for cap in range(1, 26):
        patch(world, {"spend_cap_cents": cap})

    got = world.call("GET", "/v1/teams/acme", **ADMIN).json

    assert sorted(number for _, number in world.rows.audit) == list(range(1, 26))
    assert [entry["number"] for entry in got["audit"]] == list(range(25, 5, -1))


def test_the_report_has_what_is_held_and_what_was_spent(world: ApiWorld) -> None:
    got = world.call("GET", "/v1/teams/acme/report", **ADMIN).json

    assert (got["available_credits"], got["accounts_count"]) == ("100", 1)
    assert [window["days"] for window in got["burned"]] == [1, 7, 30]
    assert got["spending"]["head_room_cents"] == 20_000
