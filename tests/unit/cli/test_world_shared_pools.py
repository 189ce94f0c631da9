"""Shared pools in the operator's file, and another policy for a team from a moment on."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent_credits.billing.teams import TENURE_NOTICE, Team
from agent_credits.values.principals import Principal
from agent_credits_cli.errors import CommandError
from agent_credits_cli.stack import read_stack
from agent_credits_cli.steps import carry_out, plan_steps
from agent_credits_cli.world import World
from agent_credits_cli.world_file import load_world
from tests.sample_world import OperatedRows, pause
from tests.unit.cli.test_world import WORLD, complaint_about

NOW = datetime(2026, 12, 1, 9, 0, tzinfo=UTC)
TEAM = Principal("team", "acme")
SWITCH = datetime(2026, 11, 1, tzinfo=UTC)

RULES = WORLD[WORLD.index("[[policy.rules]]") : WORLD.index("[[plans]]")].replace(
    "[[policy.rules]]", "[[policies.rules]]"
)
SHARING = '[[policies]]\nversion = "v2"\n\n' + RULES.replace(
    'payer = "user"\npools = ["plan", "add_on"]',
    'payer = "user"\npools = ["plan", "add_on", "team:shared"]',
)
GRANT = """
[[grants]]
principal = "team:acme"
id = "order-2"
pool = "shared"
credits = "100"
cause = "purchase"
"""


def world_text(team_keys: str = 'policy = "v2"', *, grants: str = GRANT) -> str:
    text = WORLD.replace("[[plans]]", SHARING + "\n[[plans]]", 1)
    text = text.replace('team_id = "acme"', f'team_id = "acme"\n{team_keys}', 1)
    return text + grants


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "world.toml"


def loaded(file: Path, text: str) -> World:
    file.write_text(text)
    return load_world(file)


def applied(rows: OperatedRows, world: World, now: datetime = NOW) -> list[str]:
    """Apply the world; return what it changed, one line each."""
    steps = plan_steps(world, read_stack(rows, world), now)
    carry_out(rows, steps, clock=lambda: now, pause=pause)
    return [f"{d.name}: {d.what}: {d.after}" for step in steps for d in step.differences]


def tenures(team: Team) -> list[tuple[datetime, str]]:
    return [(tenure.since, tenure.policy_version) for tenure in team.tenures]


def test_a_policy_of_one_team_is_applied_beside_that_of_all(file: Path) -> None:
    rows = OperatedRows()

    applied(rows, loaded(file, world_text()))

    assert sorted(rows.policies) == ["v1", "v2"]
    assert tenures(rows.teams["acme"]) == [(NOW, "v2")]
    assert tenures(rows.teams["globex"]) == [(NOW, "v1")]


def test_the_account_of_a_team_that_shares_is_opened_by_its_grants_and_has_no_plan(
    file: Path,
) -> None:
    rows = OperatedRows()

    applied(rows, loaded(file, world_text()))

    account = rows.accounts[TEAM]
    assert account.plan is None
    assert [(g.pool, g.remaining_microcredits) for g in account.grants] == [("shared", 100_000_000)]


def test_without_a_grant_the_team_has_no_account(file: Path) -> None:
    rows = OperatedRows()

    applied(rows, loaded(file, world_text(grants="")))

    assert TEAM not in rows.accounts


def test_applying_it_again_changes_nothing(file: Path) -> None:
    rows, world = OperatedRows(), loaded(file, world_text())
    applied(rows, world)

    assert applied(rows, world, NOW + timedelta(days=1)) == []


def test_a_new_team_may_begin_with_a_policy_of_before(file: Path) -> None:
    rows = OperatedRows()
    text = world_text('policy = "v2"\npolicy_from = 2026-11-01T00:00:00Z')

    changes = applied(rows, loaded(file, text))

    assert "acme: policy: v1 before 2026-11-01 00:00 UTC" in changes
    team = rows.teams["acme"]
    assert team.tenure_at(SWITCH - timedelta(seconds=1)).policy_version == "v1"
    assert team.tenure_at(SWITCH).policy_version == "v2"
    assert applied(rows, loaded(file, text)) == []


def test_a_policy_of_a_team_that_runs_begins_after_a_notice_at_the_earliest(file: Path) -> None:
    rows = OperatedRows()
    applied(rows, loaded(file, WORLD))

    applied(rows, loaded(file, world_text('policy = "v2"\npolicy_from = 2026-11-01T00:00:00Z')))

    assert tenures(rows.teams["acme"]) == [(NOW, "v1"), (NOW + TENURE_NOTICE, "v2")]


def test_a_policy_that_is_to_come_begins_at_its_time_and_all_else_before_it(file: Path) -> None:
    rows, later = OperatedRows(), datetime(2027, 1, 1, tzinfo=UTC)
    applied(rows, loaded(file, WORLD))
    text = world_text('policy = "v2"\npolicy_from = 2027-01-01T00:00:00Z')

    applied(rows, loaded(file, text))
    assert tenures(rows.teams["acme"]) == [(NOW, "v1"), (later, "v2")]
    assert applied(rows, loaded(file, text)) == []

    other_owner = text.replace('owner = "ana"', 'owner = "ben"')
    applied(rows, loaded(file, other_owner))
    owners = [(tenure.since, tenure.owner) for tenure in rows.teams["acme"].tenures]
    assert owners == [(NOW, "ana"), (NOW + TENURE_NOTICE, "ben"), (later, "ben")]
    assert applied(rows, loaded(file, other_owner), later + timedelta(days=1)) == []


def test_an_applied_policy_of_a_team_never_changes(file: Path) -> None:
    rows = OperatedRows()
    applied(rows, loaded(file, world_text()))
    rows.policies["v2"] = rows.policies["v1"].model_copy(update={"version": "v2"})

    with pytest.raises(CommandError, match="policy v2 is already applied with other content"):
        applied(rows, loaded(file, world_text()))


@pytest.mark.parametrize(
    ("team_keys", "place", "reason"),
    [
        ('policy = "v3"', "teams[0].policy", "there is no policy v3; this file declares v1, v2"),
        (
            "policy_from = 2026-11-01T00:00:00Z",
            "teams[0].policy_from",
            "says when another policy begins; name one of [[policies]] as `policy`",
        ),
    ],
)
def test_rejects_a_policy_that_the_file_does_not_declare(
    file: Path, team_keys: str, place: str, reason: str
) -> None:
    complaint = complaint_about(file, world_text(team_keys))

    assert place in complaint
    assert reason in complaint


def test_rejects_two_policies_of_one_version(file: Path) -> None:
    text = world_text().replace('version = "v2"', 'version = "v1"').replace('"v2"', '"v1"')

    assert "policies[0].version: v1 is declared twice" in complaint_about(file, text)


@pytest.mark.parametrize("principal", ["user:ana", "team:globex"])
def test_rejects_a_grant_of_a_shared_pool_to_another_than_the_team(
    file: Path, principal: str
) -> None:
    grant = GRANT.replace("team:acme", principal)

    assert "grants[1].pool: there is no pool shared" in complaint_about(
        file, world_text(grants=grant)
    )


def test_rejects_a_grant_to_a_team_that_shares_nothing(file: Path) -> None:
    complaint = complaint_about(file, WORLD + GRANT)

    assert "acme is not a team that pays for its runs" in complaint


@pytest.mark.parametrize(
    ("pools", "reason"),
    [
        ('["team:shared", "plan"]', "the pools of the team come after those of the payer"),
        ('["plan", "team:"]', "policies[0].rules[0].pools[1]"),
        ('["plan", "team:acme/shared"]', "policies[0].rules[0].pools[1]"),
    ],
)
def test_rejects_pools_of_the_team_in_another_place_or_shape(
    file: Path, pools: str, reason: str
) -> None:
    text = world_text().replace('["plan", "add_on", "team:shared"]', pools)

    assert reason in complaint_about(file, text)
