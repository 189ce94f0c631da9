"""Auto-reload on the embedded stack: from an event that finds too little to the charge, and back.

Everything is real but the card: queue, functions, stream, and the adapter to Stripe.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from agent_credits.ledger.accounts import available_microcredits
from agent_credits_local.payment_stand_in import CARD_THAT_DECLINES, CARD_THAT_PAYS
from agent_credits_local.target import LocalTarget
from tests.e2e.reloading_team import CREDIT, PACK, ReloadingTeam, once, set_up_team


@pytest.fixture
def reloading_team(stack: LocalTarget) -> Iterator[Callable[[str], ReloadingTeam]]:
    """Set up teams, each on a card of its own; what they publish goes to queues of their own."""
    teams: list[ReloadingTeam] = []

    def set_up(card_number: str) -> ReloadingTeam:
        teams.append(set_up_team(stack, card_number))
        return teams[-1]

    yield set_up
    for team in teams:
        stack.sqs.delete_queue(QueueUrl=team.notices_url)


def test_events_that_find_too_little_wait_for_one_charge_and_are_debited_in_full(reloading_team):
    team = reloading_team(CARD_THAT_PAYS)

    team.use("run-1", "run-2", "run-3", amount="50")

    usages = team.usages_once_decided(3)
    assert {(usage.outcome, usage.drawn_microcredits) for usage in usages} == {
        ("debited", 50 * CREDIT)
    }
    assert not any(usage.fails_run for usage in usages)
    once(lambda: not team.team.spending.reservations)
    assert team.team.spending.spent_cents == PACK.price_cents
    assert team.payments == [("succeeded", PACK.price_cents)]
    available = available_microcredits(team.account, ("add_on",), datetime.now(UTC))
    assert available == (10 + 400 - 3 * 50) * CREDIT
    (succeeded,) = team.notices("auto_reload.succeeded")
    assert succeeded["data"]["credits"] == "400"
    assert succeeded["data"]["price_cents"] == PACK.price_cents


def test_events_whose_reload_is_declined_fail_with_the_cause_and_the_card_is_left_alone(
    reloading_team,
):
    team = reloading_team(CARD_THAT_DECLINES)

    team.use("run-1", amount="50")
    (first,) = team.usages_once_decided(1)
    team.use("run-2", amount="50")
    _, second = team.usages_once_decided(2)

    assert (first.outcome, first.fails_run, first.decline) == (
        "insufficient",
        True,
        "payment_declined",
    )
    assert first.shortfall_microcredits == 40 * CREDIT
    assert (second.outcome, second.decline) == ("insufficient", "payment_declined")
    assert len(team.entries("reload.requested")) == 1
    # A payment that is left open could still be paid, when nobody grants credits for it any more.
    assert team.payments == [("canceled", PACK.price_cents)]
    once(lambda: not team.team.spending.reservations)
    assert team.team.spending.spent_cents == 0
    assert team.team.spending.declines_in_a_row == 1
    declined, failed = team.notices("auto_reload.declined", "insufficient_credits")
    assert declined["data"]["cause"] == "payment_declined"
    assert failed["data"]["cause"] == "payment_declined"
