"""What the operator sees of reservations, and releasing one by hand."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.directory import Directory
from agent_credits.billing.teams import bill
from agent_credits.commit.changes import RunChange
from agent_credits.commit.write_protocol import commit
from agent_credits.events.agent_runs import parse_message
from agent_credits.ledger.accounts import Account
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
from agent_credits_cli.commands.release import release_by_hand
from agent_credits_cli.dead_letters import why_rejected
from agent_credits_cli.target import Target
from tests.integration.commands import app_of
from tests.unit.builders import (
    ACME,
    ANA,
    cloudevent,
    finished,
    grant_change,
    open_account,
    parsed,
    pause,
    requested,
    usage,
)
from tests.unit.reservation_world import NO_STEP, RESERVING, extended, policy

Run = Callable[..., Result]

NOW = datetime.now(UTC)
PAUSING = policy(**NO_STEP, overrun="pause", grace_microcredits=5_000_000)


@pytest.fixture
def run(target: Target, monkeypatch: pytest.MonkeyPatch) -> Run:
    app = app_of(
        target,
        monkeypatch,
        (account, account.account),
        (team, team.team),
        (report, report.report),
        (ledger, ledger.ledger),
        (explain, explain.explain),
        (verify, verify.verify),
        (grant, grant.grant),
        (reservations, reservations.reservations),
        (release, release.release),
    )
    return lambda *arguments, answer="": CliRunner().invoke(app, list(arguments), input=answer)


class Reserving:
    """Ana with 500 credits, whose runs reserve 75 each by the policy."""

    def __init__(self, rows: DynamoDBRows) -> None:
        self.rows = rows
        self.policy = RESERVING
        rows.put_policy(RESERVING)
        rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
        open_account(rows, grant_change("g-1", credits="500"), now=NOW - timedelta(days=2))

    def send(self, *documents: dict[str, Any], at: datetime = NOW) -> list[str]:
        changes = [RunChange(e, bill(e, ACME, self.policy)) for e in map(parsed, documents)]
        return [
            type(result).__name__
            for result in commit(self.rows, ANA, changes, now=at, pause=pause).results
        ]

    @property
    def row(self) -> Account:
        row = self.rows.read_account(ANA)
        assert row is not None
        return row


@pytest.fixture
def ana(rows: DynamoDBRows) -> Reserving:
    return Reserving(rows)


def read(run: Run, *arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class TestBalances:
    def test_show_apart_what_is_available_and_what_is_reserved(
        self, run: Run, ana: Reserving
    ) -> None:
        ana.send(requested("r-1", run="run-1"), requested("r-2", run="run-2", credits="100"))

        shown = read(run, "account", "user:ana")
        (of_ana,) = [p for p in read(run, "team", "acme")["payers"] if p["principal"] == "user:ana"]
        reported = read(run, "report", "acme")
        verified = read(run, "verify", "user:ana")

        for held in (shown, of_ana, reported, *reported["accounts"]):
            assert (held["available_credits"], held["reserved_credits"]) == ("325", "175")
        assert shown["pools"][2] == {
            "pool": "add_on",
            "available_credits": "325",
            "reserved_credits": "175",
        }
        (grant,) = shown["grants"]
        assert (grant["remaining_credits"], grant["reserved_credits"]) == ("325", "175")
        assert (verified["remaining_credits"], verified["reserved_credits"]) == ("500", "175")
        text = run("account", "user:ana").stdout
        assert "user:ana: 325 credits available, 175 reserved for 2 runs in flight\n" in text
        assert re.search(r"^ user:ana +325 +175 *$", run("team", "acme").stdout, re.MULTILINE)
        assert "= 500 credits remaining, of which 175 reserved\n" in run("verify").stdout

    def test_what_an_expired_reservation_held_is_available_before_any_commit(
        self, run: Run, ana: Reserving
    ) -> None:
        ana.send(requested("r-1"), at=NOW - timedelta(hours=2))

        shown = read(run, "account", "user:ana")

        assert (shown["available_credits"], shown["reserved_credits"]) == ("500", "0")
        assert read(run, "reservations", "user:ana")["reservations"] == []
        assert "500 credits available, no live reservation" in (
            run("reservations", "user:ana").stdout
        )
        assert len(ana.row.reservations) == 1

    def test_a_grant_that_is_repeated_says_what_of_it_is_reserved(
        self, run: Run, ana: Reserving
    ) -> None:
        ana.send(requested("r-1"))

        repeated = run("grant", "user:ana", "--pool=add_on", "--credits=500", "--id=g-1")

        assert repeated.stdout == (
            "user:ana was already granted 500 credits in pool add_on as g-1;"
            " 425 credits left and 75 reserved for runs in flight.\n"
        )


class TestReservations:
    def test_lists_children_below_their_parent(self, run: Run, ana: Reserving) -> None:
        ana.policy = PAUSING
        ana.rows.put_policy(PAUSING)
        ana.send(
            requested("r-1", run="root", credits="100", reserve="estimate"),
            requested("r-2", run="other", credits="30", reserve="estimate"),
            requested("r-3", run="child", credits="40", parent_run_id="root"),
            requested("r-4", run="leaf", credits="10", parent_run_id="child"),
            usage("u-1", "15", run="child"),
            usage("u-2", "32", run="other"),
        )

        shown = read(run, "reservations", "user:ana")
        lines = run("reservations", "user:ana").stdout.splitlines()

        assert [(r["run_id"], r["parent_run_id"]) for r in shown["reservations"]] == [
            ("root", None),
            ("child", "root"),
            ("leaf", "child"),
            ("other", None),
        ]
        root, child, _, other = shown["reservations"]
        assert (root["left_credits"], root["drawn_credits"]) == ("60", "15")
        assert (child["reserved_credits"], child["left_credits"]) == ("40", "15")
        assert child["grants"] == [{"pool": "add_on", "grant_id": "g-1", "credits": "15"}]
        assert (other["overdrawn_credits"], other["directive"], other["grace_credits"]) == (
            "2",
            "pause",
            "5",
        )
        assert lines[0] == "user:ana: 368 credits available, 85 reserved by 4 reservations"
        assert [line.split("  ")[0].strip() for line in lines[4:8]] == [
            "root",
            "└ child",
            "",
            "other",
        ]
        assert lines[6].startswith("   └ leaf")


class TestRelease:
    def test_gives_back_what_is_left_and_records_the_reason(self, run: Run, ana: Reserving) -> None:
        ana.send(requested("r-1"), usage("u-1", "10"))

        result = run("release", "run-1", "--reason", "lost by the scheduler", "--yes")

        assert result.stdout == (
            "Released run run-1 of user:ana: 65 credits went back;"
            " 10 credits were drawn and stay drawn.\n"
        )
        assert read(run, "account", "user:ana")["available_credits"] == "490"
        newest = ana.row.entries[-1]
        assert (newest.outcome, newest.reservation.reason) == ("released", "lost by the scheduler")
        assert run("verify").exit_code == 0
        line = run("ledger", "user:ana").stdout.splitlines()[-1]
        assert line.endswith("reservation of run-1  65 credits went back  (lost by the scheduler)")

    def test_asks_first_and_does_nothing_without_an_answer(self, run: Run, ana: Reserving) -> None:
        ana.send(
            requested("r-1"), requested("r-2", run="child", credits="5", parent_run_id="run-1")
        )
        before = ana.row

        unanswered = run("release", "run-1", "--reason", "lost")
        declined = run("release", "run-1", "--reason", "lost", answer="n\n")

        question = (
            "End the reservation of run run-1 of user:ana, and of 1 run below it,"
            " with 75 credits left?"
        )
        assert question in unanswered.stderr
        assert "nobody answered, so nothing was done; add --yes to do it" in unanswered.stderr
        assert (unanswered.exit_code, declined.exit_code) == (2, 1)
        assert "Nothing was done." in declined.stderr
        assert ana.row == before
        assert run("release", "run-1", "--reason", "lost", answer="y\n").exit_code == 0
        assert ana.row.reservations == ()

    def test_a_repeat_changes_nothing_and_says_when_it_was_released(
        self, run: Run, ana: Reserving
    ) -> None:
        ana.send(requested("r-1"))
        run("release", "run-1", "--reason", "lost", "--yes")
        before = ana.row

        result = run("release", "run-1", "--reason", "lost, once more", "--yes")

        assert result.exit_code == 0
        assert result.stdout.startswith("The reservation of run run-1 was already released at ")
        assert "(lost): 75 credits went back." in result.stdout
        assert ana.row == before
        assert read(run, "release", "run-1", "--reason", "lost", "--yes")["released"] == "already"

    def test_a_run_that_reserved_again_is_released_again(self, run: Run, ana: Reserving) -> None:
        ana.send(requested("r-1"), at=NOW - timedelta(hours=3))
        ana.send(requested("r-2", run="run-2"), at=NOW - timedelta(hours=3))
        released = release_by_hand(
            ana.rows, "run-1", "lost", None, NOW - timedelta(hours=3), yes=True
        )
        assert released.is_new
        for number in range(20):
            ana.send(usage(f"u-{number}", "1", run="run-3"))
        assert ana.send(requested("r-3")) == ["Recorded"]

        result = run("release", "run-1", "--reason", "lost", "--yes")

        assert result.stdout == "Released run run-1 of user:ana: 75 credits went back.\n"

    def test_of_a_child_goes_to_its_parent_and_of_a_parent_closes_its_children(
        self, run: Run, ana: Reserving
    ) -> None:
        ana.send(
            requested("r-1", run="root"),
            requested("r-2", run="child", credits="40", parent_run_id="root"),
            requested("r-3", run="leaf", credits="10", parent_run_id="child"),
        )

        text = run("release", "child", "--reason", "stuck", "--yes").stdout

        assert "40 credits went back to the reservation of run root" in text
        assert "Closed with it: leaf." in text
        assert read(run, "reservations", "user:ana")["reserved_credits"] == "75"

    @pytest.mark.parametrize(
        ("documents", "reason"),
        [
            ([requested("r-1", reserve="none")], "its request reserved nothing"),
            ([requested("r-1"), finished("f-1")], "it finished at "),
            ([requested("r-1"), finished("f-1", "error")], "it ended with a platform error at "),
            (
                [requested("r-1"), cloudevent("x-1", type="agent_run.released")],
                "it was released by the platform at ",
            ),
            (
                [
                    requested("r-0", run="root"),
                    requested("r-1", parent_run_id="root", credits="5"),
                    finished("f-0", run="root"),
                ],
                "it expired, or was closed together with that of its parent",
            ),
        ],
    )
    def test_refuses_a_run_that_holds_none_and_says_why(
        self, run: Run, ana: Reserving, documents: list[dict[str, Any]], reason: str
    ) -> None:
        ana.send(*documents)
        before = ana.row

        result = run("release", "run-1", "--reason", "lost", "--yes")

        assert result.exit_code == 2
        assert f"run run-1 holds no reservation: {reason}" in result.stderr
        assert ana.row == before

    def test_refuses_a_run_whose_reservation_expired(self, run: Run, ana: Reserving) -> None:
        ana.send(requested("r-1"), at=NOW - timedelta(hours=2))
        before = ana.row

        result = run("release", "run-1", "--reason", "lost", "--yes")

        assert result.exit_code == 2
        assert "run run-1 holds no reservation: it expired, or was closed" in result.stderr
        assert ana.row == before

    @pytest.mark.usefixtures("ana")
    def test_refuses_a_run_that_nobody_recorded(self, run: Run) -> None:
        result = run("release", "run-none", "--reason", "lost", "--yes")

        assert result.exit_code == 2
        assert "no event of run run-none is recorded on any account" in result.stderr

    @pytest.mark.usefixtures("ana")
    @pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 201])
    def test_takes_a_reason_of_one_line(self, run: Run, reason: str) -> None:
        result = run("release", "run-1", "--reason", reason, "--yes")

        assert result.exit_code == 2
        assert "say why in one line of at most 200 characters" in result.stderr


class TestDeadLetters:
    @pytest.mark.parametrize(
        ("document", "code"),
        [
            (requested("r-9"), "already_reserved"),
            (requested("r-9", run="run-9", parent_run_id="nobody", credits="5"), "unknown_parent"),
            (extended("x-9", run="run-9", credits="5"), "no_reservation"),
            (requested("r-9", run="run-9"), None),
        ],
    )
    def test_say_why_a_reservation_would_be_rejected_now(
        self, ana: Reserving, document: dict[str, Any], code: str | None
    ) -> None:
        ana.send(requested("r-1"))
        before = ana.row

        message = parse_message(json.dumps(document))
        rejection = why_rejected(message, ana.rows, Directory(ana.rows), NOW)

        assert (rejection.code if rejection else None) == code
        assert ana.row == before


class TestExplain:
    def test_tells_the_life_of_a_reservation(self, run: Run, ana: Reserving) -> None:
        ana.send(requested("r-1"))
        ana.send(usage("u-1", "10"))
        live = run("explain", "run-1").stdout
        ana.send(extended("x-1", credits="25"), extended("x-2", ttl_seconds=7_200))
        ana.send(usage("u-2", "100"), finished("f-1"))

        text = run("explain", "run-1").stdout

        assert "  pools      trial held 0; plan held 0; add_on held 500, reserved 75\n" in live
        assert "  outcome    accepted: 75 credits reserved\n  reserved   75 add_on (g-1)\n" in live
        # What was reserved is not drawn from the pool a second time.
        assert (
            "  pools      trial held 0, not needed; plan held 0, not needed;"
            " add_on held 425, not needed\n"
        ) in live
        assert "  drawn from 10 of its own reservation\n" in live
        assert "75 credits reserved, 10 drawn, 65 left. Directive now: continue: " in live
        assert (
            "  outcome    extended: 25 credits more reserved\n  reserved   25 add_on (g-1)" in text
        )
        assert "  outcome    extended: the reservation got more time\n" in text
        # 90 were left, and a step of 75 was added.
        assert ("  drawn from 100 of its own reservation; 75 that nobody held were added\n") in text
        assert "  ended      175 reserved, 110 drawn; 65 add_on (g-1) went back\n" in text
        assert "Directive now" not in text

    def test_says_what_others_held_when_a_request_fell_short(
        self, run: Run, ana: Reserving
    ) -> None:
        ana.send(*(requested(f"r-{n}", run=f"run-{n}") for n in range(7)))

        text = run("explain", "run-6").stdout

        assert "pools      trial held 0; plan held 0; add_on held 50\n" in text
        assert (
            "  held       450 credits of these pools were reserved for runs in flight;"
            " without them, the request would have been covered\n"
        ) in text
        (event,) = read(run, "explain", "run-6")["events"]
        assert event["reservation"]["reserved_before_credits"] == "450"

    def test_says_whose_credits_a_child_drew_and_what_was_overdrawn(
        self, run: Run, ana: Reserving
    ) -> None:
        ana.policy = PAUSING
        ana.rows.put_policy(PAUSING)
        ana.send(
            requested("r-1", run="root", credits="30", reserve="estimate"),
            requested("r-2", run="child", credits="20", parent_run_id="root"),
            requested("r-3", run="greedy", credits="20", parent_run_id="root"),
            usage("u-1", "40", run="child"),
        )

        text = run("explain", "child").stdout
        greedy = run("explain", "greedy").stdout

        assert "  reserved   20 add_on (g-1), of the budget of run root\n" in text
        assert (
            "  drawn from 20 of its own reservation + 10 of the reservation of run root"
            " + 5 overdrawn: nobody held them\n"
        ) in text
        assert "add_on held 470, drew 5\n" in text
        assert "short by 5 credits; this did not fail the run\n" in text
        assert "  directive  pause: the run waits until it is extended\n" in text
        assert "Directive now: pause: the run waits until it is extended." in text
        assert "  parent     run root held 10 credits to give\n" in greedy
        shown = read(run, "explain", "child")
        assert shown["reservation"]["directive"] == "pause"
        assert shown["events"][-1]["reservation"]["overdrawn_credits"] == "5"

    def test_shows_that_it_expired_or_was_closed_with_its_parent(
        self, run: Run, ana: Reserving
    ) -> None:
        lost_too = [requested("r-1", run="lost"), requested("r-0", run="lost-too")]
        ana.send(*lost_too, at=NOW - timedelta(hours=3))
        expired = run("explain", "lost").stdout
        ana.send(
            requested("r-2", run="root"),
            requested("r-3", run="child", credits="20", parent_run_id="root"),
            finished("f-1", run="root"),
        )

        assert "The reservation expired at " in expired
        assert "the 75 left are available again, and the account's next entry records it." in (
            expired
        )
        lost = run("explain", "lost").stdout
        assert (
            "  trigger    time alone\n  outcome    expired: the time of these reservations" in lost
        )
        assert "  ended      75 reserved, 0 drawn; 75 add_on (g-1) went back\n" in lost
        assert "lost-too" not in lost
        closed = run("explain", "child").stdout
        assert "f-1: agent_run.finished" in closed
        assert "  ended      20 reserved, 0 drawn; 20 add_on (g-1) went back\n" in closed
        assert (
            "  parent     the reservation of run root ended, which closes those below it\n"
        ) in closed
        root = run("explain", "root").stdout
        assert "  ended      75 reserved, 0 drawn; 55 add_on (g-1) went back\n" in root
        assert "  closed     run child: 20 reserved, 0 drawn; 20 add_on (g-1) went back\n" in root

    def test_shows_an_end_that_is_recorded_pages_later(self, run: Run, ana: Reserving) -> None:
        ana.send(
            requested("r-1", run="root"),
            requested("r-2", run="child", credits="20", parent_run_id="root"),
        )
        for number in range(20):
            ana.send(usage(f"u-{number}", "1", run="run-3"))
        ana.send(finished("f-1", run="root"))

        events = read(run, "explain", "child")["events"]

        assert [event["id"] for event in events] == ["r-2", "f-1"]
        assert events[0]["page"] < events[1]["page"]

    def test_shows_who_released_it_and_why(self, run: Run, ana: Reserving) -> None:
        ana.send(requested("r-1"))
        run("release", "run-1", "--reason", "lost by the scheduler", "--yes")

        text = run("explain", "run-1").stdout

        assert "  trigger    an operator, by `agent-credits release`\n" in text
        assert "  outcome    released: 75 credits went back\n" in text
        assert "  reason     lost by the scheduler\n" in text
        last = read(run, "explain", "run-1")["events"][-1]
        assert last["reservation"]["reason"] == "lost by the scheduler"
        assert read(run, "explain", "run-1")["reservation"] is None
