"""A limit that spans accounts, on the embedded stack: from the queue to the notices."""

from agent_credits_demo.drain import messages_in
from agent_credits_local.target import LocalTarget
from tests.e2e.limited_team import CREDITS_OF_A_MEMBER, set_up_limited_team
from tests.e2e.reloading_team import CREDIT, once

MEMBERS, RUNS_OF_EACH, LIMIT_CREDITS = 6, 10, 40


def test_members_together_draw_exactly_what_their_team_is_limited_to(stack: LocalTarget) -> None:
    dead_letters = stack.outputs.agent_runs_dead_letter_queue_url
    dead_before = messages_in(stack, dead_letters)
    limited = set_up_limited_team(stack, MEMBERS, LIMIT_CREDITS)

    limited.send(limited.usages(RUNS_OF_EACH, "1.5"))
    outcomes = once(lambda: (d := limited.decided()) and len(d) == MEMBERS * RUNS_OF_EACH and d)

    row = limited.row
    assert row is not None
    assert row.drawn_microcredits == LIMIT_CREDITS * CREDIT == sum(limited.drawn_by_members)
    left = sum(grant.remaining_microcredits for a in limited.accounts for grant in a.grants)
    assert left == (MEMBERS * CREDITS_OF_A_MEMBER - LIMIT_CREDITS) * CREDIT
    # 26 runs fit, and the next one draws the last credit.
    assert outcomes.count("debited") == 26
    assert outcomes.count("insufficient") == MEMBERS * RUNS_OF_EACH - 26

    failed, warning = limited.team.notices("insufficient_credits", "limit.warning")
    assert failed["data"]["cause"] == "limit_reached"
    assert failed["data"]["limit"]["limit_credits"] == str(LIMIT_CREDITS)
    assert warning["data"]["limit"]["scope"] == "team"
    assert messages_in(stack, dead_letters) == dead_before
    stack.sqs.delete_queue(QueueUrl=limited.team.notices_url)


def test_events_that_come_again_draw_nothing_more_under_the_limit(stack: LocalTarget) -> None:
    limited = set_up_limited_team(stack, 2, LIMIT_CREDITS)
    events = limited.usages(3, "2")

    limited.send([*events, *events])
    once(lambda: len(limited.decided()) == len(events))
    once(lambda: messages_in(stack, stack.outputs.agent_runs_queue_url) == 0)

    assert limited.row is not None
    assert limited.row.drawn_microcredits == 12 * CREDIT
    assert limited.drawn_by_members == [6 * CREDIT, 6 * CREDIT]
    stack.sqs.delete_queue(QueueUrl=limited.team.notices_url)
