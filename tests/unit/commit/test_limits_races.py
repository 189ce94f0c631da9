"""What limits do where workers race: slow clocks, rows read at different times, and lost races."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from agent_credits.billing.policy import BillingPolicy, BillingRule
from agent_credits.commit.rows import LostTogether
from agent_credits.commit.together import FAULTS_ALONE_MAX, commit_changes, commit_together
from agent_credits.commit.write_protocol import ATTEMPTS_MAX, Committed
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.values.errors import Contended, RowsUnavailable
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ACME,
    ANA,
    MINUTE,
    NOW,
    POLICY,
    RELOADING_ACME,
    finished,
    grant_change,
    pause,
    requested,
    usage,
)
from tests.unit.limit_world import LimitWorld, limit, name_of

HOUR = 60 * MINUTE
OF_TEAM = LimitKey("acme", "team", "acme", "month")
OF_TEAM_BY_DAY = LimitKey("acme", "team", "acme", "day")
OF_ANA = LimitKey("acme", "member", "ana", "month")
BY_BEN = {"user": "ben", "run": "run-2"}


class RacingRows(MemoryRows):
    """Rows that another worker moves before a write, that conflict, or that name some rows only."""

    def __init__(self) -> None:
        super().__init__()
        self.before_write: Callable[[], object] | None = None
        self.names_accounts_only = False
        self.conflicts = 0
        self.transactions = 0
        # Accounts whose rows cannot be written.
        self.broken: set[Principal] = set()

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        self.transactions += 1
        if any(account.principal in self.broken for account in accounts):
            raise RowsUnavailable("throttled")
        if self.conflicts:
            self.conflicts -= 1
            return LostTogether(conflicts=True)
        race, self.before_write = self.before_write, None
        if race:
            race()
        lost = super().compare_and_set_together(accounts, limits)
        if lost is not None and lost.accounts and self.names_accounts_only:
            return LostTogether(lost.accounts)
        return lost


def reserving(run: str, user: str = "ana", **fields: Any) -> dict[str, Any]:
    return requested(f"r-{run}", user=user, run=run, credits="8", reserve="estimate", **fields)


def by_steps(overrun: str) -> BillingPolicy:
    first = {**POLICY.rules[0].model_dump(), "overrun": overrun}
    rule = BillingRule.model_validate({**first, "default_estimate_microcredits": 3_000_000})
    return POLICY.model_copy(update={"rules": (rule, *POLICY.rules[1:])})


def test_a_slow_clock_settles_no_reservation_that_counts_on_the_limit_s_row_no_longer() -> None:
    world = LimitWorld(limit("team", "10"))
    world.send(reserving("run-1", ttl_seconds=600))
    later = NOW + 10 * MINUTE
    assert world.outcomes(usage("e-1", "10", **BY_BEN), now=later) == ["debited"]

    slow = NOW + 9 * MINUTE
    assert world.outcomes(usage("e-2", "3", run="run-1"), now=slow) == ["insufficient"]

    assert world.row(OF_TEAM) == "10"
    assert world.account().reservations == ()
    assert world.account().entries[-1].recorded_at == later


def test_a_slow_clock_gives_nothing_back_to_a_later_period() -> None:
    world = LimitWorld(limit("team", "10", "day"))
    world.send(usage("e-1", "6"))
    world.send(usage("e-2", "7", **BY_BEN), now=NOW + timedelta(days=1))

    world.send(finished("f-1", "error"), now=NOW)

    assert world.row(OF_TEAM_BY_DAY) == "7"


def test_what_a_limit_refuses_is_not_recorded_before_what_it_refuses_it_for() -> None:
    rows = RacingRows()
    world = LimitWorld(limit("team", "10"), rows=rows)
    changes = world.changes(usage("e-1", "10"), usage("e-2", "1", **BY_BEN))
    rows.conflicts = 10

    outcomes = commit_together(rows, changes, now=NOW, pause=pause)

    assert not any(isinstance(outcome, Committed) for outcome in outcomes.values())
    assert [account.version for account in rows.accounts.values()] == [1, 1]


def test_a_limit_s_row_that_is_older_than_the_account_s_is_read_again() -> None:
    rows = RacingRows()
    world = LimitWorld(limit("team", "10"), rows=rows)
    rows.names_accounts_only = True
    rows.before_write = lambda: world.send(reserving("run-1"))

    results = world.send(usage("e-1", "3"), finished("f-1"))

    assert [name_of(result) for result in results] == ["debited", "finished"]
    assert rows.limits[OF_TEAM].held == ()


def test_a_stale_account_costs_the_others_of_its_transaction_nothing() -> None:
    rows = RacingRows()
    world = LimitWorld(limit("team", "20"), rows=rows)
    world.send(reserving("run-1"), reserving("run-2", user="ben"))
    stale = rows.accounts[ANA]
    world.send(finished("f-1", run="run-1"))
    changes = world.changes(
        finished("f-2", run="run-1"), usage("e-2", "1", run="run-3"), finished("f-3", **BY_BEN)
    )
    fresh = rows.read_accounts_of

    def reads_a_stale_row(principals: Collection[Principal]) -> Mapping[Principal, Account]:
        rows.read_accounts_of = fresh  # type: ignore[method-assign]
        return {**fresh(principals), ANA: stale}

    rows.read_accounts_of = reads_a_stale_row  # type: ignore[method-assign]
    outcomes = commit_together(rows, changes, now=NOW, pause=pause)

    assert all(isinstance(outcome, Committed) for outcome in outcomes.values())
    assert rows.limits[OF_TEAM].held == ()


@pytest.mark.parametrize("overrun", ["finish", "pause", "stop"])
def test_a_run_that_a_limit_keeps_from_another_step_waits_for_no_reload(overrun: str) -> None:
    world = LimitWorld(
        limit("member", "10"), team=RELOADING_ACME, policy=by_steps(overrun), payers=(ANA,)
    )
    world.send(requested("r-1", credits="3", reserve="estimate"))

    entry = world.entry(usage("u-1", "25"))

    assert (entry.outcome, entry.drawn_microcredits) == ("insufficient", 10_000_000)
    assert entry.limits.refused_by is not None
    assert world.account().reload is None


def test_what_an_earlier_end_gave_back_is_not_taken_from_what_a_later_one_gives_back() -> None:
    one_day = POLICY.model_copy(update={"version": "2025-10", "grace_days": 1})
    world = LimitWorld(limit("member", "20"), policy=one_day)
    trial = grant_change("trial", "trial", "5", expires_at=NOW + HOUR)
    commit_changes(world.rows, ANA, [trial], now=NOW, pause=pause)
    world.send(usage("u-1", "8"))
    world.send(finished("f-1", "error"), now=NOW + 26 * HOUR)
    assert world.drawn(OF_ANA) == "5"

    # Another end comes once the policy has a longer grace.
    world.policy = POLICY
    world.send(finished("f-2", "error"), now=NOW + 27 * HOUR)

    assert world.drawn(OF_ANA) == "0"


@pytest.mark.parametrize(("broken", "transactions"), [(1, 1 + 6), (6, 1 + FAULTS_ALONE_MAX)])
def test_a_fault_costs_other_accounts_nothing_and_one_of_the_service_no_more_than_a_few_attempts(
    broken: int, transactions: int
) -> None:
    members = [Principal("user", f"member-{number}") for number in range(6)]
    rows = RacingRows()
    team = ACME.model_copy(update={"members": frozenset(member.id for member in members)})
    world = LimitWorld(limit("team", "20"), team=team, payers=members, rows=rows)
    events = [usage(f"e-{m.id}", "1", user=m.id, run=f"run-{m.id}") for m in members]
    rows.broken = set(members[:broken])

    outcomes = commit_together(rows, world.changes(*events), now=NOW, pause=pause)

    faults = {p for p, outcome in outcomes.items() if isinstance(outcome, RowsUnavailable)}
    assert faults == rows.broken
    assert rows.transactions == transactions
    drawn = rows.limits[OF_TEAM].drawn_microcredits if OF_TEAM in rows.limits else 0
    assert drawn == (len(members) - broken) * 1_000_000


@pytest.mark.parametrize(
    ("conflicts", "commits"), [(ATTEMPTS_MAX - 1, True), (ATTEMPTS_MAX, False)]
)
def test_conflicts_are_lost_races_and_their_number_is_bounded(
    conflicts: int, commits: bool
) -> None:
    rows = RacingRows()
    world = LimitWorld(limit("team", "20"), rows=rows)
    changes = world.changes(usage("e-1", "3"), usage("e-2", "4", **BY_BEN))
    rows.conflicts = conflicts
    waits: list[int] = []

    outcomes = commit_together(rows, changes, now=NOW, pause=waits.append)

    assert {isinstance(outcome, Committed) for outcome in outcomes.values()} == {commits}
    assert {isinstance(outcome, Contended) for outcome in outcomes.values()} == {not commits}
    assert waits == [*range(1, ATTEMPTS_MAX)]
    assert (OF_TEAM in rows.limits) is commits
