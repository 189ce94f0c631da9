"""What the operator reads: accounts, teams, ledgers, runs, rejected messages and notices."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from msgspec import structs
from typer.testing import CliRunner, Result

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.items import account_item, limit_row_item, page_key
from agent_credits.aws.topic import NoticesTopic
from agent_credits.billing.directory import Directory
from agent_credits.billing.spend_cap import Spending, month_of
from agent_credits.billing.teams import Team
from agent_credits.commit.together import commit_changes
from agent_credits.commit.write_protocol import commit
from agent_credits.events.agent_runs import parse_message
from agent_credits.notices.insufficient_credits import insufficient_credits
from agent_credits.notices.published import Published
from agent_credits.values.principals import Principal
from agent_credits_cli.commands import account, dead_letters, explain, ledger, team, verify, watch
from agent_credits_cli.commands.explain import in_order_with_held
from agent_credits_cli.dead_letters import read_dead_letters, why_rejected
from agent_credits_cli.entries import all_pages
from agent_credits_cli.holdings import holdings_at, holdings_to_json
from agent_credits_cli.recorded_runs import find_run
from agent_credits_cli.subscription import QUEUE_PREFIX, Watch, subscribed
from agent_credits_cli.target import Target
from tests.integration.commands import app_of
from tests.integration.stack_tables import create_tables
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    BIGCORP,
    BIGCORP_TEAM,
    NOW,
    OLGA,
    POLICY,
    TRIGGERS,
    body,
    finished,
    grant_change,
    open_account,
    pause,
    plan_change,
    provider_error,
    requested,
    run_change,
    usage,
)
from tests.unit.limit_world import LimitWorld, limit

Run = Callable[..., Result]


@pytest.fixture
def run(target: Target, monkeypatch: pytest.MonkeyPatch) -> Run:
    app = app_of(
        target,
        monkeypatch,
        (account, account.account),
        (team, team.team),
        (ledger, ledger.ledger),
        (explain, explain.explain),
        (verify, verify.verify),
        (watch, watch.watch),
    )
    monkeypatch.setattr(dead_letters, "connect", lambda _: target)
    app.add_typer(dead_letters.app, name="dead-letters")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.fixture
def settled(rows: DynamoDBRows) -> DynamoDBRows:
    rows.put_policy(POLICY)
    for settings in (ACME, BIGCORP_TEAM):
        rows.compare_and_set_team(settings.model_copy(update={"version": 1}))
    return rows


def debit(rows: DynamoDBRows, *documents: dict[str, Any], principal: Principal = ANA) -> None:
    """Commit each event on its own, so that pages fill up one entry at a time."""
    for minute, document in enumerate(documents):
        now = NOW + timedelta(minutes=minute)
        commit(rows, principal, [run_change(document)], now=now, pause=pause)


@pytest.fixture
def several_pages(settled: DynamoDBRows) -> DynamoDBRows:
    """Two full pages and an open one, all of one run."""
    open_account(settled, grant_change("pack", credits="10"))
    debit(settled, *(usage(f"evt-{number:02d}", "1", run="run-long") for number in range(18)))
    return settled


class TestAccount:
    def test_shows_what_may_be_drawn_in_drawing_order(
        self, run: Run, settled: DynamoDBRows
    ) -> None:
        later = datetime.now(UTC) + timedelta(days=9)
        open_account(
            settled,
            grant_change("never", credits="10"),
            grant_change("soon", credits="2.5", expires_at=later),
            grant_change("stray", "contract", "7"),
        )

        shown = json.loads(run("account", "user:ana", "--json").stdout)

        assert shown["available_credits"] == "12.5"
        assert [pool["pool"] for pool in shown["pools"]] == ["trial", "plan", "add_on"]
        assert [grant["id"] for grant in shown["grants"]] == ["soon", "never", "stray"]
        assert shown["plan"] is None
        assert "contract (no run draws it)" in run("account", "user:ana").stdout

    def test_brings_the_account_up_to_now_and_writes_nothing(self, settled: DynamoDBRows) -> None:
        row = open_account(
            settled, plan_change("100"), grant_change("old", expires_at=NOW + timedelta(days=1))
        )

        holdings = holdings_at(row, POLICY, NOW + timedelta(days=60))

        shown = holdings_to_json(holdings)
        assert shown["available_credits"] == "100"
        assert [grant["id"] for grant in shown["grants"]] == ["refill:2026-01-01"]
        assert shown["plan"]["resets_at"] == "2026-02-01T00:00:00Z"
        assert settled.read_account(ANA) == row

    def test_a_team_account_draws_what_its_own_rules_name(
        self, run: Run, settled: DynamoDBRows
    ) -> None:
        open_account(settled, grant_change("deal", "contract", "9", principal=BIGCORP))

        shown = json.loads(run("account", "team:bigcorp", "--json").stdout)

        assert shown["pools"] == [
            {"pool": "trial", "available_credits": "0", "reserved_credits": "0"},
            {"pool": "contract", "available_credits": "9", "reserved_credits": "0"},
        ]

    @pytest.mark.usefixtures("settled")
    @pytest.mark.parametrize("command", ["account", "ledger", "verify"])
    @pytest.mark.parametrize(
        ("principal", "reason"),
        [("ana", "is not a principal"), ("user:nobody", "user:nobody has no account")],
    )
    def test_rejects_an_unknown_or_invalid_account(
        self, run: Run, command: str, principal: str, reason: str
    ) -> None:
        result = run(command, principal)

        assert result.exit_code == 2
        assert reason in result.stderr
        assert len(result.stderr.splitlines()) == 1


class TestTeam:
    def test_shows_who_pays_since_when_and_marks_what_is_pending(
        self, run: Run, settled: DynamoDBRows
    ) -> None:
        open_account(settled, grant_change("g-ana", credits="3"))
        pending = replace_owner("ben", datetime.now(UTC) + timedelta(hours=1))
        settled.compare_and_set_team(pending)

        shown = json.loads(run("team", "acme", "--json").stdout)

        assert [(t["owner"], t["state"]) for t in shown["tenures"]] == [
            ("olga", "current"),
            ("ben", "pending"),
        ]
        assert shown["payers"] == [
            no_account("user:olga"),
            no_account("user:ana") | {"available_credits": "3", "reserved_credits": "0"},
            no_account("user:ben"),
        ]
        assert "pending" in run("team", "acme").stdout

    def test_an_enterprise_pays_itself(self, run: Run, settled: DynamoDBRows) -> None:
        open_account(settled, grant_change("deal", "contract", "9", principal=BIGCORP))

        shown = json.loads(run("team", "bigcorp", "--json").stdout)

        assert shown["members"] == "*"
        assert shown["payers"] == [
            no_account("team:bigcorp") | {"available_credits": "9", "reserved_credits": "0"}
        ]

    @pytest.mark.usefixtures("settled")
    def test_rejects_an_unknown_team(self, run: Run) -> None:
        result = run("team", "nowhere")

        assert result.exit_code == 2
        assert "there is no team nowhere" in result.stderr

    def test_shows_spend_reservations_and_cap(self, run: Run, settled: DynamoDBRows) -> None:
        team = settled.read_team("acme")
        assert team is not None
        month = month_of(datetime.now(UTC), team.time_zone)
        spending = Spending(month=month, spent_cents=1_250)
        capped = {"spend_cap_cents": 5_000, "spending": spending, "version": team.version + 1}
        settled.compare_and_set_team(team.model_copy(update=capped))

        told = run("team", "acme").stdout
        shown = json.loads(run("team", "acme", "--json").stdout)["spending"]

        assert (
            f"spend in {month} ({team.time_zone}): 12.50 USD spent, 0.00 USD reserved, "
            "37.50 USD left of the cap of 50.00 USD\n"
        ) in told
        assert (shown["spent_cents"], shown["head_room_cents"]) == (1_250, 3_750)

    @pytest.mark.usefixtures("settled")
    def test_a_team_without_a_cap_is_said_to_purchase_nothing(self, run: Run) -> None:
        assert "0.00 USD reserved, no cap set: purchases are off\n" in run("team", "acme").stdout


def no_account(principal: str) -> dict[str, Any]:
    return {
        "principal": principal,
        "available_credits": None,
        "reserved_credits": None,
        "reload": None,
    }


def replace_owner(owner: str, since: datetime) -> Team:
    tenure = ACME.tenures[0].model_copy(update={"owner": owner, "since": since})
    return ACME.model_copy(update={"version": 2, "tenures": (*ACME.tenures, tenure)})


class TestLedger:
    @pytest.mark.usefixtures("several_pages")
    def test_joins_full_pages_and_the_open_page(self, run: Run) -> None:
        lines = [
            json.loads(line) for line in run("ledger", "user:ana", "--json").stdout.splitlines()
        ]

        assert [line["id"] for line in lines] == ["pack", *(f"evt-{n:02d}" for n in range(18))]
        assert [line["page"] for line in lines] == [1] * 8 + [2] * 8 + [3] * 3
        assert lines[11]["shortfall_credits"] == "1"
        assert lines[11]["fails_run"] is True

    def test_a_page_that_is_flushed_and_still_on_the_row_comes_once(
        self, run: Run, settled: DynamoDBRows
    ) -> None:
        open_account(settled, grant_change("pack", credits="10"))
        debit(settled, *(usage(f"evt-{number}", "1") for number in range(7)))
        row = settled.read_account(ANA)
        assert row is not None
        assert row.page_is_full
        settled.put_page(row.page)

        lines = run("ledger", "user:ana").stdout.splitlines()

        assert len(lines) == 8
        assert [page.number for page in all_pages(settled, row)] == [1]

    @pytest.mark.usefixtures("several_pages")
    def test_limit_stops_after_that_many_entries(self, run: Run) -> None:
        assert len(run("ledger", "user:ana", "--limit", "9").stdout.splitlines()) == 9

    @pytest.mark.usefixtures("several_pages")
    def test_an_entry_is_one_line_for_people(self, run: Run) -> None:
        lines = run("ledger", "user:ana").stdout.splitlines()

        assert (
            lines[0]
            == "2025-11-20 10:00 UTC  page 1  granted       pack  10 credits in pool add_on"
        )
        assert lines[1] == (
            "2025-11-21 10:00 UTC  page 1  debited       evt-00 of run-long  1 credit,"
            " 1 add_on (pack)"
        )
        assert lines[12].endswith("insufficient  evt-11 of run-long  1 credit, short by 1 credit")


class TestExplain:
    def test_shows_what_each_pool_held_and_what_was_drawn(
        self, run: Run, settled: DynamoDBRows
    ) -> None:
        open_account(
            settled, grant_change("gift", "trial", "2.5"), grant_change("pack", credits="10")
        )
        debit(settled, usage("evt-1", "10", project_id="web"), usage("evt-2", "1"))

        text = run("explain", "run-1").stdout

        assert "trigger    user ana of team acme, project web" in text
        assert f"user:ana: the user who started the run pays (policy {POLICY.version})" in text
        assert "trial held 2.5, drew 2.5; plan held 0; add_on held 10, drew 7.5" in text
        assert "outcome    debited 2.5 trial (gift) + 7.5 add_on (pack)" in text
        assert "trial held 0; plan held 0; add_on held 2.5, drew 1" in text

    def test_a_pool_that_was_not_needed_is_marked(self, run: Run, settled: DynamoDBRows) -> None:
        open_account(settled, grant_change("gift", "trial", "5"))
        debit(settled, usage("evt-1", "1"))

        assert "trial held 5, drew 1; plan held 0, not needed; add_on held 0, not needed" in (
            run("explain", "run-1").stdout
        )

    def test_joins_receipts_and_the_open_page_of_the_accounts_they_name(
        self, several_pages: DynamoDBRows
    ) -> None:
        found = in_order_with_held(several_pages, find_run(several_pages, "run-long", None))

        assert [r.entry.identity.id for r in found] == [f"evt-{n:02d}" for n in range(18)]
        assert [r.is_on_open_page for r in found] == [False] * 15 + [True] * 3

    def test_finds_a_run_without_receipts_on_any_open_page(
        self, run: Run, settled: DynamoDBRows
    ) -> None:
        open_account(settled, grant_change("g-ana"))
        open_account(settled, grant_change("g-olga", principal=OLGA))
        schedule = usage("evt-1", "1", trigger=TRIGGERS["schedule"], run="run-night")
        debit(settled, schedule, principal=OLGA)

        (shown,) = explained(run, "run-night")

        assert shown["principal"] == "user:olga"
        assert shown["payer"] == "owner"
        assert shown["is_on_open_page"] is True
        assert shown["pools"][-1] == {
            "pool": "add_on",
            "held_credits": "10",
            "drawn_credits": "1",
        }

    def test_every_outcome_has_words(self, run: Run, settled: DynamoDBRows) -> None:
        open_account(settled, grant_change("pack", credits="5"))
        debit(
            settled,
            requested("e-1", credits="5"),
            usage("e-2", "2"),
            finished("e-3", "error"),
            usage("e-4", "1"),
            requested("e-5", run="run-2", credits="50"),
            finished("e-6", run="run-2"),
            usage("e-7", "6", run="run-2"),
        )

        text = run("explain", "run-1").stdout + run("explain", "run-2").stdout

        assert "accepted: the pools cover it; a request takes no credits" in text
        assert "returned 2 add_on (pack): the run ended with a platform error" in text
        assert "waived 1 credit: the run had ended with a platform error" in text
        assert "insufficient: short by 45 credits; this failed the run" in text
        assert "finished: the run ended" in text
        assert (
            "insufficient, drew 5 add_on (pack): short by 1 credit; the run had failed already"
            in text
        )

    @pytest.mark.usefixtures("several_pages")
    def test_event_option_shows_only_that_event(self, run: Run) -> None:
        shown = explained(run, "run-long", "--event", "evt-03")

        assert [event["id"] for event in shown] == ["evt-03"]

    def test_principal_option_reads_that_accounts_open_page(
        self, run: Run, several_pages: DynamoDBRows
    ) -> None:
        open_account(several_pages, grant_change("g-ben", principal=BEN))
        debit(several_pages, usage("evt-ben", user="ben", run="run-long"), principal=BEN)

        by_receipts = explained(run, "run-long")
        named = explained(run, "run-long", "--principal", "user:ben")

        assert {event["principal"] for event in by_receipts} == {"user:ana"}
        assert {event["principal"] for event in named} == {"user:ana", "user:ben"}

    @pytest.mark.usefixtures("settled")
    def test_rejects_a_run_that_no_account_recorded(self, run: Run) -> None:
        result = run("explain", "run-none")

        assert result.exit_code == 2
        assert "no account has recorded an event of run run-none" in result.stderr


def explained(run: Run, *arguments: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(run("explain", *arguments, "--json").stdout)["events"]
    return events


class TestVerify:
    @pytest.mark.usefixtures("several_pages")
    def test_a_clean_ledger_is_reported_with_its_sums(self, run: Run) -> None:
        result = run("verify")

        assert result.exit_code == 0
        assert (
            "zero drift: 1 account, 19 entries; granted 10 + returned 0 - drawn 10" in result.stdout
        )

    def test_a_changed_row_is_drift(
        self, run: Run, several_pages: DynamoDBRows, target: Target
    ) -> None:
        row = several_pages.read_account(ANA)
        assert row is not None
        forged = structs.replace(row, entries=row.entries[:-1])
        target.dynamodb.put_item(
            TableName=target.outputs.accounts_table_name, Item=account_item(forged)
        )
        target.dynamodb.delete_item(
            TableName=target.outputs.ledger_table_name, Key=page_key(ANA, 1)
        )

        result = run("verify", "user:ana", "--json")

        assert result.exit_code == 1
        found = json.loads(result.stdout)["findings"]
        assert {finding["principal"] for finding in found} == {"user:ana"}
        assert found[0]["text"] == "page 1 is expected here, so the ledger has a gap"

    def test_a_limit_that_contradicts_its_accounts_is_drift(
        self, run: Run, settled: DynamoDBRows, target: Target
    ) -> None:
        world = LimitWorld(limit("team", "50"))
        for principal, changes in world.changes(
            usage("e-1", "5"), usage("e-2", "2", user="ben", run="run-2")
        ).items():
            open_account(settled, grant_change("pack", principal=principal))
            commit_changes(settled, principal, changes, now=NOW, pause=pause)
        clean = run("verify")
        (row,) = settled.list_limits()
        target.dynamodb.put_item(
            TableName=target.outputs.accounts_table_name,
            Item=limit_row_item(structs.replace(row, drawn_microcredits=6_000_000)),
        )

        result = run("verify")

        assert clean.exit_code == 0
        assert "zero drift: 2 accounts, 4 entries, 1 limit of several accounts;" in clean.stdout
        assert result.exit_code == 1
        assert result.stdout.startswith(
            "team:acme, limit of team acme per month: the limit's row counts 6 credits drawn, but"
            " its accounts count 7\n1 finding: 2 accounts"
        )
        assert json.loads(run("verify", "--json").stdout)["limits"] == 1

    def test_a_copy_of_another_moment_is_named_before_what_follows_from_it(
        self, run: Run, several_pages: DynamoDBRows, dynamodb: Any
    ) -> None:
        row = several_pages.read_account(ANA)
        assert row is not None
        earlier = create_tables(dynamodb, "earlier")
        copy = DynamoDBRows(dynamodb, earlier.accounts, earlier.ledger)
        (first, *_) = several_pages.read_pages(ANA)
        # As it was when its first page was open.
        then = structs.replace(row, version=1, page_number=1, entries=first.entries[:1])
        assert copy.compare_and_set(then) is None
        copy.put_page(first)

        result = run(
            "verify", "--accounts-table", earlier.accounts, "--ledger-table", earlier.ledger
        )

        assert result.exit_code == 1
        lines = result.stdout.splitlines()
        assert lines[0].startswith("user:ana: AccountsTable is older than LedgerTable by page 1 of")
        assert lines[1].startswith("The two tables are not of one moment.")
        assert run("verify").exit_code == 0

    def test_a_ledger_of_an_earlier_moment_is_named_with_its_pages(
        self, run: Run, several_pages: DynamoDBRows, dynamodb: Any, target: Target
    ) -> None:
        row = several_pages.read_account(ANA)
        assert row is not None
        earlier = create_tables(dynamodb, "earlier")

        result = run(
            *("verify", "user:ana", "--json"),
            *("--accounts-table", target.outputs.accounts_table_name),
            *("--ledger-table", earlier.ledger),
        )

        assert result.exit_code == 1
        assert json.loads(result.stdout)["torn"] == [
            {
                "principal": "user:ana",
                "older": "LedgerTable",
                "first_page": 1,
                "last_page": row.page_number - 1,
                "newer_keys": [],
            }
        ]

    def test_an_account_that_only_the_ledger_of_a_copy_knows_is_named(
        self, run: Run, several_pages: DynamoDBRows, dynamodb: Any, target: Target
    ) -> None:
        earlier = create_tables(dynamodb, "earlier")
        assert list(several_pages.read_pages(ANA)) != []

        result = run(
            *("verify", "--accounts-table", earlier.accounts),
            *("--ledger-table", target.outputs.ledger_table_name),
        )

        assert result.exit_code == 1
        assert result.stdout.startswith("user:ana: AccountsTable is older than LedgerTable by page")

    def test_a_copy_is_not_verified_with_a_table_that_is_in_use(self, run: Run) -> None:
        result = run("verify", "--accounts-table", "a-copy")

        assert result.exit_code == 2
        assert "give both --accounts-table and --ledger-table" in result.stderr


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_credits_cli.dead_letter_queue.WAIT_SECONDS", 0)


@pytest.fixture
def dead_letter_queue(target: Target, aws: boto3.Session) -> str:
    """The queue of rejected events, and those of reloads and sweeps beside it."""
    sqs = aws.client("sqs")
    for name in ("reloads", "sweeps"):
        sqs.create_queue(
            QueueName=f"agent-runs-{name}-dead-letters.fifo", Attributes={"FifoQueue": "true"}
        )
    url: str = sqs.create_queue(QueueName="agent-runs-dead-letters")["QueueUrl"]
    assert url == target.outputs.agent_runs_dead_letter_queue_url
    return url


@pytest.mark.usefixtures("no_waiting")
class TestDeadLetters:
    @pytest.mark.parametrize(
        ("message", "code", "reason"),
        [
            ("{", "malformed", "the body is not JSON"),
            (body(usage("e", "-1")), "malformed", "credits must be a"),
            (body(usage("e", team="nowhere")), "unknown_team", "a team that does not exist"),
            (body(usage("e", user="zoe")), "unknown_user", "is not a member"),
            (body(usage("e", user="ben")), "unknown_user", "user:ben has no account"),
            (body(usage("on-page", "9")), "conflicting", "recorded with another payload"),
            (body(usage("evt-00", "9", run="run-long")), "conflicting", "with another payload"),
            (
                body(usage("twin", "1"), usage("twin", "2")),
                "conflicting",
                "event twin was recorded with another payload",
            ),
            (body(usage("on-page", "1"), usage("on-page", "2")), "conflicting", "event on-page"),
            (
                body(usage("evt-00", "1", run="run-long"), usage("evt-00", "9", run="run-long")),
                "conflicting",
                "event evt-00",
            ),
            (
                body(usage("e", time=datetime.now(UTC) + timedelta(days=2))),
                "from_the_future",
                "more than five minutes in the future",
            ),
            (body(usage("on-page", "1")), None, ""),
            (body(usage("new", "1")), None, ""),
            (body(usage("new", "1"), usage("new", "1")), None, ""),
            (body(provider_error("e")), None, ""),
            (body(provider_error("e", user="ben")), None, ""),
            (
                body(provider_error("e", team="nowhere")),
                "unknown_team",
                "a team that does not exist",
            ),
        ],
    )
    def test_shows_why_a_message_would_be_rejected_now(
        self, several_pages: DynamoDBRows, message: str, code: str | None, reason: str
    ) -> None:
        debit(several_pages, usage("on-page", "1"))
        directory, now = Directory(several_pages), datetime.now(UTC)

        rejection = why_rejected(parse_message(message), several_pages, directory, now)

        assert (rejection.code if rejection else None) == code
        assert reason in (rejection.reason if rejection else "")

    @pytest.mark.usefixtures("several_pages")
    def test_a_message_with_an_event_and_its_conflicting_twin_is_shown(
        self, run: Run, target: Target, dead_letter_queue: str
    ) -> None:
        message = body(usage("twin", "1"), usage("twin", "2"))
        target.sqs.send_message(QueueUrl=dead_letter_queue, MessageBody=message)

        (shown,) = json.loads(run("dead-letters", "--json").stdout)

        assert (shown["queue"], shown["code"]) == ("agent-runs", "conflicting")
        assert shown["about"] == [{"event": "twin", "run": "run-1", "team": "acme"}] * 2

    @pytest.mark.usefixtures("settled")
    def test_showing_messages_removes_none(self, target: Target, dead_letter_queue: str) -> None:
        for number in range(25):
            target.sqs.send_message(QueueUrl=dead_letter_queue, MessageBody=f"no JSON {number}")

        first = read_dead_letters(target, 100, NOW)
        second = read_dead_letters(target, 100, NOW)

        assert len({letter.body for letter in first}) == 25
        assert {letter.message_id for letter in first} == {letter.message_id for letter in second}
        assert {letter.receive_count for letter in second} == {2}

    @pytest.mark.usefixtures("settled")
    def test_shows_at_most_the_limit(
        self, run: Run, target: Target, dead_letter_queue: str
    ) -> None:
        for number in range(5):
            target.sqs.send_message(QueueUrl=dead_letter_queue, MessageBody=f"no JSON {number}")

        assert len(json.loads(run("dead-letters", "--limit", "3", "--json").stdout)) == 3

    @pytest.mark.usefixtures("settled")
    def test_a_body_is_shown_only_on_request_and_truncated(
        self, run: Run, target: Target, dead_letter_queue: str
    ) -> None:
        text = "\x1b[31m" + "x" * 3_000
        target.sqs.send_message(QueueUrl=dead_letter_queue, MessageBody=text)

        assert "xxx" not in run("dead-letters").stdout
        shown = run("dead-letters", "--body").stdout
        assert "\x1b" not in shown
        assert "x" * 1_900 in shown
        assert "x" * 2_000 not in shown
        (document,) = json.loads(run("dead-letters", "--body", "--json").stdout)
        assert document["body"] == text

    @pytest.mark.usefixtures("settled", "dead_letter_queue")
    def test_an_empty_queue_is_reported(self, run: Run) -> None:
        assert run("dead-letters").stdout == "No dead letters: agent-runs, reloads, sweeps.\n"


@dataclass(frozen=True)
class Topic:
    target: Target

    def publish(self, rows: DynamoDBRows) -> None:
        """Publish the notice of a run that fails."""
        row = rows.read_account(ANA)
        assert row is not None
        entry = next(entry for entry in row.entries if entry.fails_run)
        notices = NoticesTopic(self.target.sns, self.target.outputs.notices_topic_arn)
        notices.publish(insufficient_credits(row, entry, ""))

    def queues(self) -> list[str]:
        urls = self.target.sqs.list_queues(QueueNamePrefix=QUEUE_PREFIX)
        return list(urls.get("QueueUrls", []))

    def subscriptions(self) -> int:
        return len(self.target.sns.list_subscriptions()["Subscriptions"])


@pytest.fixture
def topic(target: Target, monkeypatch: pytest.MonkeyPatch) -> Iterator[Topic]:
    arn = target.sns.create_topic(Name="notices")["TopicArn"]
    outputs = target.outputs.model_copy(update={"notices_topic_arn": arn})
    watched = replace(target, outputs=outputs)
    monkeypatch.setattr(watch, "connect", lambda _: watched)
    return Topic(watched)


class TestWatch:
    def test_prints_what_is_published_and_removes_its_queue(
        self,
        run: Run,
        topic: Topic,
        several_pages: DynamoDBRows,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        debit(several_pages, usage("too-much", "99", run="run-dry"))
        published_on_the_first_look(monkeypatch, lambda: topic.publish(several_pages))

        text = run("watch", "--for", "0.5").stdout

        assert "Run run-dry failed: user:ana is out of credits" in text
        assert re.search(r"Account .*Started by.*\n.*user:ana .*user ana", text)
        assert re.search(r"Short by.*\n.* 99 credits", text)
        assert "• ana: purchase add-on credits for your own account." in text
        # Of what Slack alone understands nothing is left.
        assert not re.search(r"<!date|\*|&lt;|:rotating_light:", text)
        assert topic.queues() == []
        assert topic.subscriptions() == 0

    def test_prints_ndjson(
        self,
        run: Run,
        topic: Topic,
        several_pages: DynamoDBRows,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        debit(several_pages, usage("too-much", "99", run="run-dry"))
        published_on_the_first_look(monkeypatch, lambda: topic.publish(several_pages))

        (line,) = run("watch", "--for", "0.5", "--json").stdout.splitlines()

        assert json.loads(line)["type"] == "insufficient_credits"
        assert json.loads(line)["data"]["run_id"] == "run-dry"

    def test_receives_at_least_once_on_a_slow_machine(
        self,
        run: Run,
        topic: Topic,
        several_pages: DynamoDBRows,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        debit(several_pages, usage("too-much", "99", run="run-dry"))
        published_on_the_first_look(monkeypatch, lambda: topic.publish(several_pages))
        hours = count(step=3_600)
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: next(hours)))

        assert len(run("watch", "--for", "0.5", "--json").stdout.splitlines()) == 1

    def test_only_the_topic_may_send_to_its_queue(self, topic: Topic) -> None:
        with subscribed(topic.target):
            (url,) = topic.queues()
            attributes = topic.target.sqs.get_queue_attributes(
                QueueUrl=url, AttributeNames=["Policy"]
            )

        (statement,) = json.loads(attributes["Attributes"]["Policy"])["Statement"]
        assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
        assert statement["Condition"]["ArnEquals"] == {
            "aws:SourceArn": topic.target.outputs.notices_topic_arn
        }

    def test_its_queue_is_removed_after_any_error(self, topic: Topic) -> None:
        with pytest.raises(KeyboardInterrupt), subscribed(topic.target):
            raise KeyboardInterrupt

        assert topic.queues() == []
        assert topic.subscriptions() == 0


def published_on_the_first_look(
    monkeypatch: pytest.MonkeyPatch, publish: Callable[[], None]
) -> None:
    receive = Watch.receive
    waiting = [publish]

    def receive_after_publishing(self: Watch, wait_seconds: int) -> list[Published]:
        if waiting:
            waiting.pop()()
        return receive(self, min(wait_seconds, 1))

    monkeypatch.setattr(Watch, "receive", receive_after_publishing)
