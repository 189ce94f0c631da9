"""The notice of a failed run, including the words of its e-mail (in golden/)."""

from typing import Any, get_args

import pytest

from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.reloads import DeclineCause
from agent_credits.notices.announcements import AccountRecord, NoticeSettings, notices_of
from agent_credits.notices.insufficient_credits import RETRY, fixes, insufficient_credits
from agent_credits.notices.notice import Notice
from agent_credits.notices.reload_declines import reload_fix
from agent_credits.values.principals import Payer, Principal
from tests.golden import assert_golden, email_of
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    BIGCORP,
    NOW,
    OLGA,
    TRIGGERS,
    grant_change,
    open_account,
    pause,
    plan_change,
    requested,
    run_changes,
    usage,
)


def failure(
    document: dict[str, Any],
    *,
    principal: Principal = ANA,
    add_on: str | None = None,
    plan: str | None = None,
    base_url: str = "",
) -> Notice:
    """Return the notice of the one event that is sent to an account with so many credits."""
    rows = MemoryRows()
    changes = [
        *([plan_change(plan, principal=principal)] if plan else []),
        grant_change("g-1", "contract", "1", principal=principal)
        if principal.kind == "team"
        else grant_change("g-1", credits=add_on or "1", principal=principal),
    ]
    open_account(rows, *changes)
    commit(rows, principal, run_changes(document), now=NOW, pause=pause)
    old, new = rows.stream[-1]
    (notice,) = notices_of(AccountRecord(old, new), NoticeSettings(base_url))
    return notice


def test_the_notice_is_the_documented_one() -> None:
    notice = failure(usage("e1", "106.5", project_id="web"), plan="100")

    assert notice.to_cloudevent() == {
        "specversion": "1.0",
        "id": notice.id,
        "source": "/agent-credits/accounts/user:ana",
        "type": "insufficient_credits",
        "subject": "run-1",
        "time": "2025-11-21T10:00:00Z",
        "datacontenttype": "application/json",
        "data": {
            "run_id": "run-1",
            "team_id": "acme",
            "project_id": "web",
            "principal": "user:ana",
            "trigger": "user",
            "trigger_id": "ana",
            "task_state": "FAILED",
            "directive": "stop",
            "shortfall_credits": "5.5",
            "pools": [
                {"pool": "trial", "remaining_credits": "0"},
                {"pool": "plan", "remaining_credits": "0"},
                {"pool": "add_on", "remaining_credits": "0"},
            ],
            "cause": "pools_exhausted",
            "auto_reload": {"state": "off"},
            "resets_at": "2025-12-01T00:00:00Z",
            "fix": [
                "ana: purchase add-on credits for your own account.",
                (
                    "An admin of team acme: turn on auto-reload, subject to the team's spend cap, "
                    "or purchase credits by hand."
                ),
                "Or wait: the plan refills this account on 2025-12-01 00:00 UTC.",
                (
                    "To retry: start the run again once there are credits, as a new run with new "
                    "event IDs. This run stays failed."
                ),
            ],
            "problem": {
                "type": "/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/",
                "title": (
                    "The principal billed for this run has no remaining credits. "
                    "Purchase add-on credits or raise the team-wide spend cap to continue."
                ),
                "status": 403,
                "instance": "/api/v1/agent/tasks",
                "retryable": False,
            },
        },
    }
    assert (notice.severity, notice.retryable, notice.team_id) == ("critical", False, "acme")


@pytest.mark.parametrize("base_url", ["https://docs.example.com", "https://docs.example.com/"])
def test_a_base_url_makes_the_problem_type_absolute(base_url: str) -> None:
    notice = failure(usage("e1", "5"), base_url=base_url)

    assert notice.data["problem"]["type"] == (
        "https://docs.example.com"
        "/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/"
    )


def test_a_failed_request_takes_nothing_from_the_pools() -> None:
    notice = failure(requested("e1", credits="7"), add_on="5")

    assert notice.data["shortfall_credits"] == "2"
    assert notice.data["pools"][-1] == {"pool": "add_on", "remaining_credits": "5"}
    assert notice.data["resets_at"] is None


def test_the_traceparent_of_the_run_is_passed_on() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    notice = failure({**usage("e1", "5"), "traceparent": trace})

    assert notice.data["traceparent"] == trace
    assert "project_id" not in notice.data


CASES: dict[str, dict[str, Any]] = {
    "user": {
        "document": usage("e1", "106.5", run="run-42", project_id="web"),
        "plan": "100",
    },
    "user_without_plan": {"document": requested("e1", run="run-42", credits="7"), "add_on": "5"},
    "owner": {
        "document": usage("e1", "106.5", run="run-42", trigger=TRIGGERS["schedule"]),
        "principal": OLGA,
        "plan": "100",
    },
    "api_key": {
        "document": usage("e1", "3", run="run-42", trigger=TRIGGERS["team_api_key"]),
        "principal": OLGA,
    },
    "enterprise": {
        "document": usage("e1", "1250", run="run-42", team="bigcorp", user="eve"),
        "principal": BIGCORP,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_the_email_matches_its_golden_file(name: str) -> None:
    notice = failure(**CASES[name])

    assert_golden(f"insufficient_credits_{name}.txt", email_of(notice))


def test_the_fix_depends_on_who_was_billed() -> None:
    steps = {name: failure(**case).data["fix"] for name, case in CASES.items()}

    assert steps["user"][0].startswith("ana: purchase add-on credits")
    assert steps["owner"][0].startswith("The owner of team acme, olga: purchase")
    assert steps["enterprise"][0].startswith("An admin of team bigcorp: contact your account")
    assert [len(fix) for fix in steps.values()] == [4, 3, 4, 3, 2]


@pytest.mark.parametrize("name", ["user", "user_without_plan", "owner", "api_key"])
def test_with_auto_reload_off_an_admin_can_turn_it_on_subject_to_the_spend_cap(name: str) -> None:
    fix = failure(**CASES[name]).data["fix"]

    assert fix[1].startswith(
        "An admin of team acme: turn on auto-reload, subject to the team's spend cap"
    )


@pytest.mark.parametrize("name", CASES)
def test_the_last_step_is_to_start_the_run_again_and_the_problem_is_not_retryable(
    name: str,
) -> None:
    data = failure(**CASES[name]).data

    assert data["fix"][-1] == RETRY
    assert data["problem"]["retryable"] is False


@pytest.mark.parametrize(
    "cause", [cause for cause in get_args(DeclineCause) if cause != "auto_reload_off"]
)
@pytest.mark.parametrize("payer", get_args(Payer))
def test_a_decline_adds_its_own_fix_to_that_of_the_payer(cause: DeclineCause, payer: Payer) -> None:
    account = Account(BIGCORP if payer == "team" else ANA)

    steps = fixes(account, payer, "bigcorp", None, cause)

    assert steps[:-1] == reload_fix(cause, "bigcorp")
    who = "contact your account manager" if payer == "team" else "purchase add-on credits"
    assert who in steps[-1]


def test_an_enterprise_is_not_advised_to_turn_on_auto_reload() -> None:
    (step,) = fixes(Account(BIGCORP), "team", "bigcorp", None, "auto_reload_off")

    assert "contact your account manager" in step


def test_only_a_runs_entry_can_fail_a_run() -> None:
    account = open_account(MemoryRows())

    with pytest.raises(TypeError, match="only a run's entry"):
        insufficient_credits(account, account.entries[0], "")
