"""Every interleaving of two workers over one account whose runs reserve: the real `commit`.

As the model of the write protocol, which it extends: every delivery may also come in time or after
reservations have expired, whatever the other worker's clock says. In each state, invariants 13 to
16 are added up from the ledger alone, and an event that is rejected contradicts the row as it is at
that moment.

One of the workers may run the code of before reservations. It reads a row as that code does: it
needs `grants`, does not know what else is new, and writes what it knows.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from msgspec.structs import replace

from agent_credits.aws.items import account_from_item, account_item
from agent_credits.billing.teams import Team, bill
from agent_credits.commit.changes import Change, ReloadGranted, RunChange
from agent_credits.commit.write_protocol import Committed, commit
from agent_credits.events.agent_runs import Rejection
from agent_credits.ledger import accounts
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import NO_RESERVATION, Page, Receipt
from tests.memory_rows import MemoryRows
from tests.simulation.reservation_invariants import ReservationInvariants
from tests.simulation.world import RESERVING_POLICIES
from tests.simulation.write_protocol_model import (
    CORRECT,
    Model,
    Mutant,
    State,
    Worker,
)
from tests.unit.builders import (
    ACME,
    ANA,
    MINUTE,
    NOW,
    RELOADING_ACME,
    finished,
    grant_change,
    parsed,
    pause,
    requested,
    usage,
)
from tests.unit.reservation_world import extended

# A run that asks for it reserves for ten minutes, and pauses past a grace of two credits.
POLICY = RESERVING_POLICIES["r2"]
IN_TIME, TOO_LATE = NOW + MINUTE, NOW + 11 * MINUTE
# Between the two, one of the account's grants expires as well.
SOON = NOW + 5 * MINUTE
# What the code of before knows.
OLD_TYPES = ("agent_run.usage", "agent_run.finished")
# What an event is rejected for that finds no live reservation of its run.
NO_LIVE_ONE = ("no_reservation", "reservation_ended", "run_ended")


def without_reservations(account: Account) -> Account:
    """Return what the code of before reservations knows of a row."""
    entries = tuple(replace(entry, reservation=NO_RESERVATION) for entry in account.entries)
    return replace(account, reservations=(), entries=entries)


def reserving(*documents: dict[str, Any], team: Team = ACME) -> list[RunChange]:
    changes = []
    for document in documents:
        event = parsed(document)
        changes.append(RunChange(event, bill(event, team, POLICY)))  # type: ignore[arg-type]
    return changes


class ReservationModel(Model):
    """`before`: what was committed before the two workers begin."""

    def __init__(
        self,
        before: Sequence[Change],
        changes: Sequence[Change],
        *,
        entries_full: int = 2,
        deliveries: tuple[int, ...] = (2, 1, 1),
        mutant: Mutant = CORRECT,
        one_is_old: bool = False,
        renames_grants: bool = True,
    ) -> None:
        super().__init__(
            changes,
            entries_full=entries_full,
            mutant=mutant,
            overlaps=False,
            clocks=(IN_TIME, TOO_LATE),
            deliveries=deliveries,
        )
        self._renames_grants = renames_grants
        self._rows_as_old: dict[int, Account | None] = {}
        rows = MemoryRows()
        opens = grant_change("g-1", credits="20"), grant_change("g-2", "plan", "5", expires_at=SOON)
        with mock.patch.object(accounts, "PAGE_ENTRIES_FULL", entries_full):
            commit(rows, ANA, opens, now=NOW, pause=pause, opens_account=True)
            for change in before:
                commit(rows, ANA, [change], now=NOW, pause=pause)
        self._first = self._first._replace(
            row=self._intern(rows.accounts[ANA]),
            ledger=self._intern(frozenset([*rows.pages.values(), *rows.receipts.values()])),
            workers=(Worker(), Worker(is_old=one_is_old)),
        )

    def _deliveries_to(self, state: State, number: int, worker: Worker) -> Iterator[State]:
        for delivered in super()._deliveries_to(state, number, worker):
            batch = delivered.workers[number].batch
            if not worker.is_old or all(self._is_old(self._changes[event]) for event in batch):
                yield delivered

    @staticmethod
    def _is_old(change: Change) -> bool:
        return isinstance(change, RunChange) and change.event.type in OLD_TYPES

    def _answered(self, state: State, number: int, worker: Worker, answer: Any) -> State:
        if worker.is_old and isinstance(answer, Account):
            answer = self._read_by_old_code(answer)
            if answer is None:
                # The row is not understood: the messages go back, and what was warm is dropped.
                return self._with(state, number, Worker(is_old=True))
        answers = (*self._values[worker.answers], self._intern(answer))
        after = worker._replace(answers=self._intern(answers))
        step = self._next_step(after)
        if isinstance(step, Committed):
            self._check_rejections(self._values[state.row], after, step)
        return self._with(state, number, after)

    def _compare_and_set(
        self, state: State, number: int, worker: Worker, account: Account
    ) -> Iterator[State]:
        if worker.is_old:
            account = without_reservations(account)
        return super()._compare_and_set(state, number, worker, account)

    def _read_by_old_code(self, row: Account) -> Account | None:
        number = self._intern(row)
        if number not in self._rows_as_old:
            item = account_item(row)
            if "grants" not in item and self._renames_grants:
                self._rows_as_old[number] = None
            else:
                self._rows_as_old[number] = without_reservations(account_from_item(item))
        return self._rows_as_old[number]

    def _check_rejections(self, row: Account, worker: Worker, committed: Committed) -> None:
        """Check that what is rejected contradicts the newest row, by the worker's clock."""
        now = self._clocks[worker.clock]
        if row.entries:
            now = max(now, row.entries[-1].recorded_at)
        live = {held.run_id for held in row.reservations if held.is_live(now)}
        for event, result in zip(worker.batch, committed.results, strict=True):
            if not isinstance(result, Rejection):
                continue
            change = self._changes[event]
            assert isinstance(change, RunChange)
            if result.code in NO_LIVE_ONE and change.event.type != "agent_run.requested":
                assert change.event.subject not in live, "no live reservation is taken for ended"

    def _recorded(self, row: Account, ledger: frozenset[Page | Receipt]) -> frozenset[int]:
        pages = {item.number: item for item in ledger if isinstance(item, Page)}
        entries = []
        for number in range(1, row.page_number):
            assert number in pages, "the ledger holds every page before the row's"
            entries += pages[number].entries
        entries += row.entries
        identities = [entry.identity for entry in entries]
        assert len(set(identities)) == len(identities), "each event has one outcome"
        ReservationInvariants().commit(row, entries)
        over = [held for held in row.reservations if not held.is_live(entries[-1].recorded_at)]
        assert not over, "a reservation whose time is over ends with the next commit"
        return frozenset(
            n for n, change in enumerate(self._changes) if change.identity in identities
        )


def reserves(run: str, credits: str, **fields: Any) -> dict[str, Any]:  # noqa: A002
    return requested(f"r-{run}", run=run, credits=credits, reserve="estimate", **fields)


FIRST = reserving(reserves("run-1", "8"))
OTHER_RUN = usage("u-9", "4", run="run-9")

SETTLES = reserving(usage("u-1", "3"), finished("f-1"), OTHER_RUN)
FAILS = reserving(usage("u-1", "3"), finished("f-1", "error"), reserves("run-2", "14"))
EXTENDS = reserving(
    extended("x-1", run="run-1", credits="2", ttl_seconds=3_600), usage("u-1", "11"), OTHER_RUN
)
HAS_CHILD = reserving(
    reserves("run-2", "4", parent_run_id="run-1"), usage("u-2", "6", run="run-2"), finished("f-1")
)
# The second run waits for the reload that the first commit asks for.
WAITS = reserving(reserves("run-1", "22"), reserves("run-2", "10"), team=RELOADING_ACME)
RELOADED: list[Change] = [
    WAITS[1],
    ReloadGranted(ANA, "reload:user:ana:3", "acme", "add_on", 20_000_000, 1, 1_000, "usd"),
    *reserving(finished("f-1"), team=RELOADING_ACME),
]
UNKNOWN_AT_FIRST = reserving(
    reserves("run-2", "4"), extended("x-1", run="run-2", credits="2"), OTHER_RUN
)
MIXED = reserving(reserves("run-1", "8"), usage("u-1", "3"), OTHER_RUN)
