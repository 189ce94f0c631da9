"""Debiting a batch of messages: read them, group their events by account, commit each group.

A message is done when every event in it is recorded: as an entry of its account, or as an
observation if it reports an error of a model provider. A fault in one message or one account does
not affect any other message.

Accounts are committed side by side, what a single account has to commit in order of arrival. What
many of them need is read for all of them together: settings, rows, then receipts. Accounts whose
runs share a limit are committed one after the other, many of them in one transaction.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar, assert_never

from msgspec import Struct
from msgspec.structs import replace

from agent_credits.billing.directory import Directory
from agent_credits.billing.teams import Billing
from agent_credits.commit.beside import moves_other_rows
from agent_credits.commit.changes import (
    AlreadyRecorded,
    Change,
    Conflicting,
    Recorded,
    Result,
    RunChange,
    Unsure,
    Waiting,
)
from agent_credits.commit.read_ahead import Ahead, read_ahead
from agent_credits.commit.rows import Rows
from agent_credits.commit.write_protocol import (
    ATTEMPTS_MAX,
    CHANGES_PER_COMMIT_MAX,
    Committed,
    Pause,
    commit,
)
from agent_credits.events.agent_runs import (
    AgentRunEvent,
    LedgerEvent,
    Message,
    ModelProviderErrorReported,
    Rejection,
    RunRequested,
    parse_message,
)
from agent_credits.events.signatures import Keys, why_not_authentic
from agent_credits.intake.debited_batch import DebitedBatch, Delivery, Outcome
from agent_credits.intake.dispositions import (
    Disposition,
    Rejected,
    RetryLater,
    RetrySoon,
    combined,
)
from agent_credits.intake.model_provider_errors import (
    ModelProviderErrors,
    ReportedModelProviderError,
    model_provider_error_of,
)
from agent_credits.intake.reservation_counts import expired_in
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry
from agent_credits.notices.rows import ObservationRows
from agent_credits.values.errors import (
    AccountMissing,
    AccountTooLarge,
    AgentCreditsError,
    Contended,
    MoreRowsNeeded,
    OutOfTime,
)
from agent_credits.values.principals import Principal
from agent_credits.values.side_by_side import SideBySide, in_turn

if TYPE_CHECKING:
    from agent_credits.notices.observations import ModelProviderError

WARM_ACCOUNTS_MAX = 1_000
# Of so many accounts, rows and receipts are read together: as many as one call of BatchGetItem
# takes.
ACCOUNTS_READ_AHEAD = 100

# For this long after an event's own time, the event before it may still be in the queue.
ORDER_MIXED_UP_FOR = timedelta(minutes=1)

TimeIsLeft = Callable[[], bool]
Item = TypeVar("Item")


class DebitRows(Rows, ObservationRows, Protocol):
    """The rows that events are recorded in."""


class _Debit(Struct, frozen=True):
    message_id: str
    change: RunChange


class _Observation(Struct, frozen=True):
    message_id: str
    error: "ModelProviderError"


class _Settled(Struct, frozen=True):
    """A disposition without a commit, for one event of a message or for the whole message."""

    message_id: str
    disposition: Disposition


class _Group(Struct, frozen=True):
    """The result of committing events together, or of trying to."""

    settled: tuple[_Settled, ...]
    outcomes: tuple[Outcome, ...] = ()
    retries: int = 0
    errored_runs_forgotten: int = 0
    expiries: tuple[Entry, ...] = ()


class _CommittedAccount(Struct, frozen=True):
    """What became of an account's debits, and its row unless the next batch has to read it."""

    groups: Sequence[_Group]
    row: Account | None


# An account, and its debits in order of arrival.
_OfAccount = tuple[Principal, list[_Debit]]


class Debits:
    """One worker: its rows, and what it caches from one batch to the next.

    `side_by_side` makes the calls of different accounts. With `signing_keys`, a message counts only
    if one of them signed it; with `unsigned_counts`, an unsigned one counts too.
    """

    def __init__(
        self,
        rows: DebitRows,
        directory: Directory,
        pause: Pause,
        signing_keys: Keys | None = None,
        side_by_side: SideBySide = in_turn,
        *,
        unsigned_counts: bool = False,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> None:
        self._rows = rows
        self._directory = directory
        self._pause = pause
        self._attempts_max = attempts_max
        self._side_by_side = side_by_side
        self._signing_keys = signing_keys
        self._unsigned_counts = unsigned_counts
        self._warm: dict[Principal, Account] = {}
        self._provider_errors = ModelProviderErrors(rows)

    def debit(
        self, deliveries: Sequence[Delivery], *, now: datetime, time_is_left: TimeIsLeft
    ) -> DebitedBatch:
        """Record every event that can be recorded, as long as time is left."""
        batch = self._record(self._read(deliveries, now), now, time_is_left)
        if not self._unsigned_counts:
            return batch
        return replace(batch, unsigned=sum(delivery.signature is None for delivery in deliveries))

    def record(
        self, events: Mapping[str, AgentRunEvent], *, now: datetime, time_is_left: TimeIsLeft
    ) -> DebitedBatch:
        """Record events that were read before, each under the id of a message of its own."""
        self._directory.read_ahead(tuple(events.values()), now, self._side_by_side)
        billed = [self._bill(message_id, event, now) for message_id, event in events.items()]
        return self._record(billed, now, time_is_left)

    def _record(
        self,
        read: Sequence[_Debit | _Observation | _Settled],
        now: datetime,
        time_is_left: TimeIsLeft,
    ) -> DebitedBatch:
        accounts = _by_account(found for found in read if isinstance(found, _Debit))
        groups = [
            group
            for together in _parts(accounts, ACCOUNTS_READ_AHEAD)
            for group in self._commit_all(together, now, time_is_left)
        ]
        # Debits first: thousands of model provider errors must not use up their time.
        observations = [found for found in read if isinstance(found, _Observation)]
        observed = self._observe_all(observations, now, time_is_left)
        settled = [
            *(found for found in read if isinstance(found, _Settled)),
            *(found for group in groups for found in group.settled),
            *(found for found in observed if isinstance(found, _Settled)),
        ]
        return DebitedBatch(
            dispositions=_by_message((found.message_id for found in read), settled),
            events=len(read),
            outcomes=tuple(outcome for group in groups for outcome in group.outcomes),
            reported=tuple(o for o in observed if isinstance(o, ReportedModelProviderError)),
            retries=sum(group.retries for group in groups),
            errored_runs_forgotten=sum(group.errored_runs_forgotten for group in groups),
            expiries=tuple(expiry for group in groups for expiry in group.expiries),
        )

    def _read(
        self, deliveries: Sequence[Delivery], now: datetime
    ) -> list[_Debit | _Observation | _Settled]:
        """Return what to record for each event of the messages, or why it cannot be recorded."""
        parsed = [(delivery.message_id, self._parse(delivery)) for delivery in deliveries]
        messages = [message for _, message in parsed if isinstance(message, Message)]
        events = [event for message in messages for event in message.events]
        self._directory.read_ahead(events, now, self._side_by_side)
        read: list[_Debit | _Observation | _Settled] = []
        for message_id, message in parsed:
            if not isinstance(message, Message):
                read.append(_Settled(message_id, message))
                continue
            read += (_Settled(message_id, Rejected(why)) for why in message.rejections)
            read += (self._bill(message_id, event, now) for event in message.events)
        return read

    def _parse(self, delivery: Delivery) -> Message | Rejected | RetryLater:
        return self._why_not_authentic(delivery) or parse_message(delivery.body)

    def _bill(
        self, message_id: str, event: AgentRunEvent, now: datetime
    ) -> _Debit | _Observation | _Settled:
        try:
            billing = self._directory.bill(event, now)
        except AgentCreditsError as error:
            return _Settled(message_id, RetryLater(error))
        if isinstance(billing, Rejection):
            return _Settled(message_id, Rejected(billing))
        if isinstance(event, ModelProviderErrorReported):
            return _Observation(message_id, model_provider_error_of(event, billing))
        return _Debit(message_id, RunChange(event, billing))

    def _why_not_authentic(self, delivery: Delivery) -> Rejected | RetryLater | None:
        if self._signing_keys is None:
            return None
        try:
            rejection = why_not_authentic(
                delivery.body,
                delivery.signature,
                self._signing_keys,
                unsigned_counts=self._unsigned_counts,
            )
        except AgentCreditsError as error:
            return RetryLater(error)
        return Rejected(rejection) if rejection else None

    def _observe_all(
        self, observations: Iterable[_Observation], now: datetime, time_is_left: TimeIsLeft
    ) -> list[ReportedModelProviderError | _Settled]:
        """Record different errors side by side, and reports of the same one in their order."""
        by_key: dict[str, list[_Observation]] = {}
        for observation in observations:
            by_key.setdefault(observation.error.key, []).append(observation)
        observed = self._side_by_side(
            [partial(self._observe_in_time, same, now, time_is_left) for same in by_key.values()]
        )
        return [result for of_key in observed for result in of_key]

    def _observe_in_time(
        self, same: Iterable[_Observation], now: datetime, time_is_left: TimeIsLeft
    ) -> list[ReportedModelProviderError | _Settled]:
        results: list[ReportedModelProviderError | _Settled] = []
        for found in same:
            try:
                if not time_is_left():
                    raise OutOfTime("the function's time is up")
                is_new = self._provider_errors.record(found.error, now)
            except AgentCreditsError as error:
                results.append(_Settled(found.message_id, RetryLater(error)))
            else:
                results.append(ReportedModelProviderError(found.message_id, found.error, is_new))
        return results

    def _commit_all(
        self, accounts: Sequence[_OfAccount], now: datetime, time_is_left: TimeIsLeft
    ) -> Iterator[_Group]:
        """Commit the debits of several accounts: side by side, unless they share rows."""
        sharing = [of for of in accounts if moves_other_rows([d.change for d in of[1]])]
        if sharing:
            yield from self._commit_sharing(sharing, now, time_is_left)
            accounts = [of for of in accounts if of not in sharing]
        if not accounts:
            return
        # After any error, the next batch reads the row again.
        warm = {p: row for p, _ in accounts if (row := self._warm.pop(p, None)) is not None}
        ahead = self._read_ahead(accounts, warm, time_is_left)
        committed = self._side_by_side(
            [
                partial(self._commit, p, debits, warm.get(p), ahead.get(p), now, time_is_left)
                for p, debits in accounts
            ]
        )
        for of_account in committed:
            if of_account.row is not None:
                self._keep_warm(of_account.row)
            yield from of_account.groups

    def _commit_sharing(
        self, accounts: Sequence[_OfAccount], now: datetime, time_is_left: TimeIsLeft
    ) -> Iterator[_Group]:
        """Commit accounts that move shared rows, as many at a time as one transaction takes.

        They are never warm: another account's commit may have moved what they share.
        """
        # Most stacks share no rows, so a cold start does not pay for it.
        from agent_credits.commit.together import ACCOUNTS_TOGETHER_MAX, commit_together

        # A team's account may be what members' accounts draw from, and is not committed with them.
        users = [of for of in accounts if of[0].kind == "user"]
        teams = [of for of in accounts if of[0].kind == "team"]
        parts = (*_parts(users, ACCOUNTS_TOGETHER_MAX), *_parts(teams, ACCOUNTS_TOGETHER_MAX))
        waiting = [
            {principal: debits[start : start + CHANGES_PER_COMMIT_MAX] for principal, debits in of}
            for of in parts
            for start in range(0, max(len(d) for _, d in of), CHANGES_PER_COMMIT_MAX)
        ][::-1]
        for principal, _ in accounts:
            self._warm.pop(principal, None)
        while waiting:
            part = {principal: debits for principal, debits in waiting.pop().items() if debits}
            if not time_is_left():
                late = RetryLater(OutOfTime("the function's time is up"))
                yield from (_all_of(debits, late) for debits in part.values())
                continue
            outcomes = commit_together(
                self._rows,
                {principal: [d.change for d in debits] for principal, debits in part.items()},
                now=now,
                pause=self._pause,
                before_failing=self._rebilled,
                attempts_max=self._attempts_max,
            )
            for principal, debits in part.items():
                outcome = outcomes[principal]
                if isinstance(outcome, AccountTooLarge) and len(debits) > 1:
                    half = len(debits) // 2
                    waiting += [{principal: debits[half:]}, {principal: debits[:half]}]
                elif isinstance(outcome, AgentCreditsError):
                    yield _failed(debits, outcome)
                else:
                    yield _group_of(outcome, debits, now)

    def _read_ahead(
        self,
        accounts: Sequence[_OfAccount],
        warm: Mapping[Principal, Account],
        time_is_left: TimeIsLeft,
    ) -> Mapping[Principal, Ahead]:
        """Read for the first commit of each account; a single one reads for itself."""
        if len(accounts) == 1 or not time_is_left():
            return {}
        changes_of = {
            principal: [debit.change for debit in debits[:CHANGES_PER_COMMIT_MAX]]
            for principal, debits in accounts
        }
        try:
            return read_ahead(self._rows, changes_of, warm)
        except AgentCreditsError:
            # Each account reads for itself, so that the fault affects only those that it concerns.
            return {}

    def _commit(
        self,
        principal: Principal,
        debits: Sequence[_Debit],
        warm: Account | None,
        ahead: Ahead | None,
        now: datetime,
        time_is_left: TimeIsLeft,
    ) -> _CommittedAccount:
        """Commit the debits of one account in their order, in as many parts as it takes."""
        groups: list[_Group] = []
        waiting = [*_parts(debits, CHANGES_PER_COMMIT_MAX)][::-1]
        while waiting:
            part = waiting.pop()
            if not time_is_left():
                groups.append(_all_of(part, RetryLater(OutOfTime("the function's time is up"))))
                continue
            start, warm = warm, None
            try:
                committed = commit(
                    self._rows,
                    principal,
                    [debit.change for debit in part],
                    now=now,
                    pause=self._pause,
                    warm=start,
                    ahead=ahead,
                    before_failing=self._rebilled,
                    attempts_max=self._attempts_max,
                )
            except MoreRowsNeeded:
                groups += self._commit_sharing([(principal, [*part])], now, time_is_left)
            except AgentCreditsError as error:
                if isinstance(error, AccountTooLarge) and len(part) > 1:
                    half = len(part) // 2
                    waiting += [part[half:], part[:half]]
                else:
                    groups.append(_failed(part, error))
            else:
                warm = committed.account
                groups.append(_group_of(committed, part, now))
            ahead = None
        return _CommittedAccount(groups, warm)

    def _rebilled(self, changes: Sequence[Change], now: datetime) -> list[Change]:
        """Bill again by settings read now, so that no run fails because of cached settings."""
        runs = [change for change in changes if isinstance(change, RunChange)]
        self._directory.read_again((change.event.data.team_id for change in runs), now)
        fresh = {run.identity: self._directory.bill(run.event, now) for run in runs}
        return [
            RunChange(change.event, billing)
            if isinstance(change, RunChange)
            and isinstance(billing := fresh[change.identity], Billing)
            and billing.principal == change.billing.principal
            else change
            for change in changes
        ]

    def _keep_warm(self, account: Account) -> None:
        if len(self._warm) >= WARM_ACCOUNTS_MAX:
            self._warm.pop(next(iter(self._warm)))
        self._warm[account.principal] = account


def _by_account(debits: Iterable[_Debit]) -> list[_OfAccount]:
    by_account: dict[Principal, list[_Debit]] = {}
    for debit in debits:
        by_account.setdefault(debit.change.billing.principal, []).append(debit)
    return [*by_account.items()]


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _by_message(message_ids: Iterable[str], settled: Iterable[_Settled]) -> dict[str, Disposition]:
    by_message: dict[str, list[Disposition]] = {message_id: [] for message_id in message_ids}
    for found in settled:
        by_message[found.message_id].append(found.disposition)
    return {message_id: combined(found) for message_id, found in by_message.items()}


def _all_of(debits: Iterable[_Debit], disposition: Disposition, retries: int = 0) -> _Group:
    settled = tuple(_Settled(debit.message_id, disposition) for debit in debits)
    return _Group(settled, retries=retries)


def _failed(debits: Sequence[_Debit], error: AgentCreditsError) -> _Group:
    """Return what becomes of events whose commit failed."""
    match error:
        case AccountMissing():
            return _all_of(debits, Rejected(Rejection("unknown_user", str(error))))
        case Contended():
            return _all_of(debits, RetrySoon(error), retries=error.races_lost)
        case _:
            return _all_of(debits, RetryLater(error))


def _group_of(committed: Committed, debits: Sequence[_Debit], now: datetime) -> _Group:
    account, outcomes, settled = committed.account, list[Outcome](), list[_Settled]()
    for debit, result in zip(debits, committed.results, strict=True):
        if isinstance(result, Recorded | AlreadyRecorded | Conflicting):
            outcome = Outcome(debit.message_id, account.principal, account.version, result, account)
            outcomes.append(outcome)
        disposition = disposition_of(debit.change.event, result, now)
        if disposition is not None:
            settled.append(_Settled(debit.message_id, disposition))
    # Without a new entry of its own, the batch may have found the row of an earlier commit.
    is_new = any(isinstance(result, Recorded) for result in committed.results)
    return _Group(
        settled=tuple(settled),
        outcomes=tuple(outcomes),
        retries=committed.retries,
        errored_runs_forgotten=committed.errored_runs_forgotten,
        expiries=expired_in(account) if is_new else (),
    )


def disposition_of(event: LedgerEvent, result: Result, now: datetime) -> Disposition | None:
    """Return why an event is not recorded, or None if it is."""
    match result:
        case Recorded() | AlreadyRecorded():
            return None
        case Waiting():
            return RetrySoon(result)
        case Unsure():
            return _awaited(event, result, now)
        case Conflicting():
            reason = f"event {event.id} was recorded with another payload"
            return Rejected(Rejection("conflicting", reason))
        case Rejection():
            return Rejected(result)
        case _:
            assert_never(result)


def _awaited(event: LedgerEvent, unsure: Unsure, now: datetime) -> Disposition:
    """Return what becomes of an event that names a reservation of which nothing is known.

    A queue does not keep the order of its messages, so the event that reserves may be behind.
    """
    if now < event.time + ORDER_MIXED_UP_FOR:
        return RetrySoon(unsure)
    if isinstance(event, RunRequested):
        return Rejected(
            Rejection("unknown_parent", "data.parent_run_id names a run without a reservation here")
        )
    return Rejected(Rejection("no_reservation", "the run holds no reservation"))
