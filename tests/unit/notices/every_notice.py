"""An example of every type of notice, made by the code that announces it.

`python -m tests.unit.notices.every_notice` writes their Slack messages to golden/slack/, and to
golden/email/ the e-mails that are in no other golden file. Read the difference before you commit.

A type that has no example here fails tests/unit/notices/test_every_notice.py.
"""

import json
from collections.abc import Callable
from typing import Any

from agent_credits.notices.announcements import notice_of as notice_of_observation
from agent_credits.notices.balance_report import balance_report_notice
from agent_credits.notices.channel_tests import channel_test
from agent_credits.notices.notice import Notice
from agent_credits.notices.published import Published
from agent_credits.notices.slack_messages import slack_message
from tests.golden import GOLDEN, email_of
from tests.unit.billing.test_balance_reports import busy_team, limited_team
from tests.unit.builders import NOW, ON, RELOADING_ACME, usage
from tests.unit.commit.test_low_credits import fall_to, low_world
from tests.unit.notices.test_auto_reload import exhausted_world
from tests.unit.notices.test_insufficient_credits import CASES, failure
from tests.unit.notices.test_limits import failure as failure_at_limit
from tests.unit.notices.test_limits import (
    member_at,
    of_a_limit_of_each_run,
    of_several_limits,
    some_raised,
    team_of_two,
    warning,
)
from tests.unit.notices.test_model_provider_errors import EVENTS, notice_of
from tests.unit.notices.test_reservations import (
    a_run_that_is_to_pause,
    a_run_that_overdraws,
    world_of_a_reserved_pool,
    world_of_paused_runs,
)
from tests.unit.notices.test_spend_cap import declined_three_times, spend, world_that_spends
from tests.unit.payments.payment_fakes import FakePayments
from tests.unit.reload_world import ReloadWorld, short_world
from tests.unit.sweeps.sweep_observations import DRIFTED, DRIFTED_LIMIT, EXPIRING, TRIAL_EXPIRING

SLACK = GOLDEN / "slack"
EMAIL = GOLDEN / "email"

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _only(world: ReloadWorld, notice_type: str) -> Notice:
    (notice,) = world.notices_of_type(notice_type)
    return notice


def _failed_after_decline() -> Notice:
    world, event = short_world(payments=FakePayments(["decline"]))
    world.resolve()
    world.deliver(event)
    return _only(world, "insufficient_credits")


def _of_a_user() -> Notice:
    case = CASES["user"]
    return failure(**{**case, "document": {**case["document"], "traceparent": TRACE}})


def _succeeded() -> Notice:
    world, _ = short_world(wanted="2000")
    world.resolve()
    return _only(world, "auto_reload.succeeded")


def _declined() -> Notice:
    world, _ = short_world(payments=FakePayments(["decline"]))
    world.resolve()
    return _only(world, "auto_reload.declined")


def _frozen() -> Notice:
    once = ON.model_copy(update={"reloads_max": 1})
    world, event = short_world(team=RELOADING_ACME.model_copy(update={"auto_reload": once}))
    world.resolve()
    world.deliver(event)
    world.deliver(usage("e2", "300", run="run-2"))
    return _only(world, "auto_reload.frozen")


def _restored() -> Notice:
    world = exhausted_world()
    world.grant("by-hand", "10")
    return _only(world, "credits_restored")


def _low() -> Notice:
    world = low_world()
    fall_to(world, 119)
    return _only(world, "credits_low")


def _cap_warning() -> Notice:
    world = world_that_spends()
    spend(world, 7)
    return _only(world, "spend_cap.warning")


# By type; further examples of a type have a suffix.
EXAMPLES: dict[str, Callable[[], Notice]] = {
    "agent_run.overdrawn": a_run_that_overdraws,
    "auto_reload.frozen": _frozen,
    "auto_reload.declined": _declined,
    "auto_reload.succeeded": _succeeded,
    "auto_reload.suspended": lambda: _only(declined_three_times(), "auto_reload.suspended"),
    "credits_expiring": lambda: notice_of_observation(EXPIRING),
    "credits_expiring--trial": lambda: notice_of_observation(TRIAL_EXPIRING),
    "balance_report": lambda: balance_report_notice(busy_team()),
    "balance_report--limits": lambda: balance_report_notice(limited_team()),
    "credits_low": _low,
    "credits_restored": _restored,
    "credits_restored--paused_runs": (
        lambda: world_of_paused_runs().notices("credits_restored")[0]
    ),
    "drift_found": lambda: notice_of_observation(DRIFTED),
    "drift_found--limit": lambda: notice_of_observation(DRIFTED_LIMIT),
    "insufficient_credits": _of_a_user,
    "insufficient_credits--after_decline": _failed_after_decline,
    "insufficient_credits--enterprise": lambda: failure(**CASES["enterprise"]),
    "insufficient_credits--limit": lambda: failure_at_limit(of_several_limits()),
    "insufficient_credits--limit_of_each_run": (lambda: failure_at_limit(of_a_limit_of_each_run())),
    "insufficient_credits--owner": lambda: failure(**CASES["owner"]),
    "insufficient_credits--paused": a_run_that_is_to_pause,
    "insufficient_credits--reserved": (
        lambda: world_of_a_reserved_pool().notices("insufficient_credits")[0]
    ),
    "limit.raised": some_raised,
    "limit.warning": lambda: warning(member_at("72")),
    "limit.warning--of_the_team": lambda: warning(team_of_two()),
    "limit.warning--reached": lambda: warning(member_at("100")),
    "limit.warning--only_warns": lambda: warning(member_at("130", action="warn")),
    "notices.test": lambda: channel_test("slack", "acme", "1", NOW),
    "provider_error": lambda: notice_of(EVENTS["unclassified"]),
    "provider_overloaded": lambda: notice_of(EVENTS["overloaded"]),
    "provider_quota_exhausted": lambda: notice_of(EVENTS["quota_exhausted_openai"]),
    "provider_rate_limited": lambda: notice_of(EVENTS["rate_limited"]),
    "spend_cap.warning": _cap_warning,
}


def type_of(example: str) -> str:
    return example.partition("--")[0]


def published(notice: Notice) -> Published:
    return Published(notice.email_subject, notice.severity, notice.to_cloudevent())


def slack_payload(notice: Notice) -> dict[str, Any]:
    """Return the notice's payload for Slack's webhook."""
    return {"attachments": [slack_message(published(notice)).to_dict()]}


def text_of(payload: dict[str, Any]) -> str:
    return json.dumps(payload, indent=2, ensure_ascii=False) + "\n"


def has_golden_file(email: str) -> bool:
    return any(path.read_text().endswith(email) for path in GOLDEN.rglob("*.txt"))


def write() -> None:
    for folder in (SLACK, EMAIL):
        folder.mkdir(exist_ok=True)
        for outdated in folder.iterdir():
            outdated.unlink()
    for name, example in EXAMPLES.items():
        notice = example()
        (SLACK / f"{name}.json").write_text(text_of(slack_payload(notice)))
        if not has_golden_file(email_of(notice)):
            (EMAIL / f"{name}.txt").write_text(email_of(notice))


if __name__ == "__main__":
    write()
