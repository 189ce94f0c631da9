"""Every interleaving of two workers over two accounts that share a limit: the real commit.

As the model of the write protocol, which it extends: a delivery may be of one account or of both,
in time or too late: after a reservation expired, or in the limit's next period, whatever the other
worker's clock says. A transaction may be lost, with any of the rows that moved in its answer; its
own answer may be lost; and once per batch it may conflict. In each state, invariants 17 and 18 are
added up from the entries of both accounts alone.

No page is full here. What flushing adds is in the model of the write protocol.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from agent_credits.billing.limits import TeamLimit
from agent_credits.billing.teams import bill
from agent_credits.commit.changes import AlreadyRecorded, Recorded, RunChange
from agent_credits.commit.rows import LostTogether
from agent_credits.commit.together import commit_changes, commit_together
from agent_credits.commit.write_protocol import Committed, commit
from agent_credits.ledger.accounts import Account, held_under
from agent_credits.ledger.entries import Identity, Page, Receipt
from agent_credits.ledger.limits import HELD_BUCKET, LONG_AGO, LimitKey, LimitRow
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows
from tests.simulation.reservation_invariants import ReservationInvariants
from tests.simulation.violation import check
from tests.simulation.world import RESERVING_POLICIES
from tests.simulation.write_protocol_model import Answered, Asked, Model, State, Worker
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    MINUTE,
    NOW,
    finished,
    grant_change,
    parsed,
    pause,
    requested,
    usage,
)
from tests.unit.limit_world import limit, team_with

# A run that asks for it reserves for ten minutes.
POLICY = RESERVING_POLICIES["r2"]
LIMIT = 10_000_000
OF_TEAM = LimitKey("acme", "team", "acme", "day")
IN_TIME, EXPIRED = NOW + MINUTE, NOW + 16 * MINUTE
NEXT_DAY = NOW + timedelta(days=1)


@dataclass(frozen=True)
class LimitMutant:
    """One way in which the rows can be wrong, or the call that writes them together."""

    limit_version: bool = True
    together: bool = True


class Stored(NamedTuple):
    """All rows there are, as one value."""

    accounts: tuple[Account, ...]
    limit: LimitRow | None = None


class Outcomes(NamedTuple):
    """What became of a batch: the events that are recorded."""

    recorded: frozenset[int]


class AnsweredTogether(Answered):
    """Rows that answer from a recorded sequence; without pages there is nothing in the ledger."""

    def read_accounts_of(self, principals: Collection[Principal]) -> Mapping[Principal, Account]:
        found: Stored = self._next("read_accounts_of", tuple(principals))
        return {a.principal: a for a in found.accounts if a.principal in principals}

    def read_limits(self, keys: Collection[LimitKey]) -> Mapping[LimitKey, LimitRow]:
        row: LimitRow | None = self._next("read_limits", tuple(keys))
        return {row.key: row} if row is not None else {}

    def read_receipts(self, _: Collection[Identity]) -> Mapping[Identity, Receipt]:
        return {}

    def read_run(self, _: str) -> tuple[Receipt, ...]:
        return ()

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        return self._next("compare_and_set_together", (tuple(accounts), tuple(limits)))

    def put_page(self, page: Page) -> None:
        raise AssertionError(f"page {page.number} is not full")


class LimitModel(Model):
    """`before`: what was committed before the two workers begin."""

    def __init__(
        self,
        changes: Sequence[RunChange],
        *,
        before: Sequence[RunChange] = (),
        deliveries: tuple[int, ...],
        clocks: tuple[datetime, ...],
        mutant: LimitMutant = LimitMutant(),
    ) -> None:
        super().__init__(
            changes, entries_full=100, overlaps=False, clocks=clocks, deliveries=deliveries
        )
        self._limit_mutant = mutant
        rows = MemoryRows()
        for principal in (ANA, BEN):
            opens = grant_change(f"g-{principal.id}", credits="50", principal=principal)
            commit(rows, principal, [opens], now=NOW, pause=pause, opens_account=True)
        for change in before:
            commit_changes(rows, change.billing.principal, [change], now=NOW, pause=pause)
        self._first = self._first._replace(row=self._intern(_stored(rows)))

    def _steps_of(self, state: State, number: int, worker: Worker) -> Iterator[State]:
        if worker.unput >= 0:
            # The limit's row, by a worker that writes it apart.
            written = self._written(state, (), (self._values[worker.unput],))
            yield self._answered(written, number, worker._replace(unput=-1), None)
            return
        step: Any = self._next_step(worker)
        if isinstance(step, Outcomes):
            acknowledged = state.acknowledged | step.recorded
            yield self._with(state, number, Worker())._replace(acknowledged=acknowledged)
            return
        there: Stored = self._values[state.row]
        match step.name:
            case "read_account":
                yield self._answered(state, number, worker, _of(there, step.argument))
            case "read_accounts_of":
                yield self._answered(state, number, worker, there)
            case "read_limits":
                yield self._answered(state, number, worker, there.limit)
            case "compare_and_set":
                yield from self._write(state, number, worker, (step.argument,), ())
            case "compare_and_set_together":
                yield from self._write(state, number, worker, *step.argument)
            case _:
                raise AssertionError(f"nobody answers {step.name}")

    def _write(
        self,
        state: State,
        number: int,
        worker: Worker,
        accounts: tuple[Account, ...],
        limits: tuple[LimitRow, ...],
    ) -> Iterator[State]:
        there: Stored = self._values[state.row]
        moved = [
            stored
            for account in accounts
            if (stored := _of(there, account.principal)).version != account.version - 1
        ]
        moved_limits = [
            there.limit
            for row in limits
            if there.limit is not None
            and self._limit_mutant.limit_version
            and there.limit.version != row.version - 1
        ]
        if limits and not self._has_conflicted(worker):
            yield self._answered(state, number, worker, LostTogether(conflicts=True))
        if moved or moved_limits:
            if limits:
                for lost in _some_of(moved, moved_limits):
                    yield self._answered(state, number, worker, lost)
            else:
                yield self._answered(state, number, worker, moved[0])
            return
        if limits and not self._limit_mutant.together:
            written = self._written(state, accounts, ())
            apart = worker._replace(unput=self._intern(limits[0]))
            yield self._with(written, number, apart)
            return
        written = self._written(state, accounts, limits)
        yield self._answered(written, number, worker, None)
        # The answer is lost, and the SDK, trying again, is told of the rows that it wrote itself.
        itself = LostTogether(accounts, limits) if limits else accounts[0]
        yield self._answered(written, number, worker, itself)

    def _written(
        self, state: State, accounts: tuple[Account, ...], limits: tuple[LimitRow, ...]
    ) -> State:
        there: Stored = self._values[state.row]
        new = {account.principal: account for account in accounts}
        rows = tuple(new.get(account.principal, account) for account in there.accounts)
        stored = Stored(rows, limits[0] if limits else there.limit)
        return state._replace(row=self._intern(stored))

    def _has_conflicted(self, worker: Worker) -> bool:
        answers = (self._values[answer] for answer in self._values[worker.answers])
        return any(isinstance(answer, LostTogether) and answer.conflicts for answer in answers)

    def _replay(self, worker: Worker) -> Any:
        rows = AnsweredTogether([self._values[number] for number in self._values[worker.answers]])
        changes: dict[Principal, list[RunChange]] = {}
        events: dict[Principal, list[int]] = {}
        for event in worker.batch:
            change = self._changes[event]
            assert isinstance(change, RunChange)
            changes.setdefault(change.billing.principal, []).append(change)
            events.setdefault(change.billing.principal, []).append(event)
        try:
            outcomes = commit_together(rows, changes, now=self._clocks[worker.clock], pause=pause)
        except Asked as asked:
            return asked
        recorded: set[int] = set()
        for principal, outcome in outcomes.items():
            assert isinstance(outcome, Committed), f"nothing but a race stops a commit: {outcome}"
            for event, result in zip(events[principal], outcome.results, strict=True):
                if isinstance(result, Recorded | AlreadyRecorded):
                    recorded.add(event)
        return Outcomes(frozenset(recorded))

    def _recorded(self, row: Any, _: Any) -> frozenset[int]:
        stored: Stored = row
        identities: list[Identity] = []
        drawn: Counter[datetime] = Counter()
        of_runs: Counter[tuple[str, datetime]] = Counter()
        held: Counter[datetime] = Counter()
        latest = NOW
        for account in stored.accounts:
            ReservationInvariants().commit(account, account.entries)
            latest = max(latest, account.entries[-1].recorded_at)
            for entry in account.entries:
                identities.append(entry.identity)
                for counted in entry.limits.counted:
                    drawn[counted.ends_at] += counted.microcredits
                    of_runs[entry.identity.subject, counted.ends_at] += counted.microcredits
            held.update(held_under(account, OF_TEAM))
        check(len(set(identities)) == len(identities), "each event has one outcome")
        least = min(of_runs.values(), default=0)
        check(least >= 0, "no more comes back in a period than the run drew in it")
        check(max(drawn.values(), default=0) <= LIMIT, "a limit is never passed")
        self._check_row(stored.limit, drawn, held, latest)
        return frozenset(n for n, c in enumerate(self._changes) if c.identity in identities)

    @staticmethod
    def _check_row(
        row: LimitRow | None, drawn: Counter[datetime], held: Counter[datetime], latest: datetime
    ) -> None:
        there = row or LimitRow(OF_TEAM, LONG_AGO)
        newest = max((ends_at for ends_at, sum_of in drawn.items() if sum_of), default=LONG_AGO)
        check(newest <= there.ends_at, "what is drawn moves the row, in the newest period there is")
        is_sum = there.drawn_microcredits == drawn[there.ends_at]
        check(is_sum, "the row is the sum of its accounts")
        on_row = dict(there.held)
        for until in {*held, *on_row}:
            if until > latest:
                check(on_row.get(until, 0) >= held[until], "the row holds what is reserved")
            if until > latest + HELD_BUCKET:
                check(on_row.get(until, 0) == held[until], "the row holds no more")


def _stored(rows: MemoryRows) -> Stored:
    return Stored(tuple(rows.accounts.values()), rows.limits.get(OF_TEAM))


def _of(stored: Stored, principal: Principal) -> Account:
    return next(account for account in stored.accounts if account.principal == principal)


def _some_of(accounts: Sequence[Account], limits: Sequence[LimitRow]) -> Iterator[LostTogether]:
    """Yield every way to name at least one of the rows that moved."""
    rows = [*accounts, *limits]
    for size in range(1, len(rows) + 1):
        for named in itertools.combinations(rows, size):
            yield LostTogether(
                tuple(row for row in named if isinstance(row, Account)),
                tuple(row for row in named if isinstance(row, LimitRow)),
            )


def limited(*documents: dict[str, Any], limits: Sequence[TeamLimit] = ()) -> list[RunChange]:
    team = team_with(*(limits or (limit("team", "10", "day"),)), team=ACME)
    changes = []
    for document in documents:
        event = parsed(document)
        changes.append(RunChange(event, bill(event, team, POLICY)))  # type: ignore[arg-type]
    return changes


def of_ben(document: dict[str, Any]) -> dict[str, Any]:
    trigger = {"kind": "user", "user_id": "ben"}
    return {**document, "data": {**document["data"], "trigger": trigger}}


RESERVED = limited(requested("r-1", run="run-1", credits="8", reserve="estimate"))

DRAWN = limited(of_ben(usage("u-0", "2", run="run-9")))

DRAWS = limited(usage("u-1", "6"), of_ben(usage("u-2", "6", run="run-2")))
GIVES_BACK = limited(usage("u-1", "6"), finished("f-1", "error"), usage("u-3", "7", run="run-3"))
SETTLES = limited(
    usage("u-1", "3", run="run-1"),
    finished("f-1", run="run-1"),
    of_ben(usage("u-2", "6", run="run-2")),
)
# The account that reserved before has one event, or none until the others are done.
EXPIRES_IDLE = limited(
    of_ben(requested("r-2", run="run-2", credits="8", reserve="estimate")),
    of_ben(usage("u-2", "9", run="run-2")),
    usage("u-1", "3", run="run-1"),
)
