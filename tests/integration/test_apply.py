import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.spend_cap import Spending
from agent_credits.billing.teams import (
    FORMER_MEMBERS_MAX,
    TENURE_NOTICE,
    TENURES_MAX,
    Team,
    Tenure,
    bill,
)
from agent_credits.commit.changes import Recorded, RunChange
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.grants import GRANTS_MAX
from agent_credits.values.errors import Contended
from agent_credits.values.principals import Principal
from agent_credits_cli.commands import apply as apply_module
from agent_credits_cli.commands import grant as grant_module
from agent_credits_cli.errors import CommandError, CommandGroup
from agent_credits_cli.stack import read_stack
from agent_credits_cli.steps import Step, carry_out, plan_steps
from agent_credits_cli.target import Target
from agent_credits_cli.world import World
from agent_credits_cli.world_file import load_world
from tests.sample_world import SAMPLES_FILE, pause
from tests.unit.builders import grant_change, parsed, requested

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
ANA = Principal("user", "ana")
ZOE = Principal("user", "zoe")

Declare = Callable[..., World]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    """Declare the sample world with pieces of its text replaced, `old="new"` by `old="new"`."""

    def declared(*replacements: tuple[str, str]) -> World:
        text = SAMPLES_FILE.read_text().split("\n[[samples]]")[0]
        for old, new in replacements:
            assert old in text, "the test changes what is there"
            text = text.replace(old, new, 1)
        file = tmp_path / "world.toml"
        file.write_text(text)
        return load_world(file)

    return declared


def applied(rows: DynamoDBRows, world: World, now: datetime = NOW) -> list[Step]:
    steps = plan_steps(world, read_stack(rows, world), now)
    carry_out(rows, steps, clock=lambda: now, pause=pause)
    return steps


def differences(steps: list[Step]) -> list[tuple[str, str, str, str | None, str]]:
    return [(d.kind, d.name, d.what, d.before, d.after) for s in steps for d in s.differences]


def team(rows: DynamoDBRows, team_id: str) -> Team:
    there = rows.read_team(team_id)
    assert there is not None
    return there


def balance(rows: DynamoDBRows, principal: Principal) -> dict[str, int]:
    account = rows.read_account(principal)
    assert account is not None
    return {grant.id: grant.remaining_microcredits for grant in account.grants}


class TestApplying:
    def test_opens_every_account_with_its_plan_and_grants(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        world = declare()

        applied(rows, world)

        assert {a.principal for a in rows.list_accounts()} == set(world.team_of_accounts())
        assert balance(rows, ANA) == {"refill:2026-11-15": 1_500_000_000, "order-1001": 200_000_000}
        assert balance(rows, Principal("team", "globex")) == {"contract-2025": 100_000_000_000}
        assert rows.read_policy("2026-12") == world.policy
        assert team(rows, "acme").members == frozenset({"olga", "ana", "ben"})
        assert team(rows, "globex").members == "*"

    def test_a_second_run_changes_nothing(self, rows: DynamoDBRows, declare: Declare) -> None:
        applied(rows, declare())
        accounts = sorted(rows.list_accounts(), key=lambda a: a.principal)

        steps = applied(rows, declare(), NOW + timedelta(days=3))

        assert steps == []
        assert sorted(rows.list_accounts(), key=lambda a: a.principal) == accounts

    def test_planning_alone_changes_nothing(self, rows: DynamoDBRows, declare: Declare) -> None:
        world = declare()

        steps = plan_steps(world, read_stack(rows, world), NOW)

        assert steps
        assert list(rows.list_accounts()) == []
        assert list(rows.list_teams()) == []

    def test_an_interrupted_run_is_completed_by_the_next(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        world = declare()
        steps = plan_steps(world, read_stack(rows, world), NOW)
        carry_out(rows, steps[:4], clock=lambda: NOW, pause=pause)

        rest = applied(rows, world)

        assert len(rest) == len(steps) - 4
        assert applied(rows, world) == []

    def test_a_team_is_written_after_the_accounts_of_its_members(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        world = declare()

        kinds = [type(s).__name__ for s in plan_steps(world, read_stack(rows, world), NOW)]

        accounts, teams = len(world.team_of_accounts()), len(world.teams)
        policies = ["PutPolicy"] * len(world.policies)
        assert kinds == [*policies, *["ChangeAccount"] * accounts, *["SetTeam"] * teams]

    def test_two_operators_at_once_grant_once(self, rows: DynamoDBRows, declare: Declare) -> None:
        world = declare()
        steps = plan_steps(world, read_stack(rows, world), NOW)

        carry_out(rows, steps, clock=lambda: NOW, pause=pause)
        carry_out(rows, steps, clock=lambda: NOW, pause=pause)

        assert balance(rows, ANA) == {"refill:2026-11-15": 1_500_000_000, "order-1001": 200_000_000}
        assert applied(rows, world) == []

    def test_what_the_file_does_not_name_is_left_alone(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())

        applied(rows, declare(('"olga", "ana", "ben"', '"olga", "ben"'), ("user:ana", "user:ben")))

        assert balance(rows, ANA) == {"refill:2026-11-15": 1_500_000_000, "order-1001": 200_000_000}


class TestPolicies:
    def test_a_version_with_other_content_is_rejected(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        changed = declare(("grace_days = 30", "grace_days = 31"))

        with pytest.raises(CommandError, match=r"2026-12 is already applied .* a new version"):
            applied(rows, changed)

    def test_a_version_that_another_operator_put_in_the_meantime_is_rejected(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        steps = plan_steps(declare(), read_stack(rows, declare()), NOW)
        rows.put_policy(declare(("grace_days = 30", "grace_days = 31")).policy)

        with pytest.raises(CommandError, match="2026-12 is already applied"):
            carry_out(rows, steps, clock=lambda: NOW, pause=pause)

    def test_a_new_version_bills_every_team_after_the_notice(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())

        steps = applied(rows, declare(('version = "2026-12"', 'version = "2027-01"')))

        starts = "2027-01, from 2026-11-21 10:12 UTC"
        assert ("team", "acme", "policy", "2026-12", starts) in differences(steps)
        acme = team(rows, "acme")
        assert acme.tenure_at(NOW + TENURE_NOTICE).policy_version == "2027-01"
        assert acme.tenure_at(NOW + TENURE_NOTICE - timedelta(seconds=1)).policy_version == (
            "2026-12"
        )


class TestTeams:
    NEW_OWNER = ('owner = "olga"', 'owner = "ben"')
    OTHER_OWNER = ('owner = "olga"', 'owner = "ana"')

    def test_members_plan_and_time_zone_change_at_once(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())

        steps = applied(
            rows,
            declare(
                ('"olga", "ana", "ben"', '"olga", "ana", "zoe"'),
                ("Europe/Berlin", "Europe/Paris"),
            ),
        )

        after = team(rows, "acme")
        assert after.members == frozenset({"olga", "ana", "zoe"})
        # What ben used until then is billed, whenever it comes.
        assert after.former_members == (("ben", NOW + TENURE_NOTICE),)
        assert after.time_zone == "Europe/Paris"
        assert len(after.tenures) == 1
        assert rows.read_account(ZOE) is not None
        assert differences(steps)[1:] == [
            ("team", "acme", "time zone", "Europe/Berlin", "Europe/Paris"),
            ("team", "acme", "members", "3 members", "3 members (+zoe -ben)"),
        ]

    def test_a_leaving_member_still_holds_what_their_runs_reserved(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        world = declare()
        applied(rows, world)
        event = parsed(requested("r-1", user="ben", credits="100", reserve="estimate"))
        change = RunChange(event, bill(event, team(rows, "acme"), world.policy))
        commit(rows, Principal("user", "ben"), [change], now=NOW, pause=pause)

        steps = applied(rows, declare(('"olga", "ana", "ben"', '"olga", "ana"')))

        (warning,) = [warning for step in steps for warning in step.warnings]
        assert warning.startswith("user:ben leaves team acme and still holds 1,500 credits;")

    def test_a_warning_says_what_a_leaving_member_holds_and_until_when_their_events_count(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())

        steps = applied(rows, declare(('"olga", "ana", "ben"', '"olga", "ana"')))

        warnings = [warning for step in steps for warning in step.warnings]
        assert warnings == [
            (
                "user:ben leaves team acme and still holds 1,500 credits; events of their runs in "
                "the team count until 2026-11-21 10:12 UTC"
            )
        ]

    def test_a_member_who_comes_back_is_not_a_former_member(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        applied(rows, declare(('"olga", "ana", "ben"', '"olga", "ana"')))

        applied(rows, declare())

        assert team(rows, "acme").former_members == ()

    def test_the_oldest_former_members_are_forgotten_beyond_the_limit(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        before = team(rows, "acme")
        left = tuple((f"u{number}", NOW) for number in range(FORMER_MEMBERS_MAX))
        rows.compare_and_set_team(
            before.model_copy(update={"former_members": left, "version": before.version + 1})
        )

        applied(rows, declare(('"olga", "ana", "ben"', '"olga", "ana"')))

        former = team(rows, "acme").former_members
        assert len(former) == FORMER_MEMBERS_MAX
        assert former[0] == ("u1", NOW)
        assert former[-1] == ("ben", NOW + TENURE_NOTICE)

    def test_another_owner_pays_only_after_the_notice(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())

        steps = applied(rows, declare(self.NEW_OWNER))

        starts = "ben, from 2026-11-21 10:12 UTC"
        assert differences(steps) == [("team", "acme", "owner", "olga", starts)]
        assert team(rows, "acme").tenure_at(NOW).owner == "olga"
        assert team(rows, "acme").tenure_at(NOW + TENURE_NOTICE).owner == "ben"

    def test_a_change_that_is_pending_already_is_not_made_again(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        applied(rows, declare(self.NEW_OWNER))

        assert applied(rows, declare(self.NEW_OWNER), NOW + timedelta(minutes=1)) == []

    def test_a_pending_change_is_replaced_before_any_event_can_be_billed_by_it(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        applied(rows, declare(self.NEW_OWNER))

        applied(rows, declare(self.OTHER_OWNER), NOW + timedelta(minutes=2))

        tenures = team(rows, "acme").tenures
        assert [(t.owner, t.since - NOW) for t in tenures[1:]] == [("ana", timedelta(minutes=14))]

    def test_a_pending_change_can_be_taken_back_in_that_time(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        applied(rows, declare(self.NEW_OWNER))

        steps = applied(rows, declare(), NOW + timedelta(minutes=2))

        assert differences(steps) == [("team", "acme", "owner", "ben", "olga")]
        assert [tenure.owner for tenure in team(rows, "acme").tenures] == ["olga"]

    def test_a_change_that_may_have_billed_events_stays_and_is_followed_by_the_next(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        applied(rows, declare(self.NEW_OWNER))

        # Workers may take events up to 10:11, six minutes ahead, before they know of this.
        applied(rows, declare(self.OTHER_OWNER), NOW + timedelta(minutes=5))

        tenures = team(rows, "acme").tenures
        assert [(t.owner, t.since - NOW) for t in tenures[1:]] == [
            ("ben", timedelta(minutes=12)),
            ("ana", timedelta(minutes=17)),
        ]

    def test_a_concurrent_change_by_another_operator_is_kept(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        steps = plan_steps(declare(self.NEW_OWNER), read_stack(rows, declare(self.NEW_OWNER)), NOW)
        applied(rows, declare(('"olga", "ana", "ben"', '"olga", "ana", "ben", "zoe"')))

        carry_out(rows, steps, clock=lambda: NOW, pause=pause)

        after = team(rows, "acme")
        assert after.version == 3
        assert after.tenures[-1].owner == "ben"

    def test_an_owner_who_is_written_late_still_begins_after_the_notice(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        """Opening the accounts of the same file may have taken longer than the notice."""
        applied(rows, declare())
        world = declare(self.NEW_OWNER)
        steps = plan_steps(world, read_stack(rows, world), NOW)
        written_at = NOW + 2 * TENURE_NOTICE

        carry_out(rows, steps, clock=lambda: written_at, pause=pause)

        assert team(rows, "acme").tenures[-1].since == written_at + TENURE_NOTICE

    def test_apply_gives_up_on_a_team_that_keeps_changing(
        self, rows: DynamoDBRows, declare: Declare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        applied(rows, declare())
        there = team(rows, "acme")
        monkeypatch.setattr(rows, "compare_and_set_team", lambda _: there)

        with pytest.raises(Contended, match="team acme: lost"):
            applied(rows, declare(self.NEW_OWNER))

    def test_a_team_remembers_a_bounded_number_of_changes(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        before = team(rows, "acme")
        tenures = tuple(
            Tenure(
                since=NOW - timedelta(days=TENURES_MAX - n),
                kind="self_serve",
                owner="olga",
                policy_version="2026-12",
            )
            for n in range(TENURES_MAX)
        )
        rows.compare_and_set_team(before.model_copy(update={"tenures": tenures, "version": 2}))

        with pytest.raises(CommandError, match="changed owner, kind or policy 100 times"):
            applied(rows, declare(self.NEW_OWNER))


class TestMoney:
    CAPPED = ("anchor = 2025-01-15\n", "anchor = 2025-01-15\nspend_cap_cents = 5000\n")
    INVOICED = (
        "anchor = 2025-01-15\n",
        'anchor = 2025-01-15\nspend_cap_cents = 5000\npayment = { provider = "invoice" }\n',
    )

    def test_a_change_of_cap_or_payment_counts_as_new_settings_once(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        before = team(rows, "acme").settings_version

        steps = applied(rows, declare(self.CAPPED))

        assert differences(steps) == [
            ("team", "acme", "spend cap", "no cap set: purchases are off", "50.00 USD a month")
        ]
        assert team(rows, "acme").settings_version == before + 1
        assert applied(rows, declare(self.CAPPED)) == []

    def test_a_new_time_zone_moves_the_caps_month_and_counts_as_new_settings(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        """A decline because of the cap holds until the settings change or the month ends."""
        applied(rows, declare())
        before = team(rows, "acme").settings_version

        applied(rows, declare(("Europe/Berlin", "Pacific/Auckland")))

        assert team(rows, "acme").settings_version == before + 1

    EUROS = ("anchor = 2025-01-15\n", 'anchor = 2025-01-15\ncurrency = "eur"\n')

    def test_a_team_has_one_currency_which_changes_only_before_money_counts(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())

        applied(rows, declare(self.EUROS))

        there = team(rows, "acme")
        assert there.currency == "eur"
        spending = Spending(month="2026-11", spent_cents=500)
        update = {"version": there.version + 1, "spending": spending}
        assert rows.compare_and_set_team(there.model_copy(update=update)) is None
        with pytest.raises(CommandError, match=r"has spent or reserved 5.00 EUR in 2026-11"):
            applied(rows, declare())
        applied(rows, declare(), NOW + timedelta(days=10))
        assert team(rows, "acme").currency == "usd"

    def test_what_is_spent_stays_and_another_payment_method_starts_without_declines(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare(self.CAPPED))
        there = team(rows, "acme")
        spending = Spending(
            month="2026-11",
            spent_cents=3_000,
            declines_in_a_row=3,
            declined_payment_method="pm_1",
            suspended_payment_method="pm_1",
        )
        update = {"version": there.version + 1, "spending": spending}
        assert rows.compare_and_set_team(there.model_copy(update=update)) is None

        applied(rows, declare(self.INVOICED))

        assert team(rows, "acme").spending == spending.model_copy(
            update={"declines_in_a_row": 0, "declined_payment_method": None}
        )


class TestPlans:
    def test_another_plan_refills_from_the_next_period_on(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        upgraded = declare(('plan = "business"', 'plan = "max"'))

        steps = applied(rows, upgraded, NOW + timedelta(days=1))
        applied(rows, upgraded, NOW + timedelta(days=40))

        assert (
            "account",
            "user:ana",
            "plan",
            "business: 1,500 plan a month, anchor 2025-01-15",
            "max: 2,000 plan a month, anchor 2025-01-15, from 2026-12-15 00:00 UTC",
        ) in differences(steps)
        assert balance(rows, ANA)["refill:2026-11-15"] == 1_500_000_000
        account = commit(
            rows, ANA, [grant_change("touch")], now=NOW + timedelta(days=40), pause=pause
        ).account
        assert {g.id: g.amount_microcredits for g in account.grants}["refill:2026-12-15"] == (
            2_000_000_000
        )

    def test_returning_to_an_earlier_plan_is_another_change(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        applied(rows, declare(('plan = "business"', 'plan = "max"')))

        applied(rows, declare())
        applied(rows, declare(('plan = "business"', 'plan = "max"')))

        account = rows.read_account(ANA)
        assert account is not None
        assert account.plan is not None
        assert account.plan.name == "max"

    def test_the_anchor_of_a_plan_that_refills_cannot_be_moved(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())

        with pytest.raises(
            CommandError, match=r"user:olga refills from 2025-01-15, .* anchor = 2025"
        ):
            applied(rows, declare(("2025-01-15", "2025-01-20")))

    def test_an_anchor_that_never_refilled_anything_can_be_corrected(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare(("2025-01-15", "2052-01-15")))

        applied(rows, declare())

        assert balance(rows, ANA)["refill:2026-11-15"] == 1_500_000_000


class TestGrants:
    def test_a_recorded_grant_is_not_made_again_when_it_is_used_up_and_flushed(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())
        for number in range(20):
            commit(rows, ANA, [grant_change(f"g-{number}")], now=NOW, pause=pause)

        assert applied(rows, declare()) == []

    @pytest.mark.parametrize(
        "change",
        [
            ('credits = "200"', 'credits = "201"'),
            ('pool = "add_on"', 'pool = "trial"'),
            ('cause = "purchase"', 'cause = "gift"'),
            ('cause = "purchase"', 'cause = "purchase"\nexpires_in_days = 3'),
            ("expires_in_days = 14", "expires_in_days = 15"),
            ("expires_in_days = 14", ""),
            ("2040-01-01", "2041-01-01"),
        ],
        ids=str,
    )
    def test_a_recorded_grant_with_other_content_is_rejected(
        self, change: tuple[str, str], rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())

        with pytest.raises(
            CommandError, match=r"is already recorded .* give the new one another id"
        ):
            applied(rows, declare(change), NOW + timedelta(days=2))

    def test_a_grant_that_would_have_expired_before_it_is_made_is_rejected(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        with pytest.raises(
            CommandError,
            match="contract-2025 of team:globex expires before it is made, at 2020-01-01",
        ):
            applied(rows, declare(("2040-01-01", "2020-01-01")))

    def test_a_grant_that_has_expired_since_it_was_made_changes_nothing(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare())

        assert applied(rows, declare(), datetime(2041, 1, 1, tzinfo=UTC)) == []

    def test_many_grants_of_one_account_are_all_made(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        grants = "".join(
            f'[[grants]]\nprincipal = "user:ana"\nid = "g-{number}"\npool = "add_on"\n'
            'credits = "1"\ncause = "gift"\n'
            for number in range(120)
        )

        world = declare(("[[grants]]\n", f"{grants}[[grants]]\n"))
        applied(rows, world)

        assert sum(grant_id.startswith("g-") for grant_id in balance(rows, ANA)) == 120
        assert applied(rows, world) == []

    def test_more_grants_than_an_account_may_hold_are_rejected(
        self, rows: DynamoDBRows, declare: Declare
    ) -> None:
        applied(rows, declare(("user:ana", "user:ben")))
        for start in range(0, GRANTS_MAX - 1, 50):
            grants = [grant_change(f"g{n}") for n in range(start, min(start + 50, GRANTS_MAX - 1))]
            results = commit(rows, ANA, grants, now=NOW, pause=pause).results
            assert all(isinstance(result, Recorded) for result in results)

        with pytest.raises(CommandError, match="user:ana would hold more than 200 grants"):
            applied(rows, declare())


class TestCommands:
    """`apply` and `grant` on the command line."""

    @pytest.fixture
    def run(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
        monkeypatch.setattr(apply_module, "connect", lambda _: target)
        monkeypatch.setattr(grant_module, "connect", lambda _: target)
        app = typer.Typer(cls=CommandGroup)
        app.command()(apply_module.apply)
        app.command()(grant_module.grant)
        return lambda *arguments: CliRunner().invoke(app, list(arguments))

    def test_apply_shows_the_changes_and_the_second_time_none(
        self, run: Callable[..., Result]
    ) -> None:
        first = run("apply", str(SAMPLES_FILE))
        second = run("apply", str(SAMPLES_FILE))

        assert first.exit_code == second.exit_code == 0
        assert "business: 1,500 plan a month, anchor 2025-01-15" in first.output
        assert second.output == "moto: nothing to change\n"

    def test_apply_prints_warnings(self, run: Callable[..., Result], tmp_path: Path) -> None:
        file = tmp_path / "world.toml"
        file.write_text(SAMPLES_FILE.read_text().replace('"olga", "ana", "ben"', '"olga", "ana"'))
        run("apply", str(SAMPLES_FILE))

        planned = run("apply", "--dry-run", "--json", str(file))
        printed = run("apply", str(file))

        (warning,) = json.loads(planned.output)["warnings"]
        assert warning.startswith("user:ben leaves team acme and still holds 1,500 credits; events")
        assert (
            "\nWarning: user:ben leaves team acme and still holds 1,500 credits" in printed.output
        )

    def test_dry_run_changes_nothing(self, run: Callable[..., Result], rows: DynamoDBRows) -> None:
        shown = run("apply", "--dry-run", "--json", str(SAMPLES_FILE))

        document = json.loads(shown.output)
        assert document["dry_run"] is True
        assert document["changes"][0] == {
            "kind": "policy",
            "name": "2026-12",
            "what": "rules",
            "before": None,
            "after": "4 rules",
        }
        assert list(rows.list_accounts()) == []

    def test_a_grant_is_made_once(self, run: Callable[..., Result], rows: DynamoDBRows) -> None:
        run("apply", str(SAMPLES_FILE))
        command = ("grant", "user:ana", "--pool=add_on", "--credits=5", "--id=order-7")

        first, second = run(*command), run(*command)

        assert first.output == "Granted user:ana 5 credits in pool add_on as order-7.\n"
        assert second.output == (
            "user:ana was already granted 5 credits in pool add_on as order-7; 5 credits left.\n"
        )
        assert balance(rows, ANA)["order-7"] == 5_000_000

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["user:nobody"], "user:nobody has no account"),
            (["ana"], "'ana' is not a principal"),
            (["team:globex"], "no run draws from pool add_on when team:globex pays"),
            (["user:ana", "--pool=typo"], "no run draws from pool typo when user:ana pays"),
            (["user:ana", "--price-cents=500"], "--price-cents and --team go together"),
            (
                ["user:ana", "--price-cents=500", "--team=nowhere"],
                "--team: there is no team 'nowhere'",
            ),
            (
                ["user:ana", "--price-cents=500", "--team=orbit"],
                "--team: no run of team orbit is billed to user:ana; name the team",
            ),
            (
                ["user:ana", "--price-cents=500", "--team=acme", "--currency=eur"],
                "--currency: team acme pays in usd, and its cap cannot add up eur",
            ),
            (
                ["user:ana", "--price-cents=500", "--team=acme"],
                "spend_cap_reached: the cap of team acme leaves 0.00 USD this month",
            ),
            (["user:ana", "--id=order-1001"], "grant order-1001 of user:ana is already recorded"),
            (["user:ana", "--id=refill:x"], "--id: ids that begin with 'refill:' are reserved"),
            (["user:ana", "--credits=1.0000001"], "--credits: credits must be a decimal"),
            (["user:ana", "--pool=Add-On"], "--pool: String should match pattern"),
            (["user:ana", "--cause=refill"], "--cause: Input should be 'purchase'"),
            (["user:ana", "--expires-at=2027-01-01T00:00:00"], "--expires-at: Input should have"),
            (["user:ana", "--expires-at=2020-01-01T00:00:00Z"], "grant order-7 of user:ana exp"),
            (["user:ana", "--expires-in-days=0"], "--expires-in-days: Input should be greater"),
        ],
        ids=str,
    )
    def test_grant_fails_in_one_line(
        self, arguments: list[str], complaint: str, run: Callable[..., Result]
    ) -> None:
        run("apply", str(SAMPLES_FILE))
        defaults = ["--pool=add_on", "--credits=5", "--id=order-7"]

        refused = run("grant", *defaults, *arguments)

        assert refused.exit_code == 2
        assert refused.output.startswith(f"agent-credits: {complaint}")
        assert refused.output.count("\n") == 1

    def test_apply_fails_in_one_line(self, run: Callable[..., Result], tmp_path: Path) -> None:
        refused = run("apply", str(tmp_path / "nowhere.toml"))

        assert refused.exit_code == 2
        assert refused.output.count("\n") == 1
