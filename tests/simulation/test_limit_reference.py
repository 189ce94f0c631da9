"""The protocol and the sequential reference hold two accounts to the same limits, side by side.

As in `test_reference`, the order is forced. The accounts of a batch are committed together, their
team's limits change now and then, and days pass.
"""

import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import bill
from agent_credits.commit.changes import Change, RunChange
from agent_credits.commit.together import commit_together
from agent_credits.commit.write_protocol import Committed, commit
from agent_credits.ledger import accounts
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Identity
from agent_credits.values.principals import Principal
from tests.simulation import limit_reference
from tests.simulation.invariants import counted_on, shared_on
from tests.simulation.limit_invariants import key_of
from tests.simulation.limit_reference import InForce, SharedLimit, limits_in_force
from tests.simulation.reference import Reference
from tests.simulation.reservation_invariants import ReservationInvariants
from tests.simulation.test_reference import ANA, SHORT_STEPS, STEPS, Compared
from tests.simulation.workers import pause
from tests.simulation.world import (
    BOUNDARIES,
    PROJECTS,
    RESERVING_POLICIES,
    ZONES,
    drawn_limits,
)
from tests.unit.builders import grant_change

HISTORIES = 80
BATCHES = 40
BEN = Principal("user", "ben")

EVERY_OUTCOME = {
    *("refused: team", "refused: project", "refused: member", "refused: run"),
    *("refused: requested", "refused: usage", "refused: extended", "refused: cannot count"),
    *("room comes back", "several limits", "a shared limit moves", "another period"),
    *("drawn up to the limit", "drawn of a reservation at the limit", "lifted"),
}


def test_the_protocol_limits_as_the_reference_does(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()

    for seed in range(HISTORIES):
        randomness = random.Random(seed)
        policies = [*RESERVING_POLICIES.values()]
        seen += side_by_side(randomness, policies[seed % len(policies)], monkeypatch)

    assert seen.keys() >= EVERY_OUTCOME


def side_by_side(
    randomness: random.Random, policy: BillingPolicy, monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Go through one history; return how often each outcome was agreed on."""
    monkeypatch.setattr(accounts, "PAGE_ENTRIES_FULL", randomness.choice((1, 3, 8)))
    counts_max = randomness.choice((2, 3, 500))
    for module in ("agent_credits.commit.limits", "agent_credits.ledger.accounts"):
        monkeypatch.setattr(f"{module}.COUNTS_MAX", counts_max)
    monkeypatch.setattr(limit_reference, "COUNTS_MAX", counts_max)
    now = randomness.choice(BOUNDARIES)
    compared = ComparedLimits(policy, randomness, now)
    steps = randomness.choice((STEPS, SHORT_STEPS))
    changes: list[Change] = []

    for _ in range(BATCHES):
        now += timedelta(seconds=randomness.choice(steps))
        if randomness.random() < 0.1:
            compared.change_limits(now)
        fresh = [compared.change(len(changes) + n, now) for n in range(randomness.randint(1, 4))]
        changes += fresh
        again = randomness.sample(changes, min(len(changes), randomness.randint(0, 3)))
        compared.commit([*again, *fresh], now)
    return compared.agreed


class ComparedLimits(Compared):
    """Two accounts of one team, and the rows of the limits that they share."""

    def __init__(self, policy: BillingPolicy, randomness: random.Random, now: datetime) -> None:
        super().__init__(policy, randomness)
        settings = {"members": frozenset({"ana", "ben"}), "time_zone": randomness.choice(ZONES)}
        self._team = self._team.model_copy(update=settings)
        self.change_limits(now)
        self._references = {ANA: Reference("user"), BEN: Reference("user")}
        self._of_reservations = {ANA: ReservationInvariants(), BEN: ReservationInvariants()}
        self._shared: dict[limit_reference.Key, SharedLimit] = {}
        self._limits: dict[Identity, tuple[InForce, ...]] = {}
        for principal in self._references:
            opens = grant_change(f"g-{principal.id}", "add_on", "60", principal=principal)
            found = commit(self._rows, principal, [opens], now=now, pause=pause, opens_account=True)
            self._check_account(principal, None, [opens], found, now)

    def change_limits(self, now: datetime) -> None:
        limits = drawn_limits(self._randomness, now)
        self._team = self._team.model_copy(update={"limits": limits})

    def commit(self, batch: list[Change], now: datetime) -> None:
        by_account: dict[Principal, list[Change]] = {}
        for change in batch:
            who = change.billing.principal if isinstance(change, RunChange) else change.principal
            by_account.setdefault(who, []).append(change)
        before = dict(self._rows.accounts)

        outcomes = commit_together(self._rows, by_account, now=now, pause=pause)

        for principal, changes in by_account.items():
            found = outcomes[principal]
            assert isinstance(found, Committed), found
            self._check_account(principal, before[principal], changes, found, now)
        rows = {key_of(key): shared_on(row) for key, row in self._rows.limits.items()}
        assert rows == self._shared

    def _check_account(
        self,
        principal: Principal,
        before: Account | None,
        changes: list[Change],
        found: Committed,
        now: datetime,
    ) -> None:
        reference = self._reference = self._references[principal]
        self._invariants = self._of_reservations[principal]
        reference.limits.see(self._shared)
        self._check_changes(before, changes, found, now)
        if before is None or found.account.version > before.version:
            moved = reference.limits.moved(now)
            for key in moved.keys() & self._shared.keys():
                self.agreed["another period"] += moved[key].ends_at != self._shared[key].ends_at
            self.agreed["a shared limit moves"] += len(moved)
            self._shared |= moved
        assert counted_on(found.account) == reference.limits.counts

    def _limits_of(self, change: RunChange) -> tuple[InForce, ...]:
        return self._limits[change.identity]

    def _agree_on(self, change: Change, entry: Entry) -> None:
        super()._agree_on(change, entry)
        said, refused = entry.limits, entry.limits.refused_by
        self.agreed["several limits"] += len(said.counted) > 1
        self.agreed["room comes back"] += entry.outcome == "returned" and bool(said.counted)
        if isinstance(change, RunChange):
            lifted = any(limit.is_lifted(entry.recorded_at) for limit in change.billing.limits)
            self.agreed["lifted"] += lifted
        if refused is None:
            return
        self.agreed[f"refused: {refused.key.scope}"] += 1
        self.agreed[f"refused: {entry.type.removeprefix('agent_run.')}"] += 1
        self.agreed["refused: cannot count"] += refused.cannot_count
        self.agreed["drawn up to the limit"] += bool(entry.draws)
        self.agreed["drawn of a reservation at the limit"] += bool(
            entry.draws and entry.reservation.moves
        )

    # What is sent

    def change(self, number: int, now: datetime) -> Change:
        """Return a change of either account; a run stays with the one that it began with."""
        change = super().change(number, now)
        if isinstance(change, RunChange):
            asked = self._asked[change.identity]
            self._limits[change.identity] = limits_in_force(self._team, asked, change.billing.payer)
            return RunChange(change.event, bill(change.event, self._team, self._policy))
        return change

    def _about_the_run(self) -> dict[str, Any]:
        project = self._randomness.choice(PROJECTS)
        return {"project_id": project} if project else {}

    def _trigger(self) -> dict[str, str]:
        user = self._randomness.choice(("ana", "ben"))
        return {"kind": "user", "user_id": user}
