"""Every day each account is compared with its ledger: drift is announced once, and only drift."""

from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta

import pytest
from msgspec.structs import replace

from agent_credits.commit.changes import GrantChange
from agent_credits.ledger.entries import PAGES_MAX, Page
from agent_credits.notices.announcements import notice_of
from agent_credits.notices.notice import Notice
from agent_credits.notices.observations import DriftFound
from agent_credits.sweeps.reconciliation_sweep import (
    FINDINGS_LISTED_MAX,
    REPLAY_AGAIN_AFTER,
    ReconciliationSweep,
)
from agent_credits.sweeps.sweep import Step, Visited
from agent_credits.values.errors import RowNotUnderstood, RowsUnavailable
from agent_credits.values.principals import Principal
from tests.golden import assert_golden, email_of
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    BEN,
    BIGCORP,
    NOW,
    OLGA,
    commit_each,
    grant_change,
    open_account,
    run_change,
    settle,
    usage,
)
from tests.unit.sweeps.sweep_fakes import MemorySweepQueue, Poller

TODAY = NOW.date()
TOMORROW = TODAY + timedelta(days=1)
CREDIT = 1_000_000


class CountingRows(MemoryRows):
    """Rows that count the pages read, and may fail on a page or be unable to read it."""

    def __init__(self) -> None:
        super().__init__()
        self.pages_read = 0
        self.page_not_understood: tuple[Principal, int] | None = None
        self.fails = False

    def read_pages(
        self, principal: Principal, first: int = 1, last: int = PAGES_MAX
    ) -> Iterator[Page]:
        if self.fails:
            raise RowsUnavailable("throttled")
        for page in super().read_pages(principal, first, last):
            if (principal, page.number) == self.page_not_understood:
                raise RowNotUnderstood(f"ACCOUNT#{principal}: KeyError")
            self.pages_read += 1
            yield page


@pytest.fixture
def rows() -> CountingRows:
    """Three accounts: one of eight full pages, one of a single entry, one of an enterprise."""
    rows = CountingRows()
    settle(rows)
    open_account(rows, grant_change("pack", credits="100"))
    commit_each(rows, *(run_change(usage(f"e-{n}", "0.5", run=f"run-{n % 5}")) for n in range(70)))
    open_account(rows, grant_change("pack", principal=BEN))
    open_account(rows, GrantChange(BIGCORP, "deal", "contract", 9 * CREDIT, None, "contract"))
    return rows


def tamper(rows: MemoryRows, principal: Principal, microcredits: int = 1) -> None:
    account = rows.accounts[principal]
    (grant, *others) = account.grants
    less = replace(grant, remaining_microcredits=grant.remaining_microcredits - microcredits)
    rows.accounts[principal] = replace(account, grants=(less, *others))


def visit(
    rows: MemoryRows, principal: Principal = ANA, day: date = TODAY, entries_max: int = 1_000
) -> Visited:
    sweep = ReconciliationSweep(rows, entries_max)
    return sweep.visit(rows.accounts[principal], day, NOW)


def sweep(rows: MemoryRows, day: date = TODAY, entries_max: int = 1_000) -> Counter[str]:
    queue = MemorySweepQueue()
    queue.send([Step(sweep="reconciliation", day=day, number=0)])
    return Poller(ReconciliationSweep(rows, entries_max), queue, NOW).run()


def drift_notice(rows: MemoryRows) -> Notice:
    (observation,) = rows.observation_stream
    return notice_of(observation)


def test_healthy_accounts_are_counted_and_not_announced(rows: CountingRows) -> None:
    assert sweep(rows) == Counter(AccountsReconciled=3)

    assert rows.observation_stream == []


def test_drift_is_announced_with_what_the_grant_should_hold(rows: CountingRows) -> None:
    tamper(rows, BEN, 3 * CREDIT)

    assert sweep(rows) == Counter(AccountsReconciled=2, AccountsDrifted=1)

    notice = drift_notice(rows)
    assert (notice.type, notice.severity, notice.principal) == ("drift_found", "critical", BEN)
    assert notice.data["findings"] == [
        {
            "place": "row",
            "text": "grant pack holds 7 credits, but its ledger leaves 10",
            "grant_id": "pack",
            "pool": "add_on",
            "expected_credits": "10",
            "found_credits": "7",
        }
    ]


def test_drift_names_the_team_of_the_newest_run(rows: CountingRows) -> None:
    tamper(rows, ANA)

    visit(rows)

    assert drift_notice(rows).team_id == "acme"


def test_drift_is_announced_once_a_day_until_it_is_fixed(rows: CountingRows) -> None:
    tamper(rows, BEN)

    counted = [sweep(rows), sweep(rows), sweep(rows, TOMORROW)]

    assert [counts["AccountsDrifted"] for counts in counted] == [1, 1, 1]
    days = [observation.day for observation in drifts(rows)]
    assert days == [TODAY, TOMORROW]
    ids = {notice_of(observation).id for observation in rows.observation_stream}
    assert len(ids) == 2


def test_another_contradiction_is_announced_on_the_same_day(rows: CountingRows) -> None:
    tamper(rows, BEN)
    visit(rows, BEN)
    tamper(rows, BEN)
    visit(rows, BEN)

    assert [drift.findings[0].grant for drift in drifts(rows)] != [None, None]
    assert len(rows.observation_stream) == 2


def drifts(rows: MemoryRows) -> list[DriftFound]:
    return [o for o in rows.observation_stream if isinstance(o, DriftFound)]


def test_a_sweep_only_puts_observations_and_checkpoints(rows: CountingRows) -> None:
    tamper(rows, BEN)
    before = (dict(rows.accounts), dict(rows.pages), dict(rows.receipts), len(rows.stream))

    sweep(rows)

    assert (rows.accounts, rows.pages, rows.receipts, len(rows.stream)) == before


def test_the_next_day_reads_only_what_is_new(rows: CountingRows) -> None:
    visit(rows)
    read_at_first = rows.pages_read
    commit_each(rows, *(run_change(usage(f"f-{n}", "0.5")) for n in range(20)))
    new_pages = rows.accounts[ANA].page_number - 1 - read_at_first

    visit(rows, day=TOMORROW)

    assert read_at_first == 8
    assert rows.pages_read - read_at_first == new_pages > 0


def test_after_thirty_days_all_of_it_is_read_again_and_an_old_page_is_checked(
    rows: CountingRows,
) -> None:
    visit(rows)
    tampered = rows.pages[ANA, 2]
    rows.pages[ANA, 2] = replace(tampered, entries=tampered.entries[:-1])

    unseen = visit(rows, day=TODAY + REPLAY_AGAIN_AFTER - timedelta(days=1))
    seen = visit(rows, day=TODAY + REPLAY_AGAIN_AFTER)

    assert unseen.counts == Counter(AccountsReconciled=1)
    assert seen.counts == Counter(AccountsDrifted=1)


def test_a_large_ledger_is_replayed_in_bounded_visits(rows: CountingRows) -> None:
    visits, most = 0, 0
    while True:
        before = rows.pages_read
        visited = visit(rows, entries_max=20)
        visits += 1
        most = max(most, rows.pages_read - before)
        if visited.is_done:
            break

    assert visited.counts == Counter(AccountsReconciled=1)
    assert (visits, most) == (3, 3)


def test_a_sweep_over_large_ledgers_ends_with_each_account_counted_once(rows: CountingRows) -> None:
    assert sweep(rows, entries_max=1) == Counter(AccountsReconciled=3)


def test_drift_in_the_middle_of_a_large_ledger_is_found_and_stores_no_checkpoint(
    rows: CountingRows,
) -> None:
    page = rows.pages[ANA, 4]
    draw = page.entries[0].draws[0]
    entry = replace(page.entries[0], draws=(replace(draw, microcredits=1),))
    rows.pages[ANA, 4] = replace(page, entries=(entry, *page.entries[1:]))

    first = sweep(rows, entries_max=1)
    again = sweep(rows, TOMORROW, entries_max=1)

    assert first["AccountsDrifted"] == again["AccountsDrifted"] == 1
    checkpoint = rows.read_checkpoint(ANA)
    assert checkpoint is not None
    assert checkpoint.page_number == 3


def test_drift_after_a_checkpoint_is_found_each_day(rows: CountingRows) -> None:
    visit(rows)
    tamper(rows, ANA)

    counted = [visit(rows, day=TODAY + timedelta(days=n)).counts for n in (1, 2)]

    assert counted == [Counter(AccountsDrifted=1)] * 2


def test_an_unreadable_row_is_a_finding_and_does_not_affect_the_others(rows: CountingRows) -> None:
    rows.unreadable.add(f"ACCOUNT#{BEN}")

    assert sweep(rows) == Counter(AccountsReconciled=2, AccountsDrifted=1)

    assert drift_notice(rows).data["findings"] == [
        {"place": "row", "text": "this version cannot read ACCOUNT#user:ben: KeyError"}
    ]


def test_a_page_that_cannot_be_read_is_a_finding(rows: CountingRows) -> None:
    rows.page_not_understood = (ANA, 5)

    assert sweep(rows) == Counter(AccountsReconciled=2, AccountsDrifted=1)

    assert drift_notice(rows).data["findings"] == [
        {"place": "ledger", "text": "this version cannot read ACCOUNT#user:ana: KeyError"}
    ]


def test_without_a_readable_checkpoint_the_whole_ledger_is_read_again(rows: CountingRows) -> None:
    visit(rows)
    rows.checkpoints_not_understood = True

    assert visit(rows).counts == Counter(AccountsReconciled=1)

    assert rows.pages_read == 16


def test_a_row_older_than_its_checkpoint_is_read_again_and_is_not_drift(
    rows: CountingRows,
) -> None:
    stale = rows.accounts[ANA]
    commit_each(rows, *(run_change(usage(f"f-{n}", "0.5")) for n in range(20)))
    visit(rows)
    checkpoint = rows.read_checkpoint(ANA)
    assert checkpoint is not None
    assert checkpoint.page_number > stale.page_number

    visited = ReconciliationSweep(rows).visit(stale, TODAY, NOW)

    assert visited.counts == Counter(AccountsReconciled=1)


def test_a_row_that_was_rolled_back_before_its_checkpoint_is_drift(rows: CountingRows) -> None:
    stale = rows.accounts[ANA]
    commit_each(rows, *(run_change(usage(f"f-{n}", "0.5")) for n in range(20)))
    visit(rows)
    rows.accounts[ANA] = stale

    assert visit(rows).counts == Counter(AccountsDrifted=1)


def test_a_fault_is_not_a_finding(rows: CountingRows) -> None:
    rows.fails = True

    with pytest.raises(RowsUnavailable):
        visit(rows)

    assert rows.observation_stream == []


def test_a_notice_names_some_contradictions_and_counts_all(rows: CountingRows) -> None:
    del rows.pages[ANA, 1]

    visit(rows)

    data = drift_notice(rows).data
    assert len(data["findings"]) == FINDINGS_LISTED_MAX
    assert data["findings_count"] > FINDINGS_LISTED_MAX


def test_drift_of_an_unused_account_names_no_team(rows: CountingRows) -> None:
    open_account(rows, grant_change("pack", principal=OLGA))
    tamper(rows, OLGA)

    visit(rows, OLGA)

    notice = drift_notice(rows)
    assert notice.team_id == ""
    assert notice.data["team_id"] is None


def test_drift_of_an_unused_enterprise_account_names_its_team(rows: CountingRows) -> None:
    tamper(rows, BIGCORP)

    visit(rows, BIGCORP)

    assert drift_notice(rows).team_id == "bigcorp"


def test_the_email_stands_alone(rows: CountingRows) -> None:
    del rows.pages[ANA, 1]
    tamper(rows, BEN, 3 * CREDIT)
    visit(rows, ANA)
    visit(rows, BEN)

    texts = [email_of(notice_of(observation)) for observation in rows.observation_stream]

    assert_golden("drift/dropped_page.txt", texts[0])
    assert_golden("drift/changed_balance.txt", texts[1])
