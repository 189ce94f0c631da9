"""One report per team and day: counted in bounded visits, put once, correct after any crash."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from agent_credits.billing.balance_reports import BalanceReport
from agent_credits.commit.together import commit_changes
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.burn import burn_of, burned_over, first_day
from agent_credits.ledger.burn_counts import BurnCount
from agent_credits.ledger.entries import PAGES_MAX, Page
from agent_credits.notices.announcements import notice_of
from agent_credits.sweeps.balance_report_sweep import BalanceReportSweep
from agent_credits.sweeps.sweep import Step
from agent_credits.values.errors import RowsUnavailable
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    BEN,
    BIGCORP,
    NOW,
    OLGA,
    finished,
    grant_change,
    history,
    open_account,
    pause,
    run_change,
    run_changes,
    settle,
    usage,
)
from tests.unit.limit_world import limit, team_with
from tests.unit.sweeps.sweep_fakes import MemorySweepQueue, Poller

CREDIT = 1_000_000
TODAY = NOW.date()


class CountingRows(MemoryRows):
    """Rows that count the pages read, and may fail when a count is put."""

    def __init__(self) -> None:
        super().__init__()
        settle(self)
        self.pages_read = 0
        self.fails = False

    def read_pages(
        self, principal: Principal, first: int = 1, last: int = PAGES_MAX
    ) -> Iterator[Page]:
        for page in super().read_pages(principal, first, last):
            self.pages_read += 1
            yield page

    def put_burn_count(self, count: BurnCount) -> None:
        if self.fails:
            raise RowsUnavailable("throttled")
        super().put_burn_count(count)


def burn(rows: MemoryRows, principal: Principal, days_ago: int, *documents: dict[str, Any]) -> None:
    at = NOW - timedelta(days=days_ago)
    for document in documents:
        change = run_changes({**document, "time": at.isoformat()})
        commit(rows, principal, change, now=at, pause=pause)


@pytest.fixture
def rows() -> CountingRows:
    """Ana burns 10 credits a day for 40 days, Ben's only run was given back, Olga has nothing."""
    rows = CountingRows()
    for principal in (ANA, BEN, BIGCORP):
        pool = "contract" if principal.kind == "team" else "add_on"
        change = grant_change("g-1", pool, "1000", principal=principal)
        open_account(rows, change, now=NOW - timedelta(days=41))
    for day in range(40, 0, -1):
        events = [usage(f"e{day}-{n}", "5", run=f"run-{day}") for n in range(2)]
        burn(rows, ANA, day, *events)
    burn(rows, BEN, 3, usage("b1", "70", user="ben", run="run-b"))
    burn(rows, BEN, 2, finished("b2", "error", user="ben", run="run-b"))
    return rows


def sweep(
    rows: MemoryRows, days_later: int = 0, hours_later: int = 0, entries_max: int = 10**9
) -> list[BalanceReport]:
    """Run a whole sweep, and return the new reports."""
    before = len(rows.observation_stream)
    queue, now = MemorySweepQueue(), NOW + timedelta(days=days_later, hours=hours_later)
    queue.send([Step(sweep="balance_reports", day=now.date(), number=0)])
    poller = Poller(BalanceReportSweep(rows, entries_max), queue, now)  # type: ignore[arg-type]
    poller.run()
    assert poller.dead == []
    reports = rows.observation_stream[before:]
    assert all(isinstance(report, BalanceReport) for report in reports)
    return sorted(reports, key=lambda report: report.team_id)  # type: ignore[arg-type, return-value]


def burned_of(report: BalanceReport) -> dict[str, tuple[int, ...]]:
    return {
        str(a.principal): tuple(burned // CREDIT for burned in a.burned_microcredits)
        for a in report.accounts
    }


def test_each_team_gets_one_report_of_its_accounts(rows: CountingRows) -> None:
    acme, bigcorp = sweep(rows)

    assert burned_of(acme) == {"user:ana": (10, 70, 300), "user:ben": (0, 0, 0)}
    assert acme.available_microcredits == (600 + 1_000) * CREDIT
    assert burned_of(bigcorp) == {"team:bigcorp": (0, 0, 0)}
    assert [notice_of(report).type for report in (acme, bigcorp)] == ["balance_report"] * 2


def test_a_report_names_the_limits_that_are_nearly_used(rows: CountingRows) -> None:
    team = team_with(limit("team", "100"), limit("member", "1000", "week"))
    rows.teams["acme"] = team
    for number, (principal, user) in enumerate([(ANA, "ana"), (BEN, "ben")]):
        change = run_change(usage(f"l-{number}", "35", user=user, run=f"run-l-{number}"), team)
        commit_changes(rows, principal, [change], now=NOW, pause=pause)

    acme, bigcorp = sweep(rows)

    (of_team,) = acme.limits
    assert (of_team.scope, of_team.drawn_microcredits) == ("team", 70 * CREDIT)
    assert bigcorp.limits == ()


def test_a_team_without_limits_reads_none(
    rows: CountingRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "read_limits", None)

    assert [report.limits_count for report in sweep(rows)] == [0, 0]


def test_a_second_sweep_on_the_same_day_reports_nothing_and_reads_no_page(
    rows: CountingRows,
) -> None:
    sweep(rows)
    pages_read = rows.pages_read

    assert sweep(rows, hours_later=1) == []

    assert rows.pages_read == pages_read


def test_the_next_day_reads_only_new_pages(rows: CountingRows) -> None:
    sweep(rows)
    rows.pages_read = 0
    burn(rows, ANA, 0, *[usage(f"new-{n}", "1", run="run-new") for n in range(16)])

    acme, _ = sweep(rows, days_later=1)

    assert burned_of(acme)["user:ana"] == (16, 16 + 60, 16 + 290)
    assert rows.pages_read <= 3


@pytest.mark.parametrize("entries_max", [1, 8, 20, 10**9])
def test_a_long_ledger_is_counted_in_visits_to_the_same_report(
    rows: CountingRows, entries_max: int
) -> None:
    acme, bigcorp = sweep(rows, entries_max=entries_max)

    assert burned_of(acme) == {"user:ana": (10, 70, 300), "user:ben": (0, 0, 0)}
    assert burned_of(bigcorp) == {"team:bigcorp": (0, 0, 0)}
    assert rows.pages_read == len(rows.pages), "each page is read once, in however many visits"


def test_a_visit_reads_a_bounded_number_of_entries(rows: CountingRows) -> None:
    swept = BalanceReportSweep(rows, entries_max=8)

    outcome = swept.visit(rows.teams["acme"], TODAY, NOW)

    assert not outcome.is_done
    assert rows.pages_read <= 2
    assert rows.observation_stream == []


def test_counting_day_by_day_gives_the_same_report_as_the_whole_ledger(rows: CountingRows) -> None:
    for day in range(5):
        burn(rows, ANA, -day, usage(f"later-{day}", "3", run=f"later-{day}"))
        sweep(rows, days_later=day)

    (report, _) = sweep(rows, days_later=5)

    today = (NOW + timedelta(days=5)).date()
    whole = burn_of(history(rows, ANA), first_day(today))
    (ana,) = [a for a in report.accounts if a.principal == ANA]
    assert ana.burned_microcredits == tuple(burned_over(whole, d, today) for d in (1, 7, 30))


def test_a_count_keeps_only_the_days_that_a_report_shows(rows: CountingRows) -> None:
    sweep(rows)
    burn(rows, ANA, -60, *[usage(f"late-{n}", "1", run="late") for n in range(20)])

    sweep(rows, days_later=61)

    kept = rows.read_burn_counts([ANA])[ANA].by_day
    assert kept
    assert min(kept) >= first_day((NOW + timedelta(days=61)).date())


def test_a_visit_that_fails_is_repeated_and_the_report_is_put_once(rows: CountingRows) -> None:
    swept = BalanceReportSweep(rows)
    rows.fails = True
    with pytest.raises(RowsUnavailable):
        swept.visit(rows.teams["acme"], TODAY, NOW)
    rows.fails = False

    outcomes = [swept.visit(rows.teams["acme"], TODAY, NOW) for _ in range(2)]

    assert [outcome.counts["BalanceReports"] for outcome in outcomes] == [1, 0]
    assert len(rows.observation_stream) == 1


def test_a_count_of_a_parallel_visit_counts_no_page_twice(
    rows: CountingRows,
) -> None:
    class OvertakenRows(CountingRows):
        def read_accounts_of(self, principals: Any) -> Any:
            # Just before: a commit flushes the open page, and another visit counts it.
            found = super().read_accounts_of(principals)
            if not self.is_overtaken:
                self.is_overtaken = True
                burn(self, ANA, 0, *[usage(f"mean-{n}", "1", run="mean") for n in range(20)])
                BalanceReportSweep(self).visit(self.teams["acme"], TODAY, NOW)
                self.observations.clear()
            return found

        is_overtaken = False

    overtaken = OvertakenRows()
    overtaken.__dict__.update(rows.__dict__)

    BalanceReportSweep(overtaken).visit(rows.teams["acme"], TODAY, NOW)

    (report,) = overtaken.observation_stream[-1:]
    assert isinstance(report, BalanceReport)
    assert burned_of(report)["user:ana"] == (10, 70, 300)


def test_a_user_of_two_teams_is_shown_in_both(rows: CountingRows) -> None:
    acme = rows.teams["acme"]
    rows.teams["twins"] = acme.model_copy(update={"team_id": "twins", "members": {"ana"}})

    reports = {report.team_id: burned_of(report) for report in sweep(rows)}

    assert reports["acme"]["user:ana"] == reports["twins"]["user:ana"] == (10, 70, 300)


def test_an_unreadable_team_does_not_affect_the_others(rows: CountingRows) -> None:
    acme = rows.teams["acme"]
    tenures = tuple(t.model_copy(update={"policy_version": "gone"}) for t in acme.tenures)
    rows.teams["unbilled"] = acme.model_copy(update={"team_id": "unbilled", "tenures": tenures})
    rows.unreadable.add("TEAM#bigcorp")

    reports = sweep(rows)

    assert [report.team_id for report in reports] == ["acme"]


def test_a_member_without_an_account_is_left_out(rows: CountingRows) -> None:
    (acme, _) = sweep(rows)

    assert str(OLGA) not in burned_of(acme)
    assert acme.accounts_count == 2
