"""Limits on the command line: where they stand, which one refused, and what `apply` makes of them.

What is drawn is committed here by the code that debits runs, against the stack's tables.
"""

import json
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import pytest
from typer.testing import CliRunner, Result

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.limits import TeamLimit
from agent_credits.billing.teams import Team, bill
from agent_credits.commit.changes import RunChange
from agent_credits.commit.together import commit_changes
from agent_credits.ledger.limits import COUNTS_MAX
from agent_credits.values.display import time_text
from agent_credits.values.principals import Principal
from agent_credits_cli import passed_limits
from agent_credits_cli.commands import account, apply, explain, ledger, limits, report, team
from agent_credits_cli.limits import account_limit_to_json, limits_of_account, limits_of_team
from agent_credits_cli.target import Target
from tests.integration.commands import app_of
from tests.sample_world import SAMPLES_FILE
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    BIGCORP,
    BIGCORP_TEAM,
    NOW,
    POLICY,
    TRIGGERS,
    grant_change,
    open_account,
    parsed,
    pause,
    requested,
    usage,
)
from tests.unit.limit_world import limit, team_with
from tests.unit.reservation_world import policy as reserving

Run = Callable[..., Result]

# In the zone of the team: NOW is a Friday.
DAY_ENDS, MONTH_ENDS = "2025-11-21 23:00 UTC", "2025-11-30 23:00 UTC"
ACME_LIMITS = (
    limit("team", "100"),
    limit("project", "60", id="web"),
    limit("member", "40", "day", action="warn"),
    limit("run", "50", "run"),
)


class Clock(datetime):
    """The clock of the commands stands still, so that no period ends while a test runs."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromisoformat(NOW.isoformat()).astimezone(tz)


@pytest.fixture
def run(target: Target, monkeypatch: pytest.MonkeyPatch) -> Run:
    for module in (limits, team, account, report):
        monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(apply, "utc_now", lambda: NOW)
    app = app_of(
        target,
        monkeypatch,
        (limits, limits.limits),
        (team, team.team),
        (account, account.account),
        (explain, explain.explain),
        (ledger, ledger.ledger),
        (report, report.report),
        (apply, apply.apply),
    )
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


class Limited:
    """The stack's tables, and the settings by which runs are debited there."""

    def __init__(self, rows: DynamoDBRows) -> None:
        self.rows = rows
        rows.put_policy(POLICY)
        rows.put_policy(RESERVING)
        for principal in (ANA, BEN, BIGCORP):
            pool = "contract" if principal == BIGCORP else "plan"
            grant = grant_change("g-1", pool, "500", principal=principal)
            open_account(rows, grant)

    def declare(self, *declared: TeamLimit, team: Team = ACME, **settings: Any) -> None:
        there = self.rows.read_team(team.team_id)
        version = there.version + 1 if there else 1
        limited = team_with(*declared, team=team, version=version, **settings)
        assert self.rows.compare_and_set_team(limited) is None

    def send(self, *documents: dict[str, Any]) -> None:
        for document in documents:
            event = parsed(document)
            settings = self.rows.read_team(event.data.team_id)
            assert settings is not None
            version = settings.tenure_at(NOW).policy_version
            billing = bill(event, settings, {p.version: p for p in (POLICY, RESERVING)}[version])
            change = RunChange(event, billing)
            commit_changes(self.rows, billing.principal, [change], now=NOW, pause=pause)


RESERVING = reserving().model_copy(update={"version": "reserving"})
RESERVING_TENURES = (ACME.tenures[0].model_copy(update={"policy_version": "reserving"}),)


@pytest.fixture
def limited(rows: DynamoDBRows) -> Limited:
    """Ana drew 50 credits in project web and 5 beside it, Ben 10 and is refused at the fourth."""
    limited = Limited(rows)
    limited.declare(team=BIGCORP_TEAM)
    limited.declare(*ACME_LIMITS)
    limited.send(
        usage("e-1", "50", run="run-1", project_id="web"),
        usage("e-2", "5", run="run-2"),
        usage("e-3", "8.5", run="run-3", user="ben", project_id="web"),
        usage("e-4", "2.5", run="run-4", user="ben", project_id="web"),
    )
    return limited


class TestLimits:
    @pytest.mark.usefixtures("limited")
    def test_shows_each_limit_with_what_is_drawn_and_left(self, run: Run) -> None:
        shown = run("limits", "acme").stdout

        rows = [" ".join(line.split()) for line in shown.splitlines()]
        assert "scope id period limit used % reserved left action resets at" in rows
        assert f"team acme month 100 65 65 0 35 stop {MONTH_ENDS}" in rows
        assert f"project web month 60 60 100 0 0 stop {MONTH_ENDS}" in rows
        assert "member each day 40 warn" in rows
        assert f"member ana day 40 55 137 0 0 warn {DAY_ENDS}" in rows
        assert f"member ben day 40 10 25 0 30 warn {DAY_ENDS}" in rows
        assert "run each run 50 stop" in rows

    @pytest.mark.usefixtures("limited")
    def test_the_same_for_programs(self, run: Run) -> None:
        shown = json.loads(run("limits", "acme", "--json").stdout)

        assert (shown["team_id"], shown["time_zone"]) == ("acme", "Europe/Berlin")
        assert shown["left_out"] == 0
        assert [(one["scope"], one["id"]) for one in shown["limits"]] == [
            ("team", "acme"),
            ("project", "web"),
            ("member", None),
            ("member", "ana"),
            ("member", "ben"),
            ("run", None),
        ]
        assert shown["limits"][0] == {
            "scope": "team",
            "id": "acme",
            "period": "month",
            "action": "stop",
            "limit_credits": "100",
            "used_credits": "65",
            "used_percent": 65,
            "reserved_credits": "0",
            "left_credits": "35",
            "resets_at": "2025-11-30T23:00:00Z",
            "warn_at": [70, 90, 100],
            "raise_until": None,
        }
        each_member = shown["limits"][2]
        assert (each_member["used_credits"], each_member["used_percent"]) == (None, None)

    def test_what_runs_reserve_is_shown_beside_what_they_drew(
        self, run: Run, rows: DynamoDBRows
    ) -> None:
        limited = Limited(rows)
        limited.declare(limit("team", "100"), tenures=RESERVING_TENURES)
        limited.send(usage("e-1", "10", run="run-1"), requested("e-2", run="run-2", credits="30"))

        (of_team,) = json.loads(run("limits", "acme", "--json").stdout)["limits"]

        assert (of_team["used_credits"], of_team["reserved_credits"]) == ("10", "30")
        assert (of_team["left_credits"], of_team["used_percent"]) == ("60", 10)

    def test_a_limit_that_is_raised_for_a_while_says_until_when(
        self, run: Run, limited: Limited
    ) -> None:
        until = (NOW + timedelta(days=2)).replace(microsecond=0)
        limited.declare(limit("team", "100", raise_until=until))

        printed = run("limits", "acme").stdout
        (shown,) = json.loads(run("limits", "acme", "--json").stdout)["limits"]

        assert "raised until" in printed
        assert time_text(until) in printed
        assert shown["raise_until"] == until.strftime("%Y-%m-%dT%H:%M:%SZ")

    def test_a_project_that_only_a_former_member_drew_under_is_shown(
        self, run: Run, limited: Limited
    ) -> None:
        limited.declare(limit("project", "60"))
        limited.send(usage("e-5", "7", run="run-5", user="ben", project_id="docs"))
        left = {"members": {"ana", "olga"}, "former_members": (("ben", NOW),)}
        limited.declare(limit("project", "60"), **left)

        shown = json.loads(run("limits", "acme", "--json").stdout)["limits"]

        assert ("docs", "7") in [(one["id"], one["used_credits"]) for one in shown]

    @pytest.mark.usefixtures("limited")
    def test_a_team_without_limits_is_told_how_to_declare_some(self, run: Run) -> None:
        shown = run("limits", "bigcorp")

        assert shown.exit_code == 0
        assert "bigcorp has no limits; declare some in a file for `" in shown.stdout
        assert json.loads(run("limits", "bigcorp", "--json").stdout)["limits"] == []

    @pytest.mark.usefixtures("limited")
    def test_rejects_an_unknown_team(self, run: Run) -> None:
        result = run("limits", "nowhere")

        assert result.exit_code == 2
        assert "there is no team nowhere" in result.stderr

    def test_of_too_many_projects_the_others_are_counted(
        self, run: Run, limited: Limited, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agent_credits.billing.limit_standings.LIMIT_ROWS_READ_MAX", 2)
        limited.declare(limit("project", "60"))
        limited.send(
            *(usage(f"p-{n}", f"{n}", run=f"p-{n}", project_id=f"p{n}") for n in range(1, 4))
        )

        # Of the fixture's project there is a count as well.
        assert "and 2 more projects with less used" in run("limits", "acme").stdout
        shown = json.loads(run("limits", "acme", "--json").stdout)
        assert [one["id"] for one in shown["limits"]] == [None, "web", "p3"]
        assert shown["left_out"] == 2


class TestTeamAndAccount:
    @pytest.mark.usefixtures("limited")
    def test_a_team_shows_its_limits(self, run: Run) -> None:
        shown = json.loads(run("team", "acme", "--json").stdout)["limits"]

        assert shown == json.loads(run("limits", "acme", "--json").stdout)["limits"]
        printed = run("team", "acme").stdout.partition("\nlimits")[2]
        assert [line.split()[:2] for line in printed.splitlines() if " stop " in line] == [
            ["team", "acme"],
            ["project", "web"],
            ["run", "each"],
        ]

    @pytest.mark.usefixtures("limited")
    def test_a_team_without_limits_shows_none(self, run: Run) -> None:
        assert json.loads(run("team", "bigcorp", "--json").stdout)["limits"] == []
        assert "limits" not in run("team", "bigcorp").stdout

    @pytest.mark.usefixtures("limited")
    def test_a_long_list_of_limits_names_the_command_that_shows_all(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(team, "LISTED_MAX", 4)

        printed = run("team", "acme").stdout

        assert "ana" in printed.split("limits")[1]
        assert "and 2 more limits: see `" in printed
        assert "limits acme`" in printed

    @pytest.mark.usefixtures("limited")
    def test_an_account_shows_its_own_part_of_what_counts(self, run: Run) -> None:
        shown = json.loads(run("account", "user:ben", "--json").stdout)["limits"]

        assert [
            (one["scope"], one["id"], one["used_credits"], one["used_by_account_credits"])
            for one in shown
        ] == [
            ("team", "acme", "65", "10"),
            ("project", "web", "60", "10"),
            ("member", "ben", "10", "10"),
        ]
        assert shown[0]["team_id"] == "acme"
        assert "used here" in run("account", "user:ben").stdout

    @pytest.mark.usefixtures("limited")
    def test_an_account_that_counts_many_limits_shows_some(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(account, "LISTED_MAX", 1)

        shown = run("account", "user:ben").stdout

        assert "\nand 2 more limits\n" in shown
        assert "project" not in shown

    @pytest.mark.usefixtures("limited")
    def test_an_account_that_counts_nothing_shows_no_limits(self, run: Run) -> None:
        assert json.loads(run("account", "team:bigcorp", "--json").stdout)["limits"] == []
        assert "used here" not in run("account", "team:bigcorp").stdout

    def test_an_account_has_used_nothing_of_a_period_that_has_begun(self, limited: Limited) -> None:
        row = limited.rows.read_account(ANA)
        assert row is not None
        next_month = NOW + timedelta(days=20)

        counted = limits_of_account(limited.rows, row, next_month)

        shown = [account_limit_to_json(*one, next_month) for one in counted]
        assert [(one["scope"], one["used_by_account_credits"]) for one in shown] == [
            ("team", "0"),
            ("project", "0"),
            ("member", "0"),
        ]

    def test_who_no_longer_pays_shows_nothing_of_what_another_account_counts(
        self, limited: Limited
    ) -> None:
        owner_pays = POLICY.model_copy(
            update={
                "version": "owner",
                "rules": (
                    POLICY.rules[1].model_copy(
                        update={"triggers": ("user", "team_api_key", "schedule")}
                    ),
                    POLICY.rules[2],
                ),
            }
        )
        limited.rows.put_policy(owner_pays)
        tenure = ACME.tenures[0].model_copy(update={"policy_version": "owner"})
        limited.declare(*ACME_LIMITS, tenures=(tenure,))
        row = limited.rows.read_account(ANA)
        assert row is not None

        counted = limits_of_account(limited.rows, row, NOW)

        # What spanned the accounts does so until its period is over.
        assert [limit.declared.scope for _, limit in counted] == ["team", "project"]


class TestExplain:
    @pytest.mark.usefixtures("limited")
    def test_names_the_limit_that_refused_and_shows_the_others(self, run: Run) -> None:
        text = run("explain", "run-4").stdout

        lines = [" ".join(line.split()) for line in text.splitlines()]
        assert (
            "refused by project web per month: 58.5 of 60 credits used, 1.5 left, "
            f"resets at {MONTH_ENDS}"
        ) in lines
        of_team = "limit team acme per month: 63.5 of 100 credits used, 36.5 left"
        assert f"{of_team}, resets at {MONTH_ENDS}" in lines
        assert any(line.endswith(", only warns") for line in lines)
        assert (
            "outcome insufficient, drew 1.5 plan (g-1): short by 1 credit; this failed the run"
            in (lines)
        )

    @pytest.mark.usefixtures("limited")
    def test_the_same_for_programs(self, run: Run) -> None:
        (event,) = json.loads(run("explain", "run-4", "--json").stdout)["events"]

        refused, *others = event["limits"]["standings"]
        assert refused == {
            "scope": "project",
            "id": "web",
            "period": "month",
            "action": "stop",
            "limit_credits": "60",
            "used_credits": "58.5",
            "used_percent": 97,
            "reserved_credits": "0",
            "resets_at": "2025-11-30T23:00:00Z",
        }
        assert [(one["scope"], one["id"]) for one in others] == [
            ("team", "acme"),
            ("member", "ben"),
            ("run", "run-4"),
        ]
        assert others[-1]["resets_at"] is None
        assert [(one["scope"], one["credits"]) for one in event["limits"]["counted"]] == [
            ("team", "1.5"),
            ("project", "1.5"),
            ("member", "1.5"),
        ]

    def test_a_limit_that_could_not_be_counted_says_why(
        self, run: Run, limited: Limited, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agent_credits.commit.limits.COUNTS_MAX", 3)
        limited.send(usage("e-5", "1", run="run-5", project_id="web"))
        limited.declare(*ACME_LIMITS, limit("member", "900"))

        limited.send(usage("e-6", "1", run="run-6"))

        lines = [" ".join(line.split()) for line in run("explain", "run-6").stdout.splitlines()]
        refused = "refused by member ana per month: not counted, because its account counts"
        assert f"{refused} {COUNTS_MAX} limits" in lines

    @pytest.mark.usefixtures("limited")
    def test_the_ledger_records_what_counted(self, run: Run) -> None:
        entries = [
            json.loads(line) for line in run("ledger", "user:ana", "--json").stdout.splitlines()
        ]

        assert "limits" not in entries[0]
        assert [one["id"] for one in entries[1]["limits"]["counted"]] == ["acme", "web", "ana"]
        assert entries[1]["limits"]["standings"] == []


class TestReport:
    @pytest.mark.usefixtures("limited")
    def test_names_the_limits_that_are_nearly_used(self, run: Run) -> None:
        text = run("report", "acme").stdout
        shown = json.loads(run("report", "acme", "--json").stdout)

        # The warning comes first: Ana is over what her limit only warns of.
        assert [(one["scope"], one["id"]) for one in shown["limits"]] == [
            ("member", "ana"),
            ("project", "web"),
        ]
        assert (
            "Limits that are nearly or wholly used:\n  40 credits per day for member ana: used 55"
            in text
        )
        assert "team acme" not in text

    @pytest.mark.usefixtures("limited")
    def test_a_team_far_from_its_limits_reads_nothing_of_them(self, run: Run) -> None:
        assert "Limits" not in run("report", "bigcorp").stdout
        assert "limits" not in json.loads(run("report", "bigcorp", "--json").stdout)


WORLD = SAMPLES_FILE.read_text().split("\n[[samples]]")[0]
HARBOR = 'team_id = "harbor"'
ANCHOR = "anchor = 2025-01-01\n"


def world_with(*declared: str) -> str:
    """Return the sample world, in which team harbor has these limits."""
    tables = "".join(f"\n[[teams.limits]]\n{one}\n" for one in declared)
    before, harbor, after = WORLD.partition(HARBOR)
    return before + harbor + after.replace(ANCHOR, f"{ANCHOR}{tables}", 1)


TEAM_OF = 'scope = "team"\nperiod = "month"\ncredits = "{}"'
PROJECT_OF = 'scope = "project"\nperiod = "month"\ncredits = "{}"'


class TestApply:
    """Of a team that pays for its runs itself, with 500 credits."""

    @pytest.fixture
    def applied(self, run: Run, tmp_path: Path) -> Run:
        def apply_limits(
            *declared: str, options: tuple[str, ...] = ("--json",), members: str = '"hugo"'
        ) -> Any:
            file = tmp_path / "world.toml"
            file.write_text(world_with(*declared).replace('["hugo"]', f"[{members}]"))
            result = run("apply", str(file), *options)
            assert result.exit_code == 0, result.output
            return json.loads(result.stdout) if "--json" in options else result.stdout

        return apply_limits

    def draw(self, rows: DynamoDBRows, drawn: str, project: str, run_id: str = "run-1") -> None:
        document = usage(
            f"evt-{run_id}", drawn, run=run_id, trigger=TRIGGERS["team_api_key"], project_id=project
        )
        self.commit(rows, document)

    def commit(self, rows: DynamoDBRows, document: dict[str, Any]) -> None:
        document["data"]["team_id"] = "harbor"
        settings, policy = rows.read_team("harbor"), rows.read_policy("2026-12")
        assert settings is not None
        assert policy is not None
        event = parsed(document)
        change = RunChange(event, bill(event, settings, policy))
        commit_changes(rows, Principal("team", "harbor"), [change], now=NOW, pause=pause)

    def test_shows_each_limit_that_changes_and_then_nothing(
        self, applied: Run, rows: DynamoDBRows
    ) -> None:
        first = applied(TEAM_OF.format(100), PROJECT_OF.format(50))
        before = rows.read_team("harbor")

        changed = applied(f'{PROJECT_OF.format(75)}\naction = "warn"\nwarn_at = [50]')
        again = applied(f'{PROJECT_OF.format(75)}\naction = "warn"\nwarn_at = [50]')

        assert limit_changes(first) == [
            ("limit of the team per month", None, "100 credits, stop, warn at 70%, 90%, 100%"),
            ("limit of each project per month", None, "50 credits, stop, warn at 70%, 90%, 100%"),
        ]
        assert limit_changes(changed) == [
            ("limit of the team per month", "100 credits, stop, warn at 70%, 90%, 100%", "none"),
            (
                "limit of each project per month",
                "50 credits, stop, warn at 70%, 90%, 100%",
                "75 credits, warn, warn at 50%",
            ),
        ]
        assert again["changes"] == []
        after = rows.read_team("harbor")
        assert before is not None
        assert after is not None
        # A decline of a reload ends with settings of money, and limits are none of these.
        assert after.settings_version == before.settings_version
        assert after.version == before.version + 1

    def test_another_order_in_the_file_changes_nothing(self, applied: Run) -> None:
        applied(TEAM_OF.format(100), PROJECT_OF.format(50))

        assert applied(PROJECT_OF.format(50), TEAM_OF.format(100))["changes"] == []

    def test_a_dry_run_names_what_is_over_its_new_limit_at_once_and_changes_nothing(
        self, applied: Run, rows: DynamoDBRows
    ) -> None:
        applied(TEAM_OF.format(100), PROJECT_OF.format(80))
        self.draw(rows, "60", "web")
        lower = (TEAM_OF.format(59), f'{PROJECT_OF.format("59.5")}\naction = "warn"')
        before = rows.read_team("harbor")

        planned = applied(*lower, options=("--json", "--dry-run"))
        printed = applied(*lower, options=())

        assert planned["warnings"] == [
            (
                "team harbor is over its new limit of the team per month: 60 of 59 credits used;"
                f" new runs are refused, and it resets at {MONTH_ENDS}"
            ),
            (
                "team harbor is over its new limit of project web per month: 60 of"
                f" 59.5 credits used; it only warns, and it resets at {MONTH_ENDS}"
            ),
        ]
        assert planned["changes"] != []
        for warning in planned["warnings"]:
            assert f"\nWarning: {warning}" in printed
        assert before is not None
        after = rows.read_team("harbor")
        assert after is not None
        assert after.version == before.version + 1, "the dry run changed nothing"

    def test_what_is_reserved_counts_towards_a_new_limit(
        self, applied: Run, rows: DynamoDBRows
    ) -> None:
        applied(TEAM_OF.format(100))
        self.draw(rows, "10", "web")
        reserves = {"trigger": TRIGGERS["schedule"], "credits": "75"}
        self.commit(rows, requested("evt-2", run="run-2", **reserves))

        (warning,) = applied(TEAM_OF.format(84))["warnings"]

        assert "10 of 84 credits used and 75 reserved" in warning

    @pytest.mark.parametrize(
        "declared",
        [
            pytest.param(TEAM_OF.format(60), id="what is drawn fits exactly"),
            pytest.param(
                f"{TEAM_OF.format(50)}\nraise_until = 2100-01-01T00:00:00Z", id="it is raised"
            ),
            pytest.param(TEAM_OF.format(70), id="it was passed before by nobody"),
        ],
    )
    def test_no_warning_where_nothing_is_passed(
        self, applied: Run, rows: DynamoDBRows, declared: str
    ) -> None:
        applied(TEAM_OF.format(100))
        self.draw(rows, "60", "web")

        assert applied(declared)["warnings"] == []

    def test_a_limit_that_does_not_change_is_not_named_again(
        self, applied: Run, rows: DynamoDBRows
    ) -> None:
        applied(TEAM_OF.format(100))
        self.draw(rows, "60", "web")
        applied(TEAM_OF.format(50))

        again = applied(TEAM_OF.format(50), PROJECT_OF.format(80))

        assert again["warnings"] == []

    def test_of_many_passed_limits_some_are_named(
        self, applied: Run, rows: DynamoDBRows, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(passed_limits, "NAMED_MAX", 1)
        applied(PROJECT_OF.format(100))
        for number in range(3):
            self.draw(rows, "60", f"p{number}", run_id=f"run-{number}")

        warnings = applied(PROJECT_OF.format(50))["warnings"]

        assert "project p0 per month" in warnings[0]
        assert warnings[1:] == ["team harbor is over 2 more limits too"]

    def test_reads_no_counts_of_a_team_that_changes_otherwise(
        self, applied: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        applied(TEAM_OF.format(100))
        asked: list[str] = []
        monkeypatch.setattr(
            passed_limits, "limits_of_team", lambda _, changed, *__: asked.append(changed.team_id)
        )

        changed = applied(TEAM_OF.format(100), members='"hugo", "hans"')

        assert [change["what"] for change in changed["changes"]] == ["members"]
        assert asked == []

    def test_an_invalid_limit_is_rejected_with_its_place(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "world.toml"
        file.write_text(world_with('scope = "team"\nid = "harbor"\nperiod = "day"\ncredits = "1"'))

        result = run("apply", str(file))

        assert result.exit_code == 2
        assert 'limits[0]: has scope "team", which takes no id' in result.stderr


def limit_changes(document: Any) -> list[tuple[str, str | None, str]]:
    return [
        (change["what"], change["before"], change["after"])
        for change in document["changes"]
        if change["name"] == "harbor" and change["what"].startswith("limit of")
    ]


def test_a_team_that_pays_itself_reads_its_account_and_no_rows_of_limits(
    rows: DynamoDBRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = Limited(rows)
    limited.declare(limit("team", "100"), limit("project", "60"), team=BIGCORP_TEAM)
    limited.send(usage("e-1", "40", run="run-1", team="bigcorp", project_id="web"))
    settings = rows.read_team("bigcorp")
    assert settings is not None
    monkeypatch.setattr(rows, "read_limits", None)

    current = limits_of_team(rows, settings, POLICY, NOW)

    assert [one.standing and one.standing.used_percent for one in current.limits] == [40, None, 66]
