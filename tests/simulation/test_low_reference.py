"""What is told of low credits, broken on purpose: the checks of the simulator must notice."""

import pytest
from msgspec.structs import replace

from agent_credits.billing.teams import Team
from agent_credits.commit.changes import GrantChange
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.thresholds import LowCredits
from agent_credits.notices.announcements import AccountRecord, NoticeSettings, notices_of
from tests.memory_rows import MemoryRows
from tests.simulation.invariants import Invariants
from tests.simulation.low_reference import Knowledge
from tests.simulation.outside import StoredRows
from tests.simulation.violation import Violation
from tests.simulation.workers import pause
from tests.simulation.world import CREDIT
from tests.unit.builders import ACME, ANA, CARD, NOW, ON, run_change, usage

AT_NEXT_TO_NOTHING = ON.model_copy(update={"threshold_microcredits": 1})
RELOADING = ACME.model_copy(
    update={"auto_reload": AT_NEXT_TO_NOTHING, "payment": CARD, "spend_cap_cents": 100_000}
)


class Low:
    """An account of ten credits, as a worker that knows this team commits to it."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self.invariants = Invariants()
        self.rows = StoredRows(self.invariants)
        gift = GrantChange(ANA, "gift", "add_on", 10 * CREDIT, None, "gift")
        commit(self.rows, ANA, [gift], now=NOW, pause=pause, opens_account=True)
        self.invariants.known = Knowledge((team,), NOW)

    def next_row(self, used: str) -> Account:
        """Return the row that the decision makes of one more event."""
        elsewhere = MemoryRows()
        elsewhere.accounts[ANA] = self.rows.accounts[ANA]
        change = run_change(usage(f"e-{used}", used, run=f"run-{used}"), self.team)
        return commit(elsewhere, ANA, [change], now=NOW, pause=pause).account

    def write(self, row: Account) -> None:
        assert self.rows.compare_and_set(row) is None

    def publish(self) -> None:
        for change in self.rows.changes:
            for notice in notices_of(change, NoticeSettings("")):
                self.invariants.published(notice)


def low_of(row: Account) -> LowCredits:
    assert row.low is not None
    return row.low


@pytest.mark.parametrize("team", [ACME, RELOADING], ids=["told", "deferred"])
def test_what_is_right_is_not_complained_about(team: Team) -> None:
    low = Low(team)

    low.write(low.next_row("8"))
    low.publish()

    low.invariants.check_at_the_end()


def test_a_fall_that_nobody_noticed() -> None:
    low = Low(ACME)

    with pytest.raises(Violation, match="notified and deferred, not"):
        low.write(replace(low.next_row("8"), low=None))


def test_an_account_that_is_told_although_a_reload_can_help() -> None:
    low = Low(RELOADING)
    row = low.next_row("8")
    notified = replace(
        low_of(row), notified=low_of(row).deferred, deferred=(), notified_at_version=row.version
    )

    with pytest.raises(Violation, match="notified and deferred, not"):
        low.write(replace(row, low=notified))


def test_an_account_that_is_held_back_although_no_reload_can_help() -> None:
    low = Low(ACME)
    row = low.next_row("8")
    deferred = replace(low_of(row), deferred=low_of(row).notified, notified=())

    with pytest.raises(Violation, match="notified and deferred, not"):
        low.write(replace(row, low=deferred))


def test_a_threshold_that_is_told_twice() -> None:
    low = Low(ACME)
    low.write(low.next_row("8"))
    row = low.next_row("0.5")
    low.write(replace(row, low=replace(low_of(row), notified_at_version=row.version)))

    with pytest.raises(Violation, match="no credits_low without a reason"):
        low.publish()


def test_a_fall_that_is_never_published() -> None:
    low = Low(ACME)
    row = low.next_row("8")
    low.write(replace(row, low=replace(low_of(row), notified_at_version=0)))
    low.publish()

    with pytest.raises(Violation, match="every credits_low that is due is announced"):
        low.invariants.check_at_the_end()


def test_a_recovery_that_is_never_published() -> None:
    low = Low(ACME)
    low.write(low.next_row("8"))
    gift = GrantChange(ANA, "more", "add_on", 10 * CREDIT, None, "gift")
    commit(low.rows, ANA, [gift], now=NOW, pause=pause)

    fallen = low.rows.changes[-2]
    assert isinstance(fallen, AccountRecord)
    for notice in notices_of(fallen, NoticeSettings("")):
        low.invariants.published(notice)

    with pytest.raises(Violation, match="every credits_restored that is due is announced"):
        low.invariants.check_at_the_end()
