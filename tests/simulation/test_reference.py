"""The protocol and the sequential reference go through the same random histories, side by side.

The order is forced: one worker, one batch after the other. Everything else is free: how the events
are batched, which come again, how much time passes, and how large a page is.
"""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent_credits.billing.teams import Team, Tenure, bill
from agent_credits.commit.changes import Change, GrantChange, PlanChange, Recorded, RunChange
from agent_credits.commit.write_protocol import commit
from agent_credits.events.agent_runs import parse_message
from agent_credits.ledger import accounts
from agent_credits.ledger.entries import Entry
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows
from tests.simulation.reference import Expected, Passing, Reference
from tests.simulation.workers import pause
from tests.simulation.world import BOUNDARIES, CREDIT, FAR_PAST, POLICY

HISTORIES = 150
BATCHES = 40
ANA = Principal("user", "ana")
ACME = Team(
    team_id="acme",
    plan="max",
    time_zone="UTC",
    members=frozenset({"ana"}),
    tenures=(
        Tenure(since=FAR_PAST, kind="self_serve", owner="ana", policy_version=POLICY.version),
    ),
)
STEPS = (0, 1, 3_600, 40_000, 90_000, 2_000_000)


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_the_protocol_does_what_the_reference_does(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    randomness = random.Random(seed)
    monkeypatch.setattr(accounts, "PAGE_ENTRIES_FULL", randomness.choice((1, 3, 8)))
    rows, reference = MemoryRows(), Reference("user")
    now = randomness.choice(BOUNDARIES) - timedelta(hours=1)
    changes: list[Change] = []

    for _ in range(BATCHES):
        now += timedelta(seconds=randomness.choice(STEPS))
        fresh = [
            _change(randomness, len(changes) + n, now) for n in range(randomness.randint(1, 4))
        ]
        changes += fresh
        again = randomness.sample(changes, min(len(changes), randomness.randint(0, 3)))
        _commit_and_compare(rows, reference, [*again, *fresh], now)


def _commit_and_compare(
    rows: MemoryRows, reference: Reference, batch: list[Change], now: datetime
) -> None:
    before = rows.accounts.get(ANA)
    committed = commit(rows, ANA, batch, now=now, pause=pause, opens_account=True)

    expires = reference.pass_time(now)
    unique = list(dict.fromkeys((change.identity, change) for change in batch))
    recorded = [r.entry for r in committed.results if isinstance(r, Recorded)]
    by_identity = {entry.identity: entry for entry in recorded}
    for identity, change in unique:
        if identity in by_identity:
            entry = by_identity.pop(identity)
            assert _found(entry) == _sorted_returns(_expected(reference, change, now))
    expires += reference.end_commit(now)

    after = committed.account
    assert {g.id: g.remaining_microcredits for g in after.grants} == reference.balances()
    kept = before.entries if before and before.page_number == after.page_number else ()
    by_time = [e for e in after.entries[len(kept) :] if e.outcome in ("expired", "refilled")]
    assert sorted(_expire(entry) for entry in by_time) == sorted(expires)


def _change(randomness: random.Random, number: int, now: datetime) -> Change:
    kind = randomness.random()
    if kind < 0.12:
        hours = randomness.choice((None, 0, 1, 30, 1_000))
        expires_at = now + timedelta(hours=hours) if hours is not None else None
        pool = randomness.choice(("trial", "add_on"))
        return GrantChange(ANA, f"g-{number}", pool, 9 * CREDIT, expires_at, "purchase")
    if kind < 0.16:
        anchor = now.date() - timedelta(days=randomness.randint(-3, 70))
        return PlanChange(ANA, f"plan:{number}", "max", "plan", 7 * CREDIT, anchor)
    return _run_change(randomness, number, now)


def _run_change(randomness: random.Random, number: int, now: datetime) -> RunChange:
    kind = randomness.choice(("requested", "usage", "usage", "usage", "finished"))
    data: dict[str, Any] = {"team_id": "acme", "trigger": {"kind": "user", "user_id": "ana"}}
    if kind == "finished":
        data["status"] = randomness.choice(("ok", "error", "error"))
    else:
        data["credits"] = randomness.choice(("0.000001", "2", "6.5", "30"))
    document = {
        "specversion": "1.0",
        "id": f"e-{number}",
        "source": "/platform",
        "subject": f"run-{randomness.randint(0, 8)}",
        "type": f"agent_run.{kind}",
        "time": now.astimezone(UTC).isoformat(),
        "data": data,
    }
    (event,) = parse_message(json.dumps(document)).events
    return RunChange(event, bill(event, ACME, POLICY))


def _expected(reference: Reference, change: Change, now: datetime) -> Expected:
    match change:
        case GrantChange():
            return reference.grant(
                change.grant_id, change.pool, change.microcredits, change.expires_at, now
            )
        case PlanChange():
            return reference.change_plan(change.microcredits, change.anchor)
        case RunChange(event=event):
            run, data = event.subject, event.data
            match event.type:
                case "agent_run.requested":
                    return reference.request(run, data.credits or 0, now)
                case "agent_run.usage":
                    return reference.use(run, data.credits, now)
                case _:
                    return reference.finish(run, data.status, now)
        case _:
            raise AssertionError(f"no history holds {change}")


def _found(entry: Entry) -> Expected:
    draws = tuple((draw.grant_id, draw.microcredits) for draw in entry.draws)
    return _sorted_returns(
        Expected(entry.outcome, draws, entry.shortfall_microcredits, entry.fails_run)
    )


def _sorted_returns(expected: Expected) -> Expected:
    # In which order draws go back makes no difference to anything.
    if expected.outcome != "returned":
        return expected
    return expected._replace(draws=tuple(sorted(expected.draws)))


def _expire(entry: Entry) -> Passing:
    assert entry.grant is not None
    return Passing(entry.outcome, entry.grant.id, entry.amount_microcredits)
