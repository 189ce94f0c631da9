"""The sample world on the embedded stack: SAM's deployment, real messages, real functions."""

from datetime import UTC, datetime

import pytest

from agent_credits.notices.insufficient_credits import insufficient_credits
from agent_credits.notices.published import Published
from agent_credits_cli.dead_letters import read_dead_letters
from agent_credits_cli.subscription import QUEUE_PREFIX
from agent_credits_cli.target import Target, rows_of
from agent_credits_cli.verification import verify_all
from agent_credits_demo.sample_run import SampleRun
from agent_credits_demo.samples import email_of_first


def failures_announced(run: SampleRun) -> list[Published]:
    return [p for p in run.notices if p.notice["type"] == "insufficient_credits"]


def test_every_sample_has_the_results_that_the_file_declares(run: SampleRun) -> None:
    unmet = [check for check in run.checks if not check.is_met]

    assert unmet == []
    assert {check.sample for check in run.checks} >= {s.name for s in run.world.samples}


def test_the_ledger_verifies(run: SampleRun) -> None:
    assert run.verified.findings == ()
    assert run.verified.accounts >= len(run.world.team_of_accounts())
    assert run.is_as_expected


def test_each_failed_run_is_announced_once_and_no_other_is(run: SampleRun) -> None:
    announced = [published.notice["subject"] for published in failures_announced(run)]

    assert sorted(announced) == sorted(run.failures)


def test_card_is_charged_once_for_the_one_team_that_can_pay(run: SampleRun) -> None:
    charged = {paid.team.team_id: paid.charged_cents for paid in run.payments}

    assert charged == {"orbit": (1_000,), "atlas": (), "delta": (), "nova": ()}
    assert all(not paid.team.spending.reservations for paid in run.payments)
    assert {paid.team.team_id: paid.team.spending.spent_cents for paid in run.payments} == {
        "orbit": 1_000,
        "atlas": 0,
        "delta": 0,
        "nova": 0,
    }


@pytest.mark.parametrize(
    ("run_id", "cause"),
    [
        ("run-spend-cap-reached", "spend_cap_reached"),
        ("run-payment-declined", "payment_declined"),
        ("run-suspended", "suspended"),
    ],
)
def test_failed_run_names_the_decline_of_its_reload(
    run_id: str, cause: str, run: SampleRun
) -> None:
    (notice,) = [p.notice for p in run.notices if p.notice["subject"] == run_id]

    assert notice["data"]["cause"] == cause
    assert run.failures[run_id].entry.decline == cause


def test_announcements_match_the_commits(run: SampleRun) -> None:
    for published in failures_announced(run):
        receipt = run.failures[published.notice["subject"]]
        account = run.after[receipt.principal].account

        notice = insufficient_credits(account, receipt.entry, problem_type_base_url="")

        assert published.notice == notice.to_cloudevent()
        assert published.subject == notice.email_subject


def test_the_demo_shows_an_email(run: SampleRun) -> None:
    email = email_of_first(run)

    assert email is not None
    assert email.email_subject == failures_announced(run)[0].subject
    assert "What to do now:" in email.email_text


def test_only_severe_notices_are_posted_to_slack_each_once(run: SampleRun) -> None:
    severe = [published for published in run.notices if published.severity != "info"]

    headlines = [message["fallback"] for message in run.slack_messages]
    assert len(headlines) == len(severe) > 0
    for published in severe:
        assert len([headline for headline in headlines if published.subject in headline]) == 1


def test_rejected_messages_are_explained_by_what_the_function_logged(
    run: SampleRun, stack: Target
) -> None:
    letters = read_dead_letters(stack, 1_000, datetime.now(UTC))

    explained = {letter.message_id: letter.code for letter in letters}
    assert run.rejections
    assert {message_id: explained[message_id] for message_id in run.rejections} == run.rejections


@pytest.mark.usefixtures("run")
def test_the_demo_leaves_no_subscription_behind(stack: Target) -> None:
    assert not stack.sqs.list_queues(QueueNamePrefix=QUEUE_PREFIX).get("QueueUrls")
    endpoints = [s["Endpoint"] for s in stack.sns.list_subscriptions()["Subscriptions"]]
    assert not [endpoint for endpoint in endpoints if QUEUE_PREFIX in endpoint]


@pytest.mark.usefixtures("run")
def test_verifying_again_finds_the_same(run: SampleRun, stack: Target) -> None:
    again = verify_all(rows_of(stack))

    assert again.findings == ()
    assert again.sums.entries >= run.verified.sums.entries
