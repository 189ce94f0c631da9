"""What the operator's commands show and do of a pool that a team shares, on the stack's tables."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.teams import Billing, bill
from agent_credits.commit.changes import RunChange
from agent_credits.commit.together import commit_changes
from agent_credits.events.agent_runs import AgentRunEvent, Rejection
from agent_credits_cli.commands import (
    account,
    explain,
    grant,
    ledger,
    release,
    report,
    reservations,
    team,
    verify,
)
from agent_credits_cli.target import Target
from tests.integration.commands import app_of
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    FAR_PAST,
    finished,
    grant_change,
    open_account,
    parsed,
    pause,
    requested,
    usage,
)
from tests.unit.commit.test_shared_pools import TEAM, sharing

Run = Callable[..., Result]


@pytest.fixture
def run(target: Target, monkeypatch: pytest.MonkeyPatch) -> Run:
    app = app_of(
        target,
        monkeypatch,
        (account, account.account),
        (explain, explain.explain),
        (grant, grant.grant),
        (ledger, ledger.ledger),
        (release, release.release),
        (report, report.report),
        (reservations, reservations.reservations),
        (team, team.team),
        (verify, verify.verify),
    )
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def shown(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def settled(rows: DynamoDBRows) -> DynamoDBRows:
    policy = sharing()
    rows.put_policy(policy)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
    return rows


@pytest.fixture
def shared(settled: DynamoDBRows) -> DynamoDBRows:
    """Ana's run drew 30 credits of the 100 that the team shares, and another holds 20 of them."""
    open_account(settled, grant_change("g-ana", pool="plan", credits="500"))
    open_account(settled, grant_change("t-1", pool="shared", credits="100", principal=TEAM))
    now = datetime.now(UTC) - timedelta(minutes=5)
    send(settled, usage("evt-1", "530", run="run-1"), now)
    reserving = requested("evt-2", run="run-2", credits="20", reserve="estimate")
    send(settled, reserving, now + timedelta(minutes=1))
    send(settled, usage("evt-3", "90", run="run-3"), now + timedelta(minutes=2))
    return settled


def billing_of(event: AgentRunEvent) -> Billing:
    billing = bill(event, ACME, sharing())
    assert not isinstance(billing, Rejection)
    return billing


def send(rows: DynamoDBRows, document: dict[str, Any], now: datetime) -> None:
    event = parsed(document)
    billing = billing_of(event)
    change = RunChange(event, billing)
    commit_changes(rows, billing.principal, [change], now=now, pause=pause)


@pytest.mark.usefixtures("shared")
class TestReading:
    def test_a_member_sees_the_team_s_pool_behind_its_own(self, run: Run) -> None:
        document = shown(run("account", "user:ana", "--json"))

        assert [pool["pool"] for pool in document["pools"]] == ["trial", "plan", "add_on"]
        assert document["available_credits"] == "0"
        assert document["shared_pools"] == [
            {"pool": "team:acme/shared", "available_credits": "0", "reserved_credits": "20"}
        ]
        assert "team:acme/shared" in run("account", "user:ana").stdout

    def test_the_team_s_account_shows_what_is_held_for_whom(self, run: Run) -> None:
        document = shown(run("account", "team:acme", "--json"))

        (held,) = document["held_for_members"]
        assert (held["principal"], held["run_id"], held["credits"]) == ("user:ana", "run-2", "20")
        assert [pool["pool"] for pool in document["pools"]] == ["shared"]
        assert document["reserved_credits"] == "20"
        assert "user:ana" in run("account", "team:acme").stdout

    def test_its_reservations_name_the_run_and_its_payer(self, run: Run) -> None:
        document = shown(run("reservations", "team:acme", "--json"))

        (held,) = document["reservations"]
        assert held["held_for"] == {"principal": "user:ana", "run_id": "run-2"}
        assert "run-2 of user:ana" in run("reservations", "team:acme").stdout

    def test_its_ledger_names_the_commits_of_its_members(self, run: Run) -> None:
        lines = run("ledger", "team:acme").stdout.splitlines()

        assert "for version 2 of user:ana  30 shared (t-1)" in lines[1]
        assert "for version 3 of user:ana  20 more held for its runs" in lines[2]
        entries = [json.loads(x) for x in run("ledger", "team:acme", "--json").stdout.splitlines()]
        assert (entries[1]["payer_principal"], entries[1]["payer_version"]) == ("user:ana", 2)

    def test_a_run_is_explained_with_both_accounts(self, run: Run) -> None:
        text = run("explain", "run-1").stdout

        assert "plan held 500, drew 500; add_on held 0; team:acme/shared held 100, drew 30" in text
        assert (
            "shared     30 shared (t-1) drawn; recorded as shared:user:ana:2:drawn on page 1 (open)"
            " of team:acme"
        ) in text
        (event,) = shown(run("explain", "run-1", "--json"))["events"]
        assert [given["principal"] for given in event["shared"]] == ["team:acme"]

    def test_a_reservation_is_explained_with_both_accounts(self, run: Run) -> None:
        text = run("explain", "run-2").stdout

        assert "team:acme/shared held 70, reserved 20" in text
        assert "20 team:acme/shared (shared:acme/t-1)" in text
        assert "20 more held for its runs; recorded as shared:user:ana:3:drawn" in text

    def test_a_failure_is_explained_with_what_both_held(self, run: Run) -> None:
        text = run("explain", "run-3").stdout

        assert "team:acme/shared held 50, drew 50" in text
        assert "short by 40 credits" in text

    def test_the_team_and_its_report_count_each_account_once(self, run: Run) -> None:
        payers = shown(run("team", "acme", "--json"))["payers"]
        reported = shown(run("report", "acme", "--json"))

        assert [payer["principal"] for payer in payers][-1] == "team:acme"
        by_account = {one["principal"]: one for one in reported["accounts"]}
        assert by_account["team:acme"]["reserved_credits"] == "20"
        assert [p["pool"] for p in by_account["user:ana"]["pools"]] == ["trial", "plan", "add_on"]
        assert reported["reserved_credits"] == "20"

    def test_all_of_it_is_verified(self, run: Run) -> None:
        result = run("verify")

        assert result.exit_code == 0, result.stdout
        assert "zero drift" in result.stdout


def test_own_pools_that_suffice_leave_the_team_s_unasked(run: Run, shared: DynamoDBRows) -> None:
    now = datetime.now(UTC)
    commit_changes(
        shared, TEAM, [grant_change("t-2", pool="shared", principal=TEAM)], now=now, pause=pause
    )
    open_account(shared, grant_change("g-ben", pool="plan", principal=BEN))
    send(shared, usage("evt-9", "1", run="run-9", user="ben"), now)

    text = run("explain", "run-9").stdout

    assert "team:acme/shared not needed" in text
    assert "shared  " not in text


def test_what_one_commit_takes_and_gives_back_is_no_entry_of_the_team(
    run: Run, shared: DynamoDBRows
) -> None:
    now = datetime.now(UTC)
    more = grant_change("t-2", pool="shared", credits="5", principal=TEAM)
    commit_changes(shared, TEAM, [more], now=now, pause=pause)
    events = [
        parsed(usage("evt-8", "5", run="run-8")),
        parsed(finished("evt-9", "error", run="run-8")),
    ]
    changes = [RunChange(event, billing_of(event)) for event in events]
    commit_changes(shared, ANA, changes, now=now, pause=pause)

    text = run("explain", "run-8").stdout

    assert "team:acme/shared drew 5" in text
    assert "the same commit took and gave back as much, so team:acme has no entry of it" in text


class TestGranting:
    def test_the_first_grant_opens_the_team_s_account(
        self, run: Run, settled: DynamoDBRows
    ) -> None:
        given = run("grant", "team:acme", "--pool", "shared", "--credits", "250", "--id", "order-7")

        assert given.exit_code == 0, given.stderr
        account_after = settled.read_account(TEAM)
        assert account_after is not None
        assert [(g.pool, g.id) for g in account_after.grants] == [("shared", "order-7")]

    @pytest.mark.usefixtures("settled")
    def test_a_pool_that_no_rule_shares_is_refused(self, run: Run) -> None:
        refused = run("grant", "team:acme", "--pool", "add_on", "--credits", "1", "--id", "x")

        assert refused.exit_code == 2
        assert "no run draws from pool add_on when team:acme pays" in refused.stderr

    @pytest.mark.usefixtures("shared")
    def test_a_member_is_granted_nothing_in_the_team_s_pool(self, run: Run) -> None:
        refused = run("grant", "user:ana", "--pool", "shared", "--credits", "1", "--id", "x")

        assert refused.exit_code == 2
        assert "no run draws from pool shared when user:ana pays" in refused.stderr

    def test_a_team_that_shares_nothing_has_no_account_to_grant_to(
        self, run: Run, rows: DynamoDBRows
    ) -> None:
        policy = sharing().model_copy(update={"version": "alone"})
        rules = tuple(rule for rule in policy.rules if not rule.lends)
        own = policy.rules[0].model_copy(update={"pools": ("plan",)})
        rows.put_policy(policy.model_copy(update={"rules": (own, *rules)}))
        tenure = ACME.tenures[0].model_copy(update={"policy_version": "alone", "since": FAR_PAST})
        alone = ACME.model_copy(update={"version": 1, "tenures": (tenure,)})
        rows.compare_and_set_team(alone)

        refused = run("grant", "team:acme", "--pool", "shared", "--credits", "1", "--id", "x")

        assert refused.exit_code == 2
        assert "no run draws from team:acme" in refused.stderr


@pytest.mark.usefixtures("shared")
def test_what_is_held_for_a_member_is_released_on_the_member_s_account(run: Run) -> None:
    refused = run(
        "release", "user:ana run-2", "--principal", "team:acme", "--reason", "lost", "--yes"
    )

    assert refused.exit_code == 2
    assert "agent-credits release run-2 --principal user:ana" in refused.stderr
    released = run("release", "run-2", "--reason", "lost", "--yes")
    assert released.exit_code == 0, released.stderr
    assert shown(run("account", "team:acme", "--json"))["held_for_members"] == []
