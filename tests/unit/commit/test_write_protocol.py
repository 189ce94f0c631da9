from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.commit.changes import AlreadyRecorded, Conflicting, Recorded, Waiting
from agent_credits.commit.read_ahead import Ahead, read_ahead
from agent_credits.commit.write_protocol import (
    ATTEMPTS_MAX,
    CHANGES_PER_COMMIT_MAX,
    Committed,
    commit,
)
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity, Page, Receipt
from agent_credits.ledger.reloads import Reload, ReloadTerms
from agent_credits.values.errors import (
    AccountMissing,
    AccountTooLarge,
    Contended,
    InvariantViolated,
    RowsUnavailable,
)
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ANA,
    BEN,
    NOW,
    finished,
    grant_change,
    history,
    open_account,
    pause,
    remaining_by_grant,
    remaining_on,
    requested,
    run_changes,
    usage,
)


class Crash(BaseException):
    """The worker is gone; nothing catches this."""


class CountingRows(MemoryRows):
    """Rows that note the calls made to them, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def read_account(self, principal: Principal) -> Account | None:
        self.calls.append("read_account")
        return super().read_account(principal)

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        if identities:
            self.calls.append("read_receipts")
        return super().read_receipts(identities)

    def read_run(self, run_id: str) -> Any:
        self.calls.append("read_run")
        return super().read_run(run_id)

    def compare_and_set(self, account: Account) -> Account | None:
        self.calls.append("compare_and_set")
        return super().compare_and_set(account)

    def put_page(self, page: Page) -> None:
        self.calls.append("put_page")
        super().put_page(page)


class FaultyRows(MemoryRows):
    """Rows of which one call fails: before it does anything, after it has, or half-way."""

    def __init__(self, fails_at: int, moment: str, fault: BaseException) -> None:
        super().__init__()
        self._fails_at = fails_at
        self._moment = moment
        self._fault = fault
        self.calls = 0
        self.armed = False

    @property
    def has_failed(self) -> bool:
        return self.calls > self._fails_at

    def _call(self, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        fails = self.armed and self.calls == self._fails_at
        self.calls += self.armed
        if not fails:
            return act()
        if self._moment == "after":
            act()
        if self._moment == "half-way" and half is not None:
            half()
        raise self._fault

    def read_account(self, principal: Principal) -> Account | None:
        return self._call(lambda: MemoryRows.read_account(self, principal))

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        return self._call(lambda: MemoryRows.read_receipts(self, identities))

    def read_run(self, run_id: str) -> Any:
        return self._call(lambda: MemoryRows.read_run(self, run_id))

    def compare_and_set(self, account: Account) -> Account | None:
        return self._call(lambda: MemoryRows.compare_and_set(self, account))

    def put_page(self, page: Page) -> None:
        half = Page(page.principal, page.number, page.entries[: len(page.entries) // 2])
        self._call(
            lambda: MemoryRows.put_page(self, page),
            lambda: [
                self.receipts.setdefault(e.identity, Receipt(page.principal, page.number, e))
                for e in half.entries
            ],
        )


class RivalRows(MemoryRows):
    """Rows on which a rival commits just before each of the next compare-and-sets."""

    def __init__(self) -> None:
        super().__init__()
        self.rivals_to_come = 0
        self.rival_events = 0

    def compare_and_set(self, account: Account) -> Account | None:
        if self.rivals_to_come > 0:
            to_come, self.rivals_to_come = self.rivals_to_come - 1, 0
            self.rival_events += 1
            send(self, usage(f"rival-{self.rival_events}"))
            self.rivals_to_come = to_come
        return super().compare_and_set(account)


def read_ahead_for(rows: MemoryRows, *documents: dict[str, Any]) -> Ahead:
    return read_ahead(rows, {ANA: run_changes(*documents)}, {})[ANA]


def send(rows: MemoryRows, *documents: dict[str, Any], warm: Account | None = None) -> Committed:
    return commit(rows, ANA, run_changes(*documents), now=NOW, pause=pause, warm=warm)


TERMS = ReloadTerms("acme", 1, ("add_on",), 50_000_000, 5, timedelta(hours=1))
REQUESTED = Reload(
    id="reload-1",
    team_id="acme",
    pools=("add_on",),
    state="requested",
    wanted_microcredits=1_000_000_000,
    settings_version=1,
    since=NOW,
    until=NOW + timedelta(minutes=5),
)


def send_reloading(rows: MemoryRows, *documents: dict[str, Any]) -> Committed:
    changes = [
        replace(change, billing=replace(change.billing, reload=TERMS))
        for change in run_changes(*documents)
    ]
    return commit(rows, ANA, changes, now=NOW, pause=pause)


EVENTS = [
    *[usage(f"e{number}", run=f"run-{number % 3}") for number in range(9)],
    finished("end", "error", run="run-1"),
    usage("late", run="run-1"),
    usage("too-much", "500", run="run-2"),
    usage("much-too-much", "500", run="run-2"),
]


def test_the_row_is_read_before_the_receipts_and_flushed_before_it_is_set() -> None:
    rows = CountingRows()
    fill_page(rows)
    rows.calls.clear()

    send(rows, usage("e7"))

    assert rows.calls == ["read_account", "put_page", "read_receipts", "compare_and_set"]


def fill_page(rows: MemoryRows) -> Account:
    open_account(rows)
    for number in range(7):
        send(rows, usage(f"e{number}"))
    assert rows.accounts[ANA].page_is_full
    return rows.accounts[ANA]


def test_what_was_read_ahead_is_not_read_again_and_its_page_is_flushed_once() -> None:
    rows = CountingRows()
    fill_page(rows)
    ahead = read_ahead_for(rows, usage("e7"))
    rows.calls.clear()

    committed = commit(rows, ANA, run_changes(usage("e7")), now=NOW, pause=pause, ahead=ahead)

    assert rows.calls == ["compare_and_set"]
    assert committed.account.page_number == 2
    assert rows.pages.keys() == {(ANA, 1)}


def test_a_page_that_reading_ahead_left_alone_is_flushed_by_the_commit() -> None:
    rows = CountingRows()
    rows.accounts[ANA] = replace(fill_page(rows), reload=REQUESTED)
    ahead = read_ahead_for(rows, usage("e7", "1"))
    assert rows.pages == {}
    rows.calls.clear()

    commit(rows, ANA, run_changes(usage("e7", "1")), now=NOW, pause=pause, ahead=ahead)

    assert rows.calls == ["put_page", "compare_and_set"]


@pytest.mark.parametrize("events_meanwhile", [1, 7, 20])
def test_what_others_commit_after_reading_ahead_is_neither_repeated_nor_lost(
    events_meanwhile: int,
) -> None:
    rows = CountingRows()
    open_account(rows)
    ahead = read_ahead_for(rows, usage("e0"), usage("new"))
    for number in range(events_meanwhile):
        send(rows, usage(f"e{number}"))

    committed = commit(
        rows,
        ANA,
        run_changes(usage("e0"), usage("new")),
        now=NOW,
        pause=pause,
        ahead=ahead,
    )

    assert [type(result) for result in committed.results] == [AlreadyRecorded, Recorded]
    ids = [entry.identity.id for entry in history(rows, ANA) if entry.identity.realm == "RUN"]
    assert sorted(ids) == sorted([*(f"e{n}" for n in range(events_meanwhile)), "new"])


def test_what_was_read_ahead_serves_only_the_changes_that_were_looked_up() -> None:
    rows = CountingRows()
    open_account(rows)
    ahead = read_ahead_for(rows, usage("e1"))

    with pytest.raises(InvariantViolated):
        commit(rows, ANA, run_changes(usage("e2")), now=NOW, pause=pause, ahead=ahead)


def test_an_account_that_does_not_exist_is_left_out_of_what_is_read_ahead() -> None:
    rows = CountingRows()
    open_account(rows)
    changes_of = {ANA: run_changes(usage("e1")), BEN: run_changes(usage("e2", user="ben"))}

    assert read_ahead(rows, changes_of, {}).keys() == {ANA}


def test_events_that_wait_for_a_reload_flush_nothing() -> None:
    rows = CountingRows()
    rows.accounts[ANA] = replace(fill_page(rows), reload=REQUESTED)
    rows.calls.clear()

    committed = send_reloading(rows, usage("e7", "1000"))

    assert committed.results == (Waiting(REQUESTED.id),)
    assert "put_page" not in rows.calls


def test_events_that_need_not_wait_for_a_reload_are_committed_after_the_flush() -> None:
    rows = CountingRows()
    rows.accounts[ANA] = replace(fill_page(rows), reload=REQUESTED)
    rows.calls.clear()

    send_reloading(rows, usage("e7", "1"))

    assert rows.calls == ["read_account", "read_receipts", "put_page", "compare_and_set"]


def test_a_page_that_is_not_full_is_never_flushed() -> None:
    rows = CountingRows()
    open_account(rows)

    for number in range(7):
        send(rows, usage(f"e{number}"))

    assert "put_page" not in rows.calls
    assert rows.pages == {}


def test_a_warm_worker_reads_no_row() -> None:
    rows = CountingRows()
    warm = open_account(rows)
    rows.calls.clear()

    committed = send(rows, usage("e1"), warm=warm)

    assert rows.calls == ["read_receipts", "compare_and_set"]
    assert committed.account == rows.accounts[ANA]
    assert committed.retries == 0


def test_a_repeat_that_is_on_the_page_costs_no_call_at_all() -> None:
    rows = CountingRows()
    open_account(rows)
    warm = send(rows, usage("e1")).account
    rows.calls.clear()

    committed = send(rows, usage("e1"), warm=warm)

    assert rows.calls == []
    assert isinstance(committed.results[0], AlreadyRecorded)


def test_an_account_is_opened_only_by_who_may_open_it() -> None:
    rows = MemoryRows()

    with pytest.raises(AccountMissing, match="user:ana has no account"):
        send(rows, usage("e1"))

    assert rows.accounts == {}


def test_two_that_open_an_account_at_once_both_get_into_it() -> None:
    rows = MemoryRows()
    unopened = Account(ANA)
    open_account(rows, grant_change("g-1"))

    committed = commit(
        rows,
        ANA,
        [grant_change("g-2")],
        now=NOW,
        pause=pause,
        warm=unopened,
        opens_account=True,
    )

    assert committed.retries == 1
    assert set(remaining_on(rows.accounts[ANA])) == {"g-1", "g-2"}


@pytest.mark.parametrize("count", [0, CHANGES_PER_COMMIT_MAX + 1])
def test_a_commit_holds_a_bounded_batch(count: int) -> None:
    rows = MemoryRows()
    open_account(rows)

    with pytest.raises(InvariantViolated):
        send(rows, *[usage(f"e{number}") for number in range(count)])


def test_a_batch_that_does_not_fit_the_row_leaves_nothing_behind() -> None:
    rows = MemoryRows()
    open_account(rows)
    grants = [grant_change(f"{number}-" + "g" * 120, "p" * 32) for number in range(400)]
    commit(rows, ANA, grants[:200], now=NOW, pause=pause)
    before = rows.accounts[ANA]

    with pytest.raises(AccountTooLarge, match=r"user:ana: a row of [\d,]+ bytes exceeds 65,536"):
        commit(rows, ANA, grants[200:], now=NOW, pause=pause)

    assert rows.accounts[ANA] == before
    assert remaining_by_grant(history(rows, ANA)) == remaining_on(before)


def test_a_lost_race_is_decided_anew_on_the_row_that_won() -> None:
    rows = RivalRows()
    open_account(rows, grant_change("g-1", credits="1"))
    rows.rivals_to_come = 1

    committed = send(rows, usage("e1"))

    (result,) = committed.results
    assert isinstance(result, Recorded)
    assert result.entry.outcome == "insufficient"
    assert committed.retries == 1
    assert committed.account.version == 3


def test_attempts_are_bounded_and_the_last_is_not_waited_after() -> None:
    rows = RivalRows()
    open_account(rows)
    rows.rivals_to_come = ATTEMPTS_MAX + 5
    waits: list[int] = []

    with pytest.raises(Contended, match="user:ana: lost 10 races in a row"):
        commit(rows, ANA, run_changes(usage("e1")), now=NOW, pause=waits.append)

    assert rows.rival_events == ATTEMPTS_MAX
    assert waits == list(range(1, ATTEMPTS_MAX))
    assert "e1" not in {entry.identity.id for entry in history(rows, ANA)}


def test_the_last_attempt_can_still_win() -> None:
    rows = RivalRows()
    open_account(rows)
    rows.rivals_to_come = ATTEMPTS_MAX - 1

    committed = send(rows, usage("e1"))

    assert committed.retries == ATTEMPTS_MAX - 1
    assert isinstance(committed.results[0], Recorded)


@pytest.mark.parametrize("events_meanwhile", [1, 3, 9, 30])
def test_a_stale_warm_row_neither_repeats_nor_loses_an_event(events_meanwhile: int) -> None:
    rows = MemoryRows()
    stale = open_account(rows)
    for number in range(events_meanwhile):
        send(rows, usage(f"e{number}"))

    committed = send(rows, usage("e0"), usage("new"), warm=stale)

    repeat, new = committed.results
    assert isinstance(repeat, AlreadyRecorded)
    assert isinstance(new, Recorded)
    assert remaining_by_grant(history(rows, ANA)) == remaining_on(rows.accounts[ANA])
    left = 100 - events_meanwhile - 1
    assert remaining_on(rows.accounts[ANA]) == {"g-1": left * 1_000_000}


def test_a_stale_warm_row_full_of_flushed_entries_is_flushed_again_alike() -> None:
    rows = MemoryRows()
    open_account(rows)
    stale = send(rows, *[usage(f"e{number}") for number in range(8)]).account
    for number in range(8, 30):
        send(rows, usage(f"e{number}"))
    pages = dict(rows.pages)

    send(rows, usage("new"), warm=stale)

    assert {key: rows.pages[key] for key in pages} == pages
    assert remaining_by_grant(history(rows, ANA)) == remaining_on(rows.accounts[ANA])


@pytest.mark.parametrize("events_meanwhile", [0, 1, 9, 30])
def test_a_stale_warm_row_gives_back_what_other_workers_debited(events_meanwhile: int) -> None:
    rows = MemoryRows()
    stale = open_account(rows)
    send(rows, usage("e1", "5"))
    for number in range(events_meanwhile):
        send(rows, requested(f"between-{number}", run="run-2"))

    committed = send(rows, finished("end", "error"), warm=stale)

    (result,) = committed.results
    assert isinstance(result, Recorded)
    assert result.entry.amount_microcredits == 5_000_000
    assert remaining_on(rows.accounts[ANA]) == {"g-1": 100_000_000}


def test_a_stale_warm_row_gives_back_what_came_from_a_grant_it_never_saw() -> None:
    rows = MemoryRows()
    stale = open_account(rows, grant_change("g-1", credits="1"))
    commit(rows, ANA, [grant_change("g-2", credits="50")], now=NOW, pause=pause)
    send(rows, usage("e1", "5"))
    for number in range(20):
        send(rows, requested(f"between-{number}", run="run-2"))

    send(rows, finished("end", "error"), warm=stale)

    assert remaining_on(rows.accounts[ANA]) == {"g-1": 1_000_000, "g-2": 50_000_000}


def test_a_stale_warm_row_gives_back_while_a_page_is_half_flushed() -> None:
    rows = MemoryRows()
    stale = open_account(rows)
    send(rows, usage("e1", "5"), finished("e2", "error"), requested("e3"))
    # A rival is in the middle of a flush: of this page one receipt is there, another is not.
    returned = next(e for e in rows.accounts[ANA].entries if e.identity.id == "e2")
    rows.receipts[returned.identity] = Receipt(ANA, 1, returned)

    (result,) = send(rows, finished("end", "error"), warm=stale).results

    assert isinstance(result, Recorded)
    assert result.entry.draws == ()
    assert remaining_on(rows.accounts[ANA]) == {"g-1": 100_000_000}


@pytest.mark.parametrize("keeps_warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("batch_size", [1, 3, 13])
@pytest.mark.parametrize("moment", ["before", "after", "half-way"])
@pytest.mark.parametrize("fault", [RowsUnavailable("throttled"), Crash()], ids=["fault", "crash"])
def test_a_fault_at_any_call_leaves_each_event_with_exactly_one_outcome(
    fault: BaseException, moment: str, batch_size: int, keeps_warm: bool
) -> None:
    batches = [EVENTS[start : start + batch_size] for start in range(0, len(EVENTS), batch_size)]
    faultless = MemoryRows()
    open_account(faultless)
    for batch in batches:
        send(faultless, *batch)
    fails_at = 0
    while True:
        rows = FaultyRows(fails_at, moment, fault)
        open_account(rows)
        rows.armed = True

        warm: Account | None = None
        for batch in batches:
            try:
                committed = send(rows, *batch, warm=warm)
            except (RowsUnavailable, Crash):
                committed = send(rows, *batch)
            warm = committed.account if keeps_warm else None
            assert not any(isinstance(r, Conflicting) for r in committed.results)

        assert remaining_on(rows.accounts[ANA]) == remaining_on(faultless.accounts[ANA])
        assert history(rows, ANA) == history(faultless, ANA)
        if not rows.has_failed:
            break
        fails_at += 1
    assert fails_at > 0


@pytest.mark.parametrize("keeps_warm", [True, False], ids=["warm", "cold"])
def test_a_write_whose_answer_was_lost_is_found_to_be_ones_own(keeps_warm: bool) -> None:
    class ToldOfItsOwnWrite(MemoryRows):
        """What the SDK makes of a lost answer: it tries again and is declined by its own write."""

        def compare_and_set(self, account: Account) -> Account | None:
            return super().compare_and_set(account) or account

    rows = ToldOfItsOwnWrite()
    opened = open_account(rows)

    committed = send(rows, usage("e1", "5"), warm=opened if keeps_warm else None)

    assert isinstance(committed.results[0], AlreadyRecorded)
    assert committed.account == rows.accounts[ANA]
    assert remaining_on(rows.accounts[ANA]) == {"g-1": 95_000_000}


def test_a_run_that_fails_costs_one_query_until_its_failure_is_on_the_page() -> None:
    rows = CountingRows()
    open_account(rows, grant_change("g-1", credits="1"))
    rows.calls.clear()

    send(rows, usage("e1", "5"))
    send(rows, usage("e2", "5"))

    assert rows.calls.count("read_run") == 1


def test_the_row_of_another_version_is_never_overwritten() -> None:
    rows = MemoryRows()
    open_account(rows)
    before = send(rows, usage("e1")).account
    after = send(rows, usage("e2")).account

    assert rows.compare_and_set(before) == after
    assert rows.accounts[ANA] == after
