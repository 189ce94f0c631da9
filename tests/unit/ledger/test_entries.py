"""Each kind of entry has one constructor, and none makes an entry that could never be right."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from msgspec.structs import replace

from agent_credits.ledger.entries import (
    Draw,
    Entry,
    PoolBalance,
    ReloadFacts,
    RunContext,
    RunFacts,
    grant_identity,
    reload_identity,
    run_identity,
)
from agent_credits.ledger.reloads import Reload
from agent_credits.values.errors import InvariantViolated
from tests.unit.builders import ANA, NOW, grant

FACTS = RunFacts(
    run_identity("/platform", "run-1", "e1"),
    "q83vEjRWeJCrze8S",
    RunContext("acme", "user", "ana", "web", NOW, "user", "2025-11"),
    NOW,
)
GRANT = replace(grant("reload:1"), amount_microcredits=10, remaining_microcredits=10)
DRAWN_FROM = replace(GRANT, remaining_microcredits=7)
EXPIRED = replace(DRAWN_FROM, expires_at=NOW)
REQUESTED = Reload(
    "reload:1", "acme", ("add_on",), "requested", 5, 1, NOW, NOW + timedelta(minutes=5)
)
FROZEN = replace(REQUESTED, state="declined", cause="too_many_reloads")
BOUGHT = ReloadFacts("reload:1", "acme", 2, 1_000, "usd")
NOT_BOUGHT = ReloadFacts("reload:1", "acme")
BY_HAND, BY_RELOAD = grant_identity(ANA, "reload:1"), reload_identity(ANA, "reload:1")
DRAWS = (Draw("plan", "g-1", 2), Draw("add_on", "g-2", 1))


def short_request(estimate: int, held: int) -> Entry:
    return Entry.request_insufficient(
        FACTS,
        estimate,
        pools_before=(PoolBalance("plan", 0), PoolBalance("add_on", held)),
        fails_run=True,
        decline=None,
    )


def short_usage(amount: int, shortfall: int, held: int = 3) -> Entry:
    return Entry.usage_insufficient(
        FACTS,
        amount,
        DRAWS,
        shortfall_microcredits=shortfall,
        pools_before=(PoolBalance("plan", 2), PoolBalance("add_on", held - 2)),
        fails_run=True,
        decline=None,
    )


@pytest.mark.parametrize(
    ("entry", "entry_type", "outcome", "amount"),
    [
        (Entry.refilled(ANA, GRANT, "max", NOW), "credits.refilled", "refilled", 10),
        (Entry.expired(ANA, EXPIRED, NOW), "credits.expired", "expired", 7),
        (Entry.granted(BY_HAND, "hash", GRANT, NOW), "credits.granted", "granted", 10),
        (Entry.plan_changed(BY_HAND, "hash", "max", NOW), "plan.changed", "changed", 0),
        (Entry.reload_requested(ANA, REQUESTED, NOW), "reload.requested", "reload_requested", 5),
        (Entry.reload_frozen(ANA, FROZEN, NOW), "reload.declined", "reload_declined", 0),
        (
            Entry.reload_declined(BY_RELOAD, NOT_BOUGHT, "suspended", NOW),
            "reload.declined",
            "reload_declined",
            0,
        ),
        (
            Entry.reload_granted(BY_RELOAD, "hash", GRANT, BOUGHT, NOW),
            "reload.granted",
            "granted",
            10,
        ),
        (Entry.accepted(FACTS, 4), "agent_run.requested", "accepted", 4),
        (short_request(4, held=3), "agent_run.requested", "insufficient", 4),
        (Entry.debited(FACTS, 3, DRAWS), "agent_run.usage", "debited", 3),
        (short_usage(8, shortfall=5), "agent_run.usage", "insufficient", 8),
        (Entry.waived(FACTS, 4), "agent_run.usage", "waived", 4),
        (Entry.finished(FACTS), "agent_run.finished", "finished", 0),
        (Entry.returned(FACTS, DRAWS), "agent_run.finished", "returned", 3),
    ],
)
def test_a_kind_of_entry_says_what_happened_and_how_much_it_was_about(
    entry: Entry, entry_type: str, outcome: str, amount: int
) -> None:
    assert (entry.type, entry.outcome, entry.amount_microcredits) == (entry_type, outcome, amount)
    assert entry.recorded_at == NOW
    assert (entry.identity.realm == "RUN") == (entry.run is not None)


def test_an_entry_of_a_run_holds_the_facts_of_its_event() -> None:
    entry = Entry.finished(FACTS)

    assert entry.identity == FACTS.identity
    assert entry.payload_hash == FACTS.payload_hash
    assert entry.run == FACTS.context


@pytest.mark.parametrize(
    ("estimate", "held", "shortfall"), [(4, 3, 1), (0, 0, 0)], ids=["estimate", "no estimate"]
)
def test_a_short_request_falls_short_of_what_its_estimate_lacks(
    estimate: int, held: int, shortfall: int
) -> None:
    assert short_request(estimate, held).shortfall_microcredits == shortfall


@pytest.mark.parametrize(
    ("make", "invariant"),
    [
        (lambda: Entry.refilled(ANA, DRAWN_FROM, "max", NOW), "from a grant that is new"),
        (lambda: Entry.granted(BY_HAND, "", DRAWN_FROM, NOW), "from a grant that is new"),
        (
            lambda: Entry.reload_granted(BY_RELOAD, "", DRAWN_FROM, BOUGHT, NOW),
            "from a grant that is new",
        ),
        (
            lambda: Entry.reload_granted(BY_RELOAD, "", GRANT, NOT_BOUGHT, NOW),
            "a granted reload bought packs",
        ),
        (
            lambda: Entry.reload_granted(BY_RELOAD, "", replace(GRANT, id="g"), BOUGHT, NOW),
            "a reload's grant is named after the reload",
        ),
        (
            lambda: Entry.reload_declined(BY_RELOAD, BOUGHT, "suspended", NOW),
            "a declined reload buys nothing",
        ),
        (lambda: Entry.reload_requested(ANA, FROZEN, NOW), "requested while it is open"),
        (lambda: Entry.reload_frozen(ANA, REQUESTED, NOW), "only one reload too many"),
        (
            lambda: Entry.reload_frozen(ANA, replace(FROZEN, cause="suspended"), NOW),
            "only one reload too many",
        ),
        (lambda: Entry.expired(ANA, DRAWN_FROM, NOW), "a live grant does not expire"),
        (
            lambda: Entry.expired(ANA, EXPIRED, NOW - timedelta(seconds=1)),
            "a live grant does not expire",
        ),
        (
            lambda: Entry.expired(ANA, replace(EXPIRED, remaining_microcredits=0), NOW),
            "an empty grant has nothing that expires",
        ),
        (lambda: short_request(3, held=3), "a request that the pools cover is accepted"),
        (lambda: short_request(0, held=1), "a request that the pools cover is accepted"),
        (lambda: Entry.debited(FACTS, 4, DRAWS), "debited usage was drawn in full"),
        (lambda: short_usage(8, shortfall=4), "draws plus its shortfall equal its amount"),
        (lambda: short_usage(3, shortfall=0), "usage that was drawn in full is debited"),
        (lambda: short_usage(8, shortfall=5, held=4), "only after it has emptied the pools"),
    ],
)
def test_an_entry_that_could_never_be_right_is_not_made(
    make: Callable[[], Entry], invariant: str
) -> None:
    with pytest.raises(InvariantViolated, match=invariant):
        make()


def test_a_grant_that_came_back_with_a_grace_period_expires_under_another_id() -> None:
    later = NOW + timedelta(days=30)

    first = Entry.expired(ANA, EXPIRED, NOW)
    second = Entry.expired(ANA, replace(EXPIRED, expires_at=later), later)

    assert first.identity != second.identity
