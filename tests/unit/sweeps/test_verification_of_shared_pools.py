"""Verifying follows what members drew of their team's pools on both ledgers, and compares them."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.commit.together import commit_changes
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry
from agent_credits.notices.observations import DriftFound
from agent_credits.sweeps.reconciliation_sweep import ReconciliationSweep
from agent_credits.values.principals import Principal
from agent_credits_cli.verification import Verified, verify_all
from tests.unit.builders import (
    ANA,
    BEN,
    MINUTE,
    NOW,
    finished,
    grant_change,
    history,
    pause,
    requested,
    usage,
)
from tests.unit.commit.test_shared_pools import HOUR, TEAM, SharingWorld, sharing
from tests.unit.reservation_world import extended, released

DAY = 24 * HOUR
CREDIT = 1_000_000


class VerifiedWorld(SharingWorld):
    """After each commit, what the rows hold is what both ledgers say, and both agree."""

    def __init__(self, **settings: Any) -> None:
        policy = settings.setdefault("policy", sharing())
        super().__init__(**settings)
        self.rows.policies[policy.version] = policy

    def check(self, now: datetime = NOW) -> None:
        super().check(now)
        assert self.findings() == []

    def verified(self) -> Verified:
        return verify_all(self.rows)

    def findings(self) -> list[str]:
        return [str(finding) for finding in self.verified().findings]

    def grant(self, grant_id: str, principal: Principal = TEAM, **fields: Any) -> None:
        pool = "shared" if principal == TEAM else "plan"
        now = fields.pop("now", NOW)
        change = grant_change(grant_id, pool=pool, principal=principal, **fields)
        commit_changes(self.rows, principal, [change], now=now, pause=pause)
        self.check(now)


def test_draws_and_returns_are_counted_on_the_account_that_gave_them() -> None:
    world = VerifiedWorld()
    world.send(usage("e-1", "530"), usage("e-2", "560", user="ben", run="run-2"))
    world.send(finished("f-1", "error"))

    sums = world.verified().sums

    # What ana drew of both accounts came back; ben drew 500 of his own and 60 of the team.
    assert sums.granted_microcredits == 1_100 * CREDIT
    assert sums.drawn_microcredits == (530 + 560) * CREDIT
    assert sums.returned_microcredits == 530 * CREDIT
    assert sums.remaining_microcredits == 540 * CREDIT


def test_an_honest_history_with_failures_and_reservations_is_clean() -> None:
    world = VerifiedWorld()

    world.send(requested("r-1", run="run-1", credits="550", reserve="estimate"))
    world.send(requested("r-2", run="run-2", credits="20", parent_run_id="run-1"))
    world.send(usage("u-1", "510", run="run-1"))
    assert world.verified().sums.reserved_microcredits == 40 * CREDIT
    world.send(requested("r-3", user="ben", run="run-3", credits="551", reserve="estimate"))
    world.send(usage("u-2", "700", user="ben", run="run-4"))
    world.send(extended("x-1", run="run-1", credits="1"))
    world.send(released("l-1", run="run-2"))
    world.send(finished("f-1", "error", run="run-1"))
    world.send(requested("r-4", run="run-5", credits="5"))
    world.send(requested("r-5", run="run-6", credits="1000"))


def test_what_expires_on_both_rows_by_itself_is_clean() -> None:
    world = VerifiedWorld()
    world.grant("t-2", credits="30", expires_at=NOW + 30 * MINUTE)
    world.send(requested("r-1", run="run-1", credits="550", reserve="estimate"))
    world.send(usage("u-1", "2", user="ben", run="run-2"), now=NOW + 40 * MINUTE)
    world.send(usage("u-2", "510", run="run-1"), now=NOW + 45 * MINUTE)

    later = NOW + 3 * HOUR
    world.send(usage("u-3", "560", user="ben", run="run-3"), now=later)
    world.send(usage("u-4", "1", run="run-4"), now=later)

    assert world.account(TEAM).reservations == ()


@pytest.mark.parametrize("grace_is_over", [False, True])
def test_draws_that_go_back_after_an_expiry_are_clean(grace_is_over: bool) -> None:
    world = VerifiedWorld(shared="0.000001")
    world.grant("t-2", credits="50", expires_at=NOW + HOUR)
    world.send(usage("e-1", "510"))
    world.send(usage("e-2", "20", user="ben", run="run-2"))

    later = NOW + (40 * DAY if grace_is_over else 2 * HOUR)
    world.send(finished("f-1", "error"), now=later)
    world.send(finished("f-2", "error", run="run-2", user="ben"), now=later + HOUR)


@pytest.mark.parametrize("seed", range(8))
def test_any_honest_history_is_clean(seed: int) -> None:
    world, chance, now = VerifiedWorld(), random.Random(seed), NOW
    # So that nearly all that follows is of the team.
    world.send(usage("first", "495"), usage("first", "490", user="ben", run="run-2"))
    for number in range(60):
        now += timedelta(seconds=chance.choice([0, 0, 1, 60, 1_500, 4_000]))
        amount = f"{chance.randint(1, 40)}.{chance.randint(0, 9)}"
        user, name = chance.choice(["ana", "ben"]), f"e-{number}"
        # A run that has ended takes no further part, so there are new ones all the time.
        runs = [f"{user}-{number // 10 - back}" for back in range(2)]
        who = {"run": chance.choice(runs), "user": user}
        documents = [
            usage(name, amount, **who),
            usage(f"{name}-more", amount, **who),
            requested(name, credits=amount, reserve="estimate", **who),
            requested(name, credits=amount, **who),
            requested(name, credits="3", parent_run_id=runs[1], **who),
            extended(name, credits="7", **who),
            finished(name, chance.choice(["ok", "error"]), **who),
            released(name, **who),
        ]
        document = chance.choice(documents)
        world.send(document, now=now)
        if number % 9 == 0:
            ends = now + timedelta(hours=chance.randint(1, 60))
            world.grant(f"g-{number}", credits=amount, expires_at=ends, now=now)
            world.grant(f"g-{number}", chance.choice([ANA, BEN]), credits="4", now=now)

    types = {entry.type for entry in history(world.rows, TEAM)}
    assert "pool.drawn" in types


@pytest.fixture
def world() -> VerifiedWorld:
    """Ana drew 30 credits of the team and holds 20; ben drew 40, and a failure gave it back."""
    world = VerifiedWorld()
    world.send(usage("e-1", "530"))
    world.send(requested("r-1", run="run-2", credits="20", reserve="estimate"))
    later = NOW + MINUTE
    world.send(usage("e-2", "540", user="ben", run="run-3"), now=later)
    world.send(finished("f-1", "error", user="ben", run="run-3"), now=later + MINUTE)
    return world


def change_entry(
    world: VerifiedWorld, principal: Principal, entry_id: str, change: Callable[[Entry], Entry]
) -> None:
    row = world.rows.accounts[principal]
    assert [entry for entry in row.entries if entry.identity.id == entry_id]
    entries = tuple(change(e) if e.identity.id == entry_id else e for e in row.entries)
    world.rows.accounts[principal] = replace(row, entries=entries)


def drew(microcredits: int) -> Callable[[Entry], Entry]:
    """Change what an entry drew of the team, and with it the whole amount."""

    def change(entry: Entry) -> Entry:
        *others, last = entry.draws
        less = last.microcredits - microcredits
        draws = (*others, replace(last, microcredits=microcredits))
        return replace(entry, draws=draws, amount_microcredits=entry.amount_microcredits - less)

    return change


def without_entry(world: VerifiedWorld, principal: Principal, entry_id: str) -> None:
    row = world.rows.accounts[principal]
    kept = tuple(entry for entry in row.entries if entry.identity.id != entry_id)
    assert len(kept) == len(row.entries) - 1
    world.rows.accounts[principal] = replace(row, entries=kept)


def with_grant_of_team(world: VerifiedWorld, microcredits: int) -> None:
    """Let the team's row hold so much more or less of its one grant than it does."""
    row = world.rows.accounts[TEAM]
    (grant,) = row.grants
    left = replace(grant, remaining_microcredits=grant.remaining_microcredits + microcredits)
    world.rows.accounts[TEAM] = replace(row, grants=(left,))


def test_a_draw_without_its_mirror_is_found(world: VerifiedWorld) -> None:
    # Both rows agree with their own ledgers: only the comparison of the two can find it.
    without_entry(world, TEAM, "shared:user:ana:2:drawn")
    with_grant_of_team(world, 30 * CREDIT)

    (finding,) = world.findings()
    assert finding == (
        "user:ana, shared pool at 2025-11-21T10:00:00+00:00: 30 credits of grant t-1 of team:acme"
        " were drawn by the ledger of user:ana, but not by that of team:acme"
    )


def test_a_mirror_without_its_draw_is_found(world: VerifiedWorld) -> None:
    change_entry(world, ANA, "e-1", drew(29 * CREDIT))

    (finding,) = world.findings()
    assert finding == (
        "user:ana, shared pool at 2025-11-21T10:00:00+00:00: 1 credit of grant t-1 of team:acme"
        " were drawn by the ledger of team:acme, but not by that of user:ana"
    )


def test_a_mirror_that_names_another_payer_is_found(world: VerifiedWorld) -> None:
    def of_ben(entry: Entry) -> Entry:
        identity = replace(entry.identity, id="shared:user:ben:9:drawn")
        return replace(entry, identity=identity)

    change_entry(world, TEAM, "shared:user:ana:2:drawn", of_ben)

    assert [line.partition(",")[0] for line in world.findings()] == ["user:ana", "user:ben"]


def test_a_return_to_one_account_alone_is_found(world: VerifiedWorld) -> None:
    without_entry(world, TEAM, "shared:user:ben:3:returned")
    with_grant_of_team(world, -40 * CREDIT)

    (finding,) = world.findings()
    assert "40 credits of grant t-1 of team:acme were drawn by the ledger of team:acme" in finding


def test_a_reservation_on_one_account_alone_is_found(world: VerifiedWorld) -> None:
    without_entry(world, TEAM, "shared:user:ana:3:drawn")
    world.rows.accounts[TEAM] = replace(world.rows.accounts[TEAM], reservations=())
    with_grant_of_team(world, 20 * CREDIT)

    (finding,) = world.findings()
    assert "were reserved by the ledger of user:ana, but not by that of team:acme" in finding


def test_what_is_held_for_a_payer_must_be_what_its_entries_put_there(world: VerifiedWorld) -> None:
    row = world.rows.accounts[TEAM]
    (held,) = row.reservations
    other = replace(held, run_id="user:ben run-2")
    world.rows.accounts[TEAM] = replace(row, reservations=(other,))

    assert world.findings() == [
        "team:acme, row: the reservation of run user:ana run-2 is live on its ledger alone",
        "team:acme, row: the reservation of run user:ben run-2 is live on the row alone",
    ]


def test_a_commit_of_one_payer_leaves_what_is_held_for_another(world: VerifiedWorld) -> None:
    def of_ben(entry: Entry) -> Entry:
        identity = replace(entry.identity, id="shared:user:ben:9:drawn")
        return replace(entry, identity=identity)

    change_entry(world, TEAM, "shared:user:ana:3:drawn", of_ben)

    assert (
        "changes the reservation of run user:ana run-2, which is not in its line"
        in world.findings()[0]
    )


def test_a_pool_that_gave_more_than_it_held_is_found(world: VerifiedWorld) -> None:
    change_entry(world, TEAM, "shared:user:ana:2:drawn", drew(130 * CREDIT))

    assert "drew 130 from grant t-1, which held 100" in world.findings()[0]


def test_a_run_draws_only_the_pools_of_the_team_that_its_rule_names(world: VerifiedWorld) -> None:
    def of_other_pool(entry: Entry) -> Entry:
        own, shared = entry.draws
        return replace(entry, draws=(own, replace(shared, pool="team:acme/other")))

    change_entry(world, ANA, "e-1", of_other_pool)

    (finding,) = world.findings()
    assert "drew from pool team:acme/other, which its rule does not name" in finding


def test_the_team_s_pool_is_drawn_after_all_that_the_account_holds() -> None:
    world = VerifiedWorld()
    world.send(usage("e-1", "530"))

    def shared_first(entry: Entry) -> Entry:
        own, shared = entry.draws
        return replace(
            entry,
            draws=(
                replace(own, microcredits=own.microcredits - CREDIT),
                replace(shared, microcredits=shared.microcredits + CREDIT),
            ),
        )

    change_entry(world, ANA, "e-1", shared_first)

    drew_less = "drew 499 from g-ana, but the waterfall draws 500 from g-ana"
    assert drew_less in world.findings()[0]


def test_the_balances_of_shared_pools_are_not_taken_for_the_account_s_own() -> None:
    world = VerifiedWorld()
    world.send(usage("e-1", "700"))

    def states(entry: Entry) -> Entry:
        first, *others = entry.pools_before
        more = replace(first, available_microcredits=first.available_microcredits + 1)
        return replace(entry, pools_before=(more, *others))

    change_entry(world, ANA, "e-1", states)

    assert "states other balances than the pools had" in world.findings()[0]


def test_accounts_that_move_while_they_are_read_are_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, rows = VerifiedWorld(), []
    for number, amount in enumerate(("530", "5", "5")):
        world.send(usage(f"e-{number}", amount, run=f"run-{number}"), now=NOW + number * MINUTE)
        rows.append({ANA: world.account(), TEAM: world.account(TEAM)})
    # After how many commits each read of a row finds it: first while all accounts are verified,
    # then while these two are compared, between two commits.
    found = {ANA: [1, 1, 2, 2], TEAM: [0, 1, 2]}

    def read_account(principal: Principal) -> Account | None:
        if principal not in found:
            return world.account(principal)
        return rows[found[principal].pop(0)][principal]

    monkeypatch.setattr(world.rows, "read_account", read_account)

    assert world.findings() == []
    assert found == {ANA: [], TEAM: []}


class Daily:
    """The daily reconciliation of these accounts, on one day after the other."""

    def __init__(self, world: VerifiedWorld) -> None:
        self.world = world
        self.day = NOW.date()

    def visit(self, principal: Principal) -> dict[str, int]:
        row = self.world.rows.accounts[principal]
        visited = ReconciliationSweep(self.world.rows).visit(row, self.day, NOW)
        assert visited.is_done
        self.day += timedelta(days=1)
        return dict(visited.counts)

    def texts(self) -> list[str]:
        found = self.world.rows.observation_stream
        return [f.text for seen in found if isinstance(seen, DriftFound) for f in seen.findings]


def test_every_day_a_payer_is_compared_with_what_its_team_gave() -> None:
    world = VerifiedWorld(shared="1000")
    daily = Daily(world)
    for number in range(30):
        # So that a page, and with it a checkpoint, ends between commits of one second.
        sending = NOW + (number // 5) * MINUTE
        documents = [usage(f"e-{number}-{n}", "25", run=f"run-{number}") for n in range(2)]
        world.send(*documents, now=sending)
        assert daily.visit(ANA) == {"AccountsReconciled": 1}
        assert daily.visit(TEAM) == {"AccountsReconciled": 1}
    assert world.account(TEAM).page_number > 1


def test_every_day_a_draw_without_its_mirror_is_found(world: VerifiedWorld) -> None:
    without_entry(world, TEAM, "shared:user:ana:2:drawn")
    with_grant_of_team(world, 30 * CREDIT)
    daily = Daily(world)

    assert daily.visit(ANA) == {"AccountsDrifted": 1}
    assert daily.visit(BEN) == {"AccountsReconciled": 1}
    (text,) = daily.texts()
    assert "30 credits of grant t-1 of team:acme were drawn by the ledger of user:ana" in text


def test_every_day_a_mirror_on_a_flushed_page_is_compared() -> None:
    world = VerifiedWorld()
    for number in range(12):
        world.send(usage(f"e-{number}", "45", run=f"run-{number}"), now=NOW + number * MINUTE)
    assert world.account(TEAM).page_number == 1
    for number in range(9):
        world.grant(f"t-more-{number}", credits="1")
    assert world.account(TEAM).page_number > 1
    identity = next(i for i in world.rows.receipts if i.id == "shared:user:ana:13:drawn")
    receipt = world.rows.receipts[identity]
    world.rows.receipts[identity] = replace(receipt, entry=drew(CREDIT)(receipt.entry))

    daily = Daily(world)

    assert daily.visit(ANA) == {"AccountsDrifted": 1}


def test_an_account_that_drew_nothing_of_a_team_is_compared_with_none() -> None:
    world = VerifiedWorld()
    world.send(usage("e-1", "10"))
    del world.rows.accounts[TEAM]

    assert Daily(world).visit(ANA) == {"AccountsReconciled": 1}
