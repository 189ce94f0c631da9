"""Shared pools: a member's run draws from the team's account after its own, on both accounts."""

from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any

import pytest

from agent_credits.billing.alerts import Alerts
from agent_credits.billing.policy import BillingPolicy, BillingRule
from agent_credits.commit.changes import ReleaseChange
from agent_credits.commit.together import commit_changes
from agent_credits.events.agent_runs import Rejection
from agent_credits.ledger.accounts import Account, available_microcredits
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.limits import LimitKey
from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Principal
from tests.ledger_of_reservations import check_row
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ACME,
    ANA,
    MINUTE,
    NOW,
    POLICY,
    finished,
    grant_change,
    history,
    open_account,
    pause,
    requested,
    usage,
)
from tests.unit.limit_world import LimitWorld, limit, name_of

HOUR = 60 * MINUTE
TEAM = Principal("team", "acme")
POOLS = ("trial", "plan", "add_on", "team:shared")


def sharing(**terms: Any) -> BillingPolicy:
    rule = BillingRule.model_validate(
        {"team": "self_serve", "triggers": ("user",), "payer": "user", "pools": POOLS, **terms}
    )
    return POLICY.model_copy(update={"rules": (rule, *POLICY.rules[1:])})


class SharingWorld(LimitWorld):
    """Ana and ben have 500 credits each, and their team a pool of 100."""

    def __init__(self, *limits: Any, shared: str = "100", **settings: Any) -> None:
        super().__init__(*limits, policy=settings.pop("policy", sharing()), **settings)
        open_account(self.rows, grant_change("t-1", pool="shared", credits=shared, principal=TEAM))

    def check(self, now: Any = NOW) -> None:
        super().check(now)
        for principal, account in self.rows.accounts.items():
            check_row(account, history(self.rows, principal))
        given = _sums(history(self.rows, TEAM))
        received: dict[str, int] = {}
        for principal in self.rows.accounts:
            for grant_id, amount in _sums(history(self.rows, principal)).items():
                if grant_id.startswith("shared:acme/"):
                    name = grant_id.removeprefix("shared:acme/")
                    received[name] = received.get(name, 0) + amount
        assert {g: a for g, a in given.items() if a} == {g: a for g, a in received.items() if a}

    def shared(self) -> str:
        return format_credits(available_microcredits(self.account(TEAM), ("shared",), NOW))


class RacingRows(MemoryRows):
    """Rows that another worker moves before a payer's team is read, or before the payer's write."""

    def __init__(self) -> None:
        super().__init__()
        self.before_teams: Callable[[], object] | None = None
        self.before_write: Callable[[], object] | None = None

    def read_accounts_of(self, principals: Collection[Principal]) -> Mapping[Principal, Account]:
        race = self.before_teams
        if race is not None and TEAM in principals:
            self.before_teams = None
            race()
        return super().read_accounts_of(principals)

    def compare_and_set(self, account: Account) -> Account | None:
        race, self.before_write = self.before_write, None
        if race is not None:
            race()
        return super().compare_and_set(account)


def _sums(entries: tuple[Entry, ...]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for entry in entries:
        sign = -1 if entry.outcome == "returned" else 1
        for part in entry.draws:
            sums[part.grant_id] = sums.get(part.grant_id, 0) + sign * part.microcredits
    return sums


def test_a_run_draws_the_team_s_pool_after_its_own_and_both_accounts_record_it() -> None:
    world = SharingWorld()

    entry = world.entry(usage("e-1", "530"))

    assert entry.outcome == "debited"
    assert [(d.pool, d.grant_id, d.microcredits) for d in entry.draws] == [
        ("plan", "g-ana", 500_000_000),
        ("team:acme/shared", "shared:acme/t-1", 30_000_000),
    ]
    of_team = world.account(TEAM).entries[-1]
    assert (of_team.type, of_team.identity.id) == ("pool.drawn", "shared:user:ana:2:drawn")
    assert [(d.pool, d.grant_id, d.microcredits) for d in of_team.draws] == [
        ("shared", "t-1", 30_000_000)
    ]
    assert world.shared() == "70"
    # The grants of the team stand on the team's row alone.
    assert world.account().grants == ()


def test_a_run_that_its_own_pools_cover_leaves_the_team_s_row_alone() -> None:
    world = SharingWorld()

    world.send(usage("e-1", "10"))

    assert world.account(TEAM).version == 1


def test_what_both_lack_is_the_shortfall_and_all_pools_are_shown() -> None:
    world = SharingWorld()

    entry = world.entry(usage("e-1", "700"))

    assert (entry.outcome, entry.shortfall_microcredits) == ("insufficient", 100_000_000)
    assert [(p.pool, p.available_microcredits) for p in entry.pools_before][-1] == (
        "team:acme/shared",
        100_000_000,
    )
    assert world.shared() == "0"


def test_members_draw_the_pool_in_one_transaction() -> None:
    world = SharingWorld()

    results = world.send_together(usage("e-1", "560"), usage("e-2", "560", user="ben", run="run-2"))

    assert [name_of(result) for result in results] == ["debited", "insufficient"]
    team = world.account(TEAM)
    assert (team.version, len(team.entries)) == (2, 3)
    assert world.shared() == "0"


def test_a_platform_error_gives_back_to_both_accounts() -> None:
    world = SharingWorld()
    world.send(usage("e-1", "530"))

    world.send(finished("f-1", "error"))

    assert (world.available(), world.shared()) == ("500", "100")
    assert world.account(TEAM).entries[-1].type == "pool.returned"


def test_draws_go_back_to_the_team_although_its_pool_is_no_longer_shared() -> None:
    world = SharingWorld()
    world.send(usage("e-1", "560"))
    assert world.shared() == "40"
    world.policy = POLICY.model_copy(update={"version": "2026-01"})

    assert world.outcomes(finished("f-1", "error")) == ["returned"]

    assert (world.available(), world.shared()) == ("500", "100")


def test_draws_go_back_to_a_grant_of_the_team_that_was_emptied_pages_ago() -> None:
    world = SharingWorld()
    world.send(usage("e-1", "600"))
    for number in range(20):
        change = grant_change(f"t-more-{number}", pool="other", principal=TEAM)
        commit_changes(world.rows, TEAM, [change], now=NOW, pause=pause)

    world.send(finished("f-1", "error"))

    assert (world.available(), world.shared()) == ("500", "100")


def test_draws_go_back_to_a_grant_of_the_team_whose_full_page_is_not_flushed_yet() -> None:
    world = SharingWorld(shared="3.5")
    world.send(usage("e-0", "500"))
    for number in range(7):
        world.send(usage(f"e-{number + 1}", "0.5"))
    team = world.account(TEAM)
    assert (team.page_is_full, team.page_number, team.grants) == (True, 1, ())

    world.send(finished("f-1", "error"))

    assert (world.available(), world.shared()) == ("500", "3.5")


def test_draws_go_back_to_a_grant_of_the_team_that_has_expired_within_the_grace() -> None:
    world = SharingWorld(shared="0.000001")
    change = grant_change("t-2", pool="shared", credits="50", principal=TEAM, expires_at=NOW + HOUR)
    commit_changes(world.rows, TEAM, [change], now=NOW, pause=pause)
    world.send(usage("e-1", "510"))

    later = NOW + 2 * HOUR
    world.send(finished("f-1", "error"), now=later)

    returned = next(g for g in world.account(TEAM).grants if g.id == "t-2")
    assert returned.remaining_microcredits == 10_000_000
    assert returned.expires_at == NOW + HOUR + timedelta(days=30)


def test_reservations_take_from_both_alike() -> None:
    world = SharingWorld()

    world.send(requested("r-1", run="run-1", credits="550", reserve="estimate"))

    (held,) = world.account(TEAM).reservations
    assert held.run_id == "user:ana run-1"
    assert world.shared() == "50"
    assert world.outcomes(usage("u-1", "530", run="run-1")) == ["debited"]
    assert world.account(TEAM).reservations[0].left_microcredits == 20_000_000
    assert world.outcomes(finished("f-1", run="run-1")) == ["finished"]
    assert world.account(TEAM).reservations == ()
    assert world.shared() == "70"


def test_what_is_reserved_of_the_team_s_pool_is_drawn_although_it_is_no_longer_shared() -> None:
    world = SharingWorld()
    world.send(requested("r-1", run="run-1", credits="550", reserve="estimate"))
    world.rows.policies[world.policy.version] = world.policy
    world.policy = POLICY.model_copy(update={"version": "2026-01"})

    assert world.outcomes(usage("u-1", "530", run="run-1")) == ["debited"]

    assert world.account(TEAM).reservations[0].left_microcredits == 20_000_000


def test_what_comes_back_to_an_empty_grant_of_the_team_can_be_reserved_in_the_same_batch() -> None:
    world = SharingWorld(shared="30")
    world.send(usage("e-1", "530"))
    assert world.account(TEAM).grants == ()

    reserving = requested("r-1", run="run-2", credits="530", reserve="estimate")
    assert world.outcomes(finished("f-1", "error"), reserving) == ["returned", "accepted"]

    assert world.account(TEAM).reservations[0].left_microcredits == 30_000_000
    assert world.outcomes(finished("f-2", run="run-2")) == ["finished"]
    assert world.shared() == "30"


def test_a_child_s_share_of_the_team_s_pool_stays_in_its_tree() -> None:
    world = SharingWorld()
    world.send(requested("r-1", run="root", credits="550", reserve="estimate", ttl_seconds=7200))
    world.send(requested("r-2", run="child", credits="520", parent_run_id="root", ttl_seconds=60))

    # The child's reservation expires on the member's account, and its share goes to the root.
    world.send(usage("u-1", "5", run="root"), now=NOW + 5 * MINUTE)

    assert sum(r.left_microcredits for r in world.account(TEAM).reservations) == 45_000_000
    assert world.outcomes(usage("u-2", "545", run="root"), now=NOW + 6 * MINUTE) == ["debited"]
    assert world.account(TEAM).grants[0].remaining_microcredits == 50_000_000


def test_an_expired_reservation_frees_the_team_s_pool_without_a_commit_of_its_payer() -> None:
    world = SharingWorld()
    world.send(requested("r-1", run="run-1", credits="600", reserve="estimate", ttl_seconds=3600))
    assert world.shared() == "0"

    later = NOW + HOUR
    assert world.outcomes(usage("e-1", "600", user="ben", run="run-2"), now=later) == ["debited"]
    # The payer's own account notices by itself, and gives nothing back twice.
    assert world.outcomes(usage("u-1", "500", run="run-3"), now=later) == ["debited"]
    assert world.outcomes(usage("u-2", "1", run="run-3"), now=later) == ["insufficient"]


def test_usage_renews_the_reservation_on_both_rows() -> None:
    world = SharingWorld()
    world.send(requested("r-1", run="run-1", credits="550", reserve="estimate", ttl_seconds=3600))

    world.send(usage("u-1", "1", run="run-1"), now=NOW + 30 * MINUTE)

    (own,) = world.account().reservations
    (held,) = world.account(TEAM).reservations
    assert own.expires_at == held.expires_at == NOW + 90 * MINUTE


def test_a_release_by_hand_gives_the_team_its_part_back() -> None:
    world = SharingWorld()
    world.send(requested("r-1", run="run-1", credits="550", reserve="estimate"))

    change = ReleaseChange(ANA, "run-1", "release-1", "stuck")
    commit_changes(world.rows, ANA, [change], now=NOW, pause=pause)

    world.check()
    assert (world.available(), world.shared()) == ("500", "100")


def test_what_is_held_for_a_payer_is_not_released_on_the_team_s_row() -> None:
    world = SharingWorld()
    world.send(requested("r-1", run="run-1", credits="550", reserve="estimate"))

    change = ReleaseChange(TEAM, "user:ana run-1", "release-1", "stuck")
    (result,) = commit_changes(world.rows, TEAM, [change], now=NOW, pause=pause).results

    assert isinstance(result, Rejection)
    assert result.code == "held_for_a_payer"


def test_a_team_without_an_account_has_an_empty_pool() -> None:
    world = LimitWorld(policy=sharing())

    assert world.outcomes(usage("e-1", "501")) == ["insufficient"]


def test_a_limit_counts_what_is_drawn_of_the_shared_pool() -> None:
    world = SharingWorld(limit("team", "520"))

    assert world.outcomes(usage("e-1", "530")) == ["insufficient"]
    assert world.row(LimitKey("acme", "team", "acme", "month")) == "520"
    assert world.shared() == "80"


def test_credits_low_works_for_the_team_s_pool() -> None:
    alerts = Alerts.model_validate({"low": ["50%"]})
    world = SharingWorld(team=ACME.model_copy(update={"alerts": alerts}))

    world.send(usage("e-1", "570"))

    low = world.account(TEAM).low
    assert low is not None
    assert (low.pools, low.notified_at_version) == (("shared",), 2)


def test_a_full_page_of_the_team_is_flushed_before_it_grows() -> None:
    world = SharingWorld()
    world.send(usage("e-0", "500"))

    for number in range(30):
        world.send(usage(f"e-{number + 1}", "0.5", run=f"run-{number}"))

    team = world.account(TEAM)
    assert team.page_number > 1
    assert world.shared() == "85"


def test_a_payer_s_row_that_is_older_than_what_the_team_knows_of_it_is_read_again() -> None:
    rows = RacingRows()
    world = SharingWorld(rows=rows, shared="1000")
    rows.before_teams = lambda: world.send(usage("e-1", "530"))

    # Both are the payer's second commit, so the team has an entry of it already.
    assert world.outcomes(usage("e-2", "510")) == ["debited"]

    assert world.shared() == "460"
    assert [entry.type for entry in world.account(TEAM).entries[1:]] == ["pool.drawn"] * 2


def test_a_team_s_row_that_is_older_than_the_payer_s_is_read_again() -> None:
    rows = RacingRows()
    world = SharingWorld(rows=rows)
    reserving = requested("r-1", run="run-1", credits="550", reserve="estimate")
    rows.before_write = lambda: world.send(reserving)

    # The run had no reservation when the rows were read first; now its end gives one back.
    assert world.outcomes(finished("f-1", run="run-1")) == ["finished"]

    assert world.account(TEAM).reservations == ()
    assert world.shared() == "100"


@pytest.mark.parametrize(
    ("pools", "payer", "reason"),
    [
        (("team:shared", "plan"), "user", "come after"),
        (("contract", "team:shared"), "team", "pays by itself"),
    ],
)
def test_a_rule_names_the_team_s_pools_behind_those_of_the_payer(
    pools: tuple[str, ...], payer: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        BillingRule.model_validate(
            {"team": "self_serve", "triggers": ("user",), "payer": payer, "pools": pools}
        )
