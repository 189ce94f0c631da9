"""The protocol and the sequential reference share a team's pools among two users, side by side.

As in `test_reference`, the order is forced. The users of a batch are committed together, and the
team's account is topped up between batches.
"""

import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from agent_credits.billing.policy import BillingPolicy
from agent_credits.commit.changes import Change, GrantChange, RunChange
from agent_credits.commit.together import commit_together
from agent_credits.commit.write_protocol import Committed, commit
from agent_credits.ledger import accounts
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.expiry import bring_up_to
from agent_credits.values.principals import Principal
from tests.simulation.reference import Reference
from tests.simulation.reservation_invariants import ReservationInvariants
from tests.simulation.shared_invariants import became_of
from tests.simulation.shared_reference import SharingReference
from tests.simulation.test_reference import ANA, SHORT_STEPS, STEPS, Compared
from tests.simulation.workers import pause
from tests.simulation.world import BOUNDARIES, CREDIT, SHARED_POOLS, SHARING_POLICIES
from tests.unit.builders import grant_change

HISTORIES = 60
BATCHES = 40
BEN = Principal("user", "ben")
TEAM = Principal("team", "acme")

EVERY_OUTCOME = {
    *("shared: debited", "shared: insufficient", "shared: accepted", "shared: extended"),
    *("shared: returned", "shared: finished", "shared: reservations_expired"),
    *("drawn", "reserved", "given back", "a payer's reservation ended"),
}


def test_the_protocol_shares_as_the_reference_does(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()

    for seed in range(HISTORIES):
        policy = SHARING_POLICIES[f"s{seed % 3 + 1}"]
        seen += side_by_side(random.Random(seed), policy, monkeypatch)

    assert seen.keys() >= EVERY_OUTCOME


def side_by_side(
    randomness: random.Random, policy: BillingPolicy, monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Go through one history; return how often each outcome was agreed on."""
    monkeypatch.setattr(accounts, "PAGE_ENTRIES_FULL", randomness.choice((1, 3, 8)))
    now = randomness.choice(BOUNDARIES)
    compared = ComparedPools(policy, randomness, now)
    steps = randomness.choice((STEPS, SHORT_STEPS, SHORT_STEPS))
    changes: list[Change] = []

    for number in range(BATCHES):
        now += timedelta(seconds=randomness.choice(steps))
        if randomness.random() < 0.2:
            compared.top_up_team(number, now)
        fresh = [compared.change(len(changes) + n, now) for n in range(randomness.randint(1, 4))]
        changes += fresh
        again = randomness.sample(changes, min(len(changes), randomness.randint(0, 3)))
        compared.commit([*again, *fresh], now)
    return compared.agreed


class ComparedPools(Compared):
    """Two users of one team, and the team's account, whose pools they share."""

    def __init__(self, policy: BillingPolicy, randomness: random.Random, now: datetime) -> None:
        super().__init__(policy, randomness)
        self._team = self._team.model_copy(update={"members": frozenset({"ana", "ben"})})
        self._lender = Reference("team")
        self._references = {
            who: SharingReference("user", name=str(who), team=self._lender) for who in (ANA, BEN)
        }
        self._of_reservations = {ANA: ReservationInvariants(), BEN: ReservationInvariants()}
        for principal in self._references:
            opens = grant_change(f"g-{principal.id}", "add_on", "2", principal=principal)
            found = commit(self._rows, principal, [opens], now=now, pause=pause, opens_account=True)
            self._begin(principal)
            self._check_changes(None, [opens], found, now)
        self.top_up_team(-1, now)

    def top_up_team(self, number: int, now: datetime) -> None:
        pool, hours = self._randomness.choice(SHARED_POOLS), self._randomness.choice((None, 1, 30))
        expires_at = now + timedelta(hours=hours) if hours else None
        amount = self._randomness.choice((1, 9, 20)) * CREDIT
        change = GrantChange(TEAM, f"t-{number}", pool, amount, expires_at, "purchase")
        commit(self._rows, TEAM, [change], now=now, pause=pause, opens_account=True)
        self._lender.pass_time(now)
        self._lender.grant(change.grant_id, pool, amount, expires_at, now)
        self._lender.end_commit(now)
        self._check_team(now)

    def commit(self, batch: list[Change], now: datetime) -> None:
        by_account: dict[Principal, list[Change]] = {}
        for change in batch:
            who = change.billing.principal if isinstance(change, RunChange) else change.principal
            by_account.setdefault(who, []).append(change)
        before, written = dict(self._rows.accounts), len(self._rows.stream)

        outcomes = commit_together(self._rows, by_account, now=now, pause=pause)

        for principal, changes in by_account.items():
            found = outcomes[principal]
            assert isinstance(found, Committed), found
            self._begin(principal)
            self._check_changes(before[principal], changes, found, now)
        self._check_team(now)
        for old, new in self._rows.stream[written:]:
            kept = len(old.entries) if old and old.page_number == new.page_number else 0
            for entry in new.entries[kept:]:
                self.agreed.update(became_of(entry))
                self.agreed[f"shared: {entry.outcome}"] += _is_shared(entry)

    def _begin(self, principal: Principal) -> None:
        self._reference = self._references[principal]
        self._invariants = self._of_reservations[principal]

    def _check_team(self, now: datetime) -> None:
        """Compare the team's account as it is now, whether a commit has written so or not."""
        row = bring_up_to(self._rows.accounts[TEAM], now)
        self._lender.pass_time(now)
        held = {g.id: g.remaining_microcredits for g in row.grants if g.remaining_microcredits}
        assert held == {name: left for name, left in self._lender.balances().items() if left}
        reserved = {
            held.run_id: ({p.grant_id: p.microcredits for p in held.parts}, held.expires_at)
            for held in row.reservations
        }
        assert reserved == {
            run: (held.parts, held.expires_at) for run, held in self._lender.reserved.items()
        }

    def _trigger(self) -> dict[str, Any]:
        return {"kind": "user", "user_id": self._randomness.choice(("ana", "ben"))}


def _is_shared(entry: Entry) -> bool:
    moved = [*entry.draws, *entry.reservation.moves]
    return any(part.grant_id.startswith("shared:") for part in moved)
