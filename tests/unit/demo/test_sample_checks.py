import json
import tomllib
from dataclasses import replace
from typing import Any

import pytest

from agent_credits.aws.items import account_from_item
from agent_credits.billing.directory import Directory
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.notices.announcements import AccountRecord, NoticeSettings, notices_of
from agent_credits_demo.sample_checks import Check, SeenNotice, check_payments, check_samples, waves
from agent_credits_demo.sample_world import Sample
from tests.lambda_events import EVENTS, FOLDER, SQS_BATCH, sqs_batch, text_of
from tests.sample_world import CHECKOUT, NOW, SAMPLES_FILE, SampleRun, observe, pause

SAMPLE_NAMES = [s["name"] for s in tomllib.loads(SAMPLES_FILE.read_text())["samples"]]


def unmet(checks: list[Check]) -> list[Check]:
    return [check for check in checks if not check.is_met]


@pytest.fixture(scope="module")
def sent() -> tuple[SampleRun, dict[str, list[Check]]]:
    run = SampleRun()
    return run, run.send_all()


@pytest.mark.parametrize("name", SAMPLE_NAMES)
def test_sample_has_the_results_that_its_file_declares(
    name: str, sent: tuple[SampleRun, dict[str, list[Check]]]
) -> None:
    _, checks = sent

    assert len(checks[name]) >= 3, "an event, the dead letters and the notices are checked"
    assert unmet(checks[name]) == []


def test_accounts_hold_what_the_file_says_after_all_samples(
    sent: tuple[SampleRun, dict[str, list[Check]]],
) -> None:
    run, _ = sent

    checks = run.check_balances()

    assert {check.what for check in checks} == {str(p) for p in run.rows.accounts}
    assert unmet(checks) == []


def test_provider_charges_what_the_teams_rows_say_was_bought_and_one_pack_in_all(
    sent: tuple[SampleRun, dict[str, list[Check]]],
) -> None:
    run, _ = sent

    charged = {paid.team.team_id: paid.charged_cents for paid in run.team_payments()}

    assert unmet(run.check_payments()) == []
    assert charged == {"orbit": (1_000,), "atlas": (), "delta": (), "nova": ()}
    assert all(not paid.team.spending.reservations for paid in run.team_payments())


def test_suspended_card_is_asked_three_times_and_not_a_fourth(
    sent: tuple[SampleRun, dict[str, list[Check]]],
) -> None:
    run, _ = sent

    asked = [charge.purchase_id for charge in run.payments.attempts]

    assert len([i for i in asked if i.startswith(("reload:user:uma", "reload:user:vera"))]) == 2
    assert len([i for i in asked if i.startswith("reload:user:wim")]) == 1
    assert not [i for i in asked if i.startswith(("reload:user:xena", "reload:user:sven"))]


@pytest.mark.parametrize(
    ("run_id", "cause"),
    [
        ("run-spend-cap-reached", "spend_cap_reached"),
        ("run-payment-declined", "payment_declined"),
        ("run-first-decline", "payment_declined"),
        ("run-third-decline", "payment_declined"),
        ("run-suspended", "suspended"),
        ("run-exhaustion", "pools_exhausted"),
    ],
)
def test_failed_run_names_the_decline_of_its_reload(
    run_id: str, cause: str, sent: tuple[SampleRun, dict[str, list[Check]]]
) -> None:
    run, _ = sent

    (notice,) = [n for n in run.notices if n.subject == run_id]

    assert notice.data["cause"] == cause


def test_each_expected_notice_is_published_once(
    sent: tuple[SampleRun, dict[str, list[Check]]],
) -> None:
    run, _ = sent

    announced = sorted((notice.type, notice.subject) for notice in run.notices)

    assert announced == sorted(
        (n.type, n.run) for sample in run.world.samples for n in sample.notices
    )


def test_order_of_samples_that_do_not_wait_for_each_other_does_not_matter() -> None:
    run = SampleRun()

    checks = run.send_all(order=lambda wave: reversed(wave))

    assert unmet([check for of_sample in checks.values() for check in of_sample]) == []
    assert unmet(run.check_balances()) == []


def test_sending_every_sample_again_changes_no_account_and_announces_nothing() -> None:
    run = SampleRun()
    run.send_all()
    accounts, announced = dict(run.rows.accounts), list(run.notices)
    teams, attempts = dict(run.rows.teams), list(run.payments.attempts)

    run.send_all()

    assert run.rows.accounts == accounts
    assert run.rows.teams == teams
    assert run.payments.attempts == attempts
    assert run.notices == announced


def test_every_event_file_belongs_to_a_sample() -> None:
    world = SampleRun().world

    sampled = {file for sample in world.samples for file in sample.files}

    assert sampled == {f"events/{path.name}" for path in (CHECKOUT / "events").glob("*.json")}


def test_sample_waits_for_the_samples_it_comes_after() -> None:
    samples = SampleRun().world.samples

    wave_of = {s.name: number for number, wave in enumerate(waves(samples)) for s in wave}

    assert wave_of["user run"] == 0
    assert wave_of["duplicate"] == 1
    assert wave_of["late usage"] == 2


class TestJudgement:
    """Every difference from the expectation is found, or a green demo would prove nothing."""

    @pytest.mark.parametrize(
        "change",
        [
            {"outcome": "accepted"},
            {"principal": "user:olga"},
            {"draws": {"add_on": "50", "plan": "400"}},
            {"draws": {"plan": "400", "add_on": "49.999999"}},
            {"shortfall": "5.500001"},
            {"event": "evt-another"},
        ],
        ids=str,
    )
    def test_finds_another_outcome(self, change: dict[str, Any]) -> None:
        expected = {**exhaustion_expected(), **change}

        checks = SampleRun().send([exhaustion(expect=[expected])])

        assert unmet(checks)

    def test_finds_an_unexpected_event(self) -> None:
        packed = next(s for s in SampleRun().world.samples if s.name == "packed array")

        checks = SampleRun().send([packed.model_copy(update={"expect": packed.expect[1:]})])

        assert [check.what for check in unmet(checks)] == ["evt-packed-1"]

    def test_finds_a_missing_notice(self) -> None:
        together, observed = observe(SampleRun(), [exhaustion()])

        checks = check_samples(together, replace(observed, notices=[]))

        assert [check.what for check in unmet(checks)] == ["notices"]

    def test_finds_a_notice_that_was_published_twice(self) -> None:
        together, observed = observe(SampleRun(), [exhaustion()])

        checks = check_samples(together, replace(observed, notices=[*observed.notices] * 2))

        assert [check.what for check in unmet(checks)] == ["notices"]

    def test_finds_a_notice_of_a_run_that_was_not_sent(self) -> None:
        together, observed = observe(SampleRun(), [exhaustion()])
        stray = SeenNotice("insufficient_credits", "run-of-nobody")

        checks = check_samples(together, replace(observed, notices=[*observed.notices, stray]))

        assert [check.sample for check in unmet(checks)] == ["no sample"]

    def test_finds_a_message_that_is_missing_in_the_dead_letter_queue(self) -> None:
        run = SampleRun()
        together, observed = observe(run, [s for s in run.world.samples if s.name == "not JSON"])

        checks = check_samples(together, replace(observed, dead_letters=()))

        assert [check.what for check in unmet(checks)] == ["dead letters"]

    def test_finds_a_charge_without_a_purchase(self) -> None:
        run = SampleRun()
        run.send([s for s in run.world.samples if s.name == "reloaded"])
        once = run.team_payments()

        checks = check_payments([replace(paid, charged_cents=(1_000, 1_000)) for paid in once[:1]])

        assert unmet(check_payments(once)) == []
        assert [check.what for check in unmet(checks)] == ["charges of orbit"]

    def test_an_event_that_is_neither_recorded_nor_rejected_is_lost(self) -> None:
        together, observed = observe(SampleRun(), [exhaustion()])

        checks = check_samples(together, replace(observed, after={}))

        assert unmet(checks)[0].actual == "lost"


class TestLambdaEvents:
    def test_batch_from_the_queue_is_up_to_date(self) -> None:
        written = (FOLDER / "sqs_batch.json").read_text()

        assert written == text_of(sqs_batch()), "run `python -m tests.lambda_events`"

    def test_record_of_the_change_stream_is_up_to_date(self) -> None:
        written = json.loads((FOLDER / "stream_insufficient.json").read_text())

        # Compared as accounts: the bytes of a compressed page may differ between LZMA versions.
        made = EVENTS["stream_insufficient.json"]()

        assert images_of(written) == images_of(made), "run `python -m tests.lambda_events`"

    def test_record_of_the_change_stream_announces_the_failed_run(self) -> None:
        event = json.loads((FOLDER / "stream_insufficient.json").read_text())
        ((old, new),) = images_of(event)

        (notice,) = notices_of(AccountRecord(old, new), NoticeSettings(""))

        assert notice.subject == "run-exhaustion"
        assert notice.data["shortfall_credits"] == "5.5"

    def test_batch_from_the_queue_fails_exactly_its_bad_messages(self) -> None:
        records = json.loads((FOLDER / "sqs_batch.json").read_text())["Records"]
        rows = SampleRun().rows
        deliveries = [Delivery(record["messageId"], record["body"]) for record in records]

        batch = Debits(rows, Directory(rows), pause).debit(
            deliveries, now=NOW, time_is_left=lambda: True
        )

        bad = [
            record["messageId"]
            for record, path in zip(records, SQS_BATCH, strict=True)
            if path in {"events/packed_array_with_one_bad_event.json", "events/not_json.json"}
        ]
        assert batch.failed_message_ids == bad
        assert len(batch.outcomes) == 4


def exhaustion_expected() -> dict[str, Any]:
    samples = tomllib.loads(SAMPLES_FILE.read_text())["samples"]
    (expected,) = next(s["expect"] for s in samples if s["name"] == "exhaustion")
    return dict(expected)


def exhaustion(**change: Any) -> Sample:
    samples = tomllib.loads(SAMPLES_FILE.read_text())["samples"]
    declared = next(s for s in samples if s["name"] == "exhaustion")
    return Sample.model_validate({**declared, **change})


def images_of(event: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [
        (
            account_from_item(record["dynamodb"]["OldImage"]),
            account_from_item(record["dynamodb"]["NewImage"]),
        )
        for record in event["Records"]
    ]
