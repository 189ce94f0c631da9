"""The protocol and the sequential reference go through the same random histories, side by side.

The order is forced: one worker, one batch after the other. Everything else is free: how the events
are batched, which come again, how much time passes, and how large a page is.
"""

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team, Tenure, bill
from agent_credits.commit.changes import (
    AlreadyRecorded,
    Change,
    GrantChange,
    PlanChange,
    Recorded,
    ReleaseChange,
    RunChange,
    Unsure,
)
from agent_credits.commit.write_protocol import Committed, commit
from agent_credits.events.agent_runs import (
    ModelProviderErrorReported,
    Rejection,
    parse_message,
)
from agent_credits.ledger import accounts
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry, Identity
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows
from tests.simulation.invariants import (
    BY_TIME,
    asked_in,
    found_in,
    in_one_order,
    passed_in,
    reserved_on,
)
from tests.simulation.limit_reference import InForce
from tests.simulation.reference import Asked, Expected, Passing, Reference, Rejected
from tests.simulation.reservation_invariants import ReservationInvariants
from tests.simulation.workers import pause
from tests.simulation.world import (
    BOUNDARIES,
    CREDIT,
    FAR_PAST,
    POLICY,
    RESERVING_POLICIES,
    extension_data,
    reservation_data,
)

HISTORIES = 150
RESERVING_HISTORIES = 200
BATCHES = 40
ANA = Principal("user", "ana")
STEPS = (0, 1, 3_600, 40_000, 90_000, 2_000_000)
# Reservations last from a minute to a day, so less time passes where there are any.
SHORT_STEPS = (0, 0, 0, 0, 0, 1, 1, 30, 59, 60, 200, 600, 3_599, 3_600, 90_000)
TRIGGERS = ({"kind": "user", "user_id": "ana"}, {"kind": "schedule", "schedule_id": "nightly"})

# What reservations can come to, but for their bounds; the histories are enough for all of it.
EVERY_OUTCOME = {
    *("accepted", "extended", "debited", "insufficient", "waived", "finished", "returned"),
    *("released", "reservations_expired", "expired", "refilled", "released by hand"),
    *("told to continue", "told to pause", "told to stop", "overruns"),
    *("no_estimate", "already_reserved", "no_reservation", "reservation_ended", "run_ended"),
    *("circular_parents", "unknown_parent", "nothing known yet"),
}


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_the_protocol_does_what_the_reference_does(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    side_by_side(random.Random(seed), POLICY, monkeypatch)


def test_the_protocol_reserves_and_rejects_as_the_reference_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: Counter[str] = Counter()

    for seed in range(RESERVING_HISTORIES):
        policy = RESERVING_POLICIES[f"r{seed % 4 + 1}"]
        seen += side_by_side(random.Random(seed), policy, monkeypatch)

    assert seen.keys() >= EVERY_OUTCOME


def side_by_side(
    randomness: random.Random, policy: BillingPolicy, monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Go through one history; return how often each outcome was agreed on."""
    monkeypatch.setattr(accounts, "PAGE_ENTRIES_FULL", randomness.choice((1, 3, 8)))
    compared = Compared(policy, randomness)
    now = randomness.choice(BOUNDARIES) - timedelta(hours=1)
    changes: list[Change] = []

    for _ in range(BATCHES):
        now += timedelta(seconds=randomness.choice(STEPS if policy is POLICY else SHORT_STEPS))
        fresh = [compared.change(len(changes) + n, now) for n in range(randomness.randint(1, 4))]
        changes += fresh
        again = randomness.sample(changes, min(len(changes), randomness.randint(0, 3)))
        compared.commit([*again, *fresh], now)
    return compared.agreed


class Compared:
    """The account as the protocol keeps it, and as the reference does."""

    def __init__(self, policy: BillingPolicy, randomness: random.Random) -> None:
        self._policy = policy
        self._randomness = randomness
        self._team = Team(
            team_id="acme",
            plan="max",
            time_zone="UTC",
            members=frozenset({"ana"}),
            tenures=(
                Tenure(
                    since=FAR_PAST, kind="self_serve", owner="ana", policy_version=policy.version
                ),
            ),
        )
        self._rows, self._reference = MemoryRows(), Reference("user")
        self._invariants = ReservationInvariants()
        self._asked: dict[Identity, Asked] = {}
        self._runs = 0
        self.agreed: Counter[str] = Counter()

    def commit(self, batch: list[Change], now: datetime) -> None:
        before = self._rows.accounts.get(ANA)
        committed = commit(self._rows, ANA, batch, now=now, pause=pause, opens_account=True)
        self._check_changes(before, batch, committed, now)

    def _check_changes(
        self, before: Account | None, batch: list[Change], committed: Committed, now: datetime
    ) -> None:
        is_written = committed.account.version > (before.version if before else 0)
        passed = self._reference.pass_time(now) if is_written else []

        for change, result in zip(batch, committed.results, strict=True):
            match result:
                case Recorded(entry):
                    self._check_is_not_rejected(change, now)
                    found, expected = found_in(entry), in_one_order(self._expected(change, now))
                    assert found == expected, f"{change.identity.id}: not {expected}, but {found}"
                    self._agree_on(change, entry)
                case Rejection(code=code):
                    self._check_is_rejected(change, code, now)
                case Unsure():
                    self._check_is_rejected(change, "nothing known yet", now)
                case _:
                    assert isinstance(result, AlreadyRecorded)
        if not is_written:
            assert before is None or committed.account == before
            return
        passed += [*self._reference.lapsed, *self._reference.end_commit(now)]
        self.agreed.update(["lapsed"] * len(self._reference.lapsed))
        self._reference.lapsed.clear()
        self._check_row(before, committed.account, passed)

    def _check_row(self, before: Account | None, after: Account, passed: list[Passing]) -> None:
        held = {grant.id: grant.remaining_microcredits for grant in after.grants}
        assert held == self._reference.balances()
        assert reserved_on(after) == self._reference.reservations()
        kept = before.entries if before and before.page_number == after.page_number else ()
        entries = after.entries[len(kept) :]
        by_time = [entry for entry in entries if entry.outcome in BY_TIME]
        assert Counter(passed_in(entry) for entry in by_time) == Counter(passed)
        self.agreed.update(entry.outcome for entry in by_time)
        self._invariants.commit(after, entries)

    def _agree_on(self, change: Change, entry: Entry) -> None:
        self.agreed[entry.outcome] += 1
        self.agreed[f"told to {entry.reservation.directive}"] += 1
        self.agreed["overruns"] += entry.reservation.overruns
        self.agreed["released by hand"] += isinstance(change, ReleaseChange)

    def _check_is_rejected(self, change: Change, code: str, now: datetime) -> None:
        rejected = self._rejection(change, now)
        codes = rejected.codes if rejected else frozenset()
        is_not_known = code == "nothing known yet" and codes & {"no_reservation", "unknown_parent"}
        assert is_not_known or code in codes, f"{change}: {code}, but the rules say {codes}"
        self.agreed[code] += 1

    def _check_is_not_rejected(self, change: Change, now: datetime) -> None:
        rejected = self._rejection(change, now)
        assert rejected is None or not rejected.is_certain, f"{change} must be rejected: {rejected}"

    def _rejection(self, change: Change, now: datetime) -> Rejected | None:
        match change:
            case RunChange(billing=billing):
                asked = self._asked[change.identity]
                return self._reference.rejection(asked, now, self._policy.version, billing.payer)
            case ReleaseChange(run_id=run):
                is_live = self._reference.is_live(run, now)
                return None if is_live else Rejected(frozenset({"no_reservation"}))
            case _:
                return None

    def _expected(self, change: Change, now: datetime) -> Expected:
        reference = self._reference
        match change:
            case GrantChange():
                return reference.grant(
                    change.grant_id, change.pool, change.microcredits, change.expires_at, now
                )
            case PlanChange():
                return reference.change_plan(change.microcredits, change.anchor)
            case ReleaseChange(run_id=run):
                return reference.release(run)
            case RunChange(billing=billing):
                asked = self._asked[change.identity]
                limits = self._limits_of(change)
                return reference.apply(asked, now, self._policy.version, billing.payer, limits)
            case _:
                raise AssertionError(f"no history holds {change}")

    def _limits_of(self, _: RunChange) -> tuple[InForce, ...]:
        return ()

    # What is sent

    def change(self, number: int, now: datetime) -> Change:
        randomness = self._randomness
        kind = randomness.random()
        if kind < 0.12:
            hours = randomness.choice((None, 0, 1, 30, 1_000))
            expires_at = now + timedelta(hours=hours) if hours is not None else None
            pool = randomness.choice(("trial", "add_on"))
            return GrantChange(ANA, f"g-{number}", pool, 9 * CREDIT, expires_at, "purchase")
        if kind < 0.16:
            anchor = now.date() - timedelta(days=randomness.randint(-3, 70))
            return PlanChange(ANA, f"plan:{number}", "max", "plan", 7 * CREDIT, anchor)
        if kind > 0.98 and self._policy is not POLICY:
            return ReleaseChange(ANA, self._run(), f"release:{number}", "its worker is gone")
        return self._run_change(number, now)

    def _run_change(self, number: int, now: datetime) -> RunChange:
        if self._policy is POLICY:
            kind, data = self._of_a_plain_run()
            trigger = TRIGGERS[0]
        else:
            kind, data = self._of_a_reserving_run()
            trigger = self._trigger()
        document = {
            "specversion": "1.0",
            "id": f"e-{number}",
            "source": "/platform",
            "subject": self._run(),
            "type": f"agent_run.{kind}",
            "time": now.astimezone(UTC).isoformat(),
            "data": {"team_id": "acme", "trigger": trigger, **self._about_the_run(), **data},
        }
        message = parse_message(json.dumps(document))
        assert not message.rejections, message.rejections
        (event,) = message.events
        self._asked[event.identity] = asked_in(document)
        assert not isinstance(event, ModelProviderErrorReported)
        return RunChange(event, bill(event, self._team, self._policy))

    def _trigger(self) -> dict[str, str]:
        return self._randomness.choice(TRIGGERS)

    def _about_the_run(self) -> dict[str, Any]:
        return {}

    def _of_a_plain_run(self) -> tuple[str, dict[str, Any]]:
        kind = self._randomness.choice(("requested", "usage", "usage", "usage", "finished"))
        if kind == "finished":
            return kind, {"status": self._randomness.choice(("ok", "error", "error"))}
        return kind, {"credits": self._randomness.choice(("0.000001", "2", "6.5", "30"))}

    def _of_a_reserving_run(self) -> tuple[str, dict[str, Any]]:
        randomness = self._randomness
        kinds = (*("requested",) * 5, *("usage",) * 5, *("extended",) * 3, "finished", "released")
        kind = randomness.choice(kinds)
        match kind:
            case "requested":
                return kind, reservation_data(randomness, self._run)
            case "extended":
                return kind, extension_data(randomness)
            case "usage":
                return kind, {"credits": randomness.choice(("0", "0.000001", "1", "2", "6.5"))}
            case "finished":
                return kind, {"status": randomness.choice(("ok", "ok", "error"))}
            case _:
                return kind, {}

    def _run(self) -> str:
        """Return one of the last runs, one that holds a reservation, or another one."""
        if self._policy is POLICY:
            return f"run-{self._randomness.randint(0, 8)}"
        live = [*self._reference.reserved]
        if live and self._randomness.random() < 0.6:
            return self._randomness.choice(live)
        self._runs += self._randomness.random() < 0.25
        return f"run-{self._randomness.randint(max(self._runs - 7, 0), self._runs)}"
