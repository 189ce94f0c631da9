"""Random histories under limits are clean, from the first page and from any checkpoint.

Members draw, reserve, fail and end; limits, zone and policy change meanwhile, clocks differ and
reservations expire. The world verifies each account and each limit after every commit.
"""

import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from agent_credits.billing.limits import TeamLimit
from agent_credits.ledger import accounts
from agent_credits.ledger.limits import LimitCount
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.verification import verify_row
from tests.unit.builders import (
    ANA,
    BEN,
    MINUTE,
    NOW,
    OLGA,
    POLICY,
    finished,
    grant_change,
    open_account,
    requested,
    usage,
)
from tests.unit.commit.test_limits import OWNER_PAYS
from tests.unit.commit.test_shared_pools import TEAM, sharing
from tests.unit.limit_world import LimitWorld, limit, name_of, team_with
from tests.unit.reservation_world import extended, released

HISTORIES = 30
STEPS = 30
MINUTES_BETWEEN = (0, 0, 1, 7, 40, 200, 900)
PLACES = (
    *(("team", "day"), ("team", "month"), ("project", "day"), ("member", "day")),
    *(("member", "week"), ("run", "run"), ("project", "run")),
)
SHARING = sharing().model_copy(update={"version": "sharing"})
STEPPING = sharing(
    reserve="estimate",
    default_estimate_microcredits=2_000_000,
    overrun="stop",
    grace_microcredits=1_000_000,
).model_copy(update={"version": "stepping"})
POLICIES = (POLICY, OWNER_PAYS, SHARING, STEPPING)


class RandomWorld(LimitWorld):
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        super().__init__(policy=self.random.choice(POLICIES), payers=(ANA, BEN, OLGA))
        open_account(self.rows, grant_change("t-1", pool="shared", credits="60", principal=TEAM))
        self.now = NOW
        self.events = 0
        self.seen: Counter[str] = Counter()
        self.team = team_with(*self.limits(), team=self.team)

    def step(self) -> None:
        self.now += self.random.choice(MINUTES_BETWEEN) * MINUTE
        if self.random.random() < 0.1:
            self.team = team_with(*self.limits(), team=self.team)
        elif self.random.random() < 0.05:
            zone = self.random.choice(("UTC", "Pacific/Auckland", "America/New_York"))
            self.team = team_with(*self.team.limits, team=self.team, time_zone=zone)
        elif self.random.random() < 0.05:
            self.policy = self.random.choice(POLICIES)
        documents = [self.event() for _ in range(self.random.choice((1, 1, 2, 4)))]
        of_this_worker = self.now - self.random.choice((0, 0, 3)) * MINUTE
        send = self.send_together if self.random.random() < 0.4 else self.send
        self.seen.update(name_of(result) for result in send(*documents, now=of_this_worker))

    def limits(self) -> list[TeamLimit]:
        return [self.limit(scope, period) for scope, period in PLACES if self.random.random() < 0.4]

    def limit(self, scope: str, period: str) -> TeamLimit:
        settings: dict[str, Any] = {}
        if self.random.random() < 0.15:
            settings["action"] = "warn"
        if self.random.random() < 0.1:
            settings["raise_until"] = self.now + timedelta(hours=self.random.choice((1, 30)))
        return limit(scope, str(self.random.choice((3, 8, 20, 600))), period, **settings)

    def event(self) -> dict[str, Any]:
        self.events += 1
        event_id, choose = f"e-{self.events}", self.random.choice
        user = choose(("ana", "ben", "olga"))
        about = {"user": user, "run": self.run_of(user)}
        if self.random.random() < 0.5:
            about["project_id"] = choose(("web", "api"))
        what = self.random.random()
        if what < 0.5:
            return usage(event_id, str(choose((0.5, 1, 2, 5, 400))), **about)
        if what < 0.75:
            reserving: dict[str, Any] = {}
            if self.random.random() < 0.7:
                reserving = {"reserve": "estimate", "ttl_seconds": choose((60, 3_600, 80_000))}
            if self.random.random() < 0.3:
                reserving["parent_run_id"] = self.run_of(user)
            return requested(event_id, credits=str(choose((1, 3, 6))), **about, **reserving)
        if what < 0.9:
            return finished(event_id, choose(("ok", "error")), **about)
        if what < 0.95:
            return released(event_id, **about)
        return extended(event_id, credits="2", **about)

    def run_of(self, user: str) -> str:
        # Runs end, so others follow.
        return f"{user}-{self.random.randrange(6)}-{self.events // 14}"


@pytest.mark.parametrize("first", range(0, HISTORIES, 10))
def test_random_histories_under_limits_are_clean(
    monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr(accounts, "PAGE_ENTRIES_FULL", 4)
    seen, counted = Counter[str](), list[LimitCount]()

    for seed in range(first, first + 10):
        world = RandomWorld(seed)
        for _ in range(STEPS):
            world.step()
        seen += world.seen
        for account in world.rows.accounts.values():
            since = Checkpoint(account.principal, NOW.date())
            for _ in range(account.page_number):
                verification = verify_row(world.rows, account, {}, since, entries_max=1)
                assert verification.findings == (), f"seed {seed}"
                since = verification.checkpoint
            assert verification.is_complete
            counted += since.limit_counts

    assert seen.keys() >= {"debited", "insufficient", "accepted", "returned", "finished"}
    assert any(count.drawn_microcredits for count in counted)
