"""Debiting a batch of messages: read them, group their events by account, commit each group.

A message is done when every event in it is recorded: as an entry of its account, or as an
observation if it reports an error of a model provider. A fault in one message or one account does
not affect any other message.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from agent_credits.billing.directory import Directory
from agent_credits.billing.teams import Billing
from agent_credits.commit.changes import Change, Conflicting, RunChange, Waiting
from agent_credits.commit.rows import Rows
from agent_credits.commit.write_protocol import CHANGES_PER_COMMIT_MAX, Committed, Pause, commit
from agent_credits.events.agent_runs import ModelProviderErrorReported, Rejection, parse_message
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
from agent_credits.ledger.accounts import Account
from agent_credits.notices.rows import ObservationRows
from agent_credits.values.errors import (
    AccountMissing,
    AccountTooLarge,
    AgentCreditsError,
    Contended,
    OutOfTime,
)
from agent_credits.values.principals import Principal

if TYPE_CHECKING:
    from agent_credits.notices.observations import ModelProviderError

WARM_ACCOUNTS_MAX = 1_000

TimeIsLeft = Callable[[], bool]


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


class Debits:
    """One worker: its rows, and what it caches from one batch to the next.

    With `signing_keys`, a message counts only if one of them signed it; with `unsigned_counts`, an
    unsigned one counts too.
    """

    def __init__(
        self,
        rows: DebitRows,
        directory: Directory,
        pause: Pause,
        signing_keys: Keys | None = None,
        *,
        unsigned_counts: bool = False,
    ) -> None:
        self._rows = rows
        self._directory = directory
        self._pause = pause
        self._signing_keys = signing_keys
        self._unsigned_counts = unsigned_counts
        self._warm: dict[Principal, Account] = {}
        self._provider_errors = ModelProviderErrors(rows)

    def debit(
        self, deliveries: Sequence[Delivery], *, now: datetime, time_is_left: TimeIsLeft
    ) -> DebitedBatch:
        """Record every event that can be recorded, as long as time is left."""
        read = [found for delivery in deliveries for found in self._read(delivery, now)]
        debits = [found for found in read if isinstance(found, _Debit)]
        groups = [
            group
            for principal, chunk in _by_account(debits)
            for group in self._commit_in_time(principal, chunk, now, time_is_left)
        ]
        # Debits first: thousands of model provider errors must not use up their time.
        observed = [
            self._observe_in_time(found, now, time_is_left)
            for found in read
            if isinstance(found, _Observation)
        ]
        settled = [
            *(found for found in read if isinstance(found, _Settled)),
            *(found for group in groups for found in group.settled),
            *(found for found in observed if isinstance(found, _Settled)),
        ]
        return DebitedBatch(
            dispositions=_by_message(deliveries, settled),
            events=len(read),
            outcomes=tuple(outcome for group in groups for outcome in group.outcomes),
            reported=tuple(o for o in observed if isinstance(o, ReportedModelProviderError)),
            retries=sum(group.retries for group in groups),
            errored_runs_forgotten=sum(group.errored_runs_forgotten for group in groups),
            unsigned=sum(delivery.signature is None for delivery in deliveries)
            if self._unsigned_counts
            else None,
        )

    def _read(
        self, delivery: Delivery, now: datetime
    ) -> Iterator[_Debit | _Observation | _Settled]:
        """Yield what to record for each event of a message, or why it cannot be recorded."""
        not_authentic = self._why_not_authentic(delivery)
        if not_authentic is not None:
            yield _Settled(delivery.message_id, not_authentic)
            return
        message = parse_message(delivery.body)
        for rejection in message.rejections:
            yield _Settled(delivery.message_id, Rejected(rejection))
        for event in message.events:
            try:
                billing = self._directory.bill(event, now)
            except AgentCreditsError as error:
                yield _Settled(delivery.message_id, RetryLater(error))
                continue
            if isinstance(billing, Rejection):
                yield _Settled(delivery.message_id, Rejected(billing))
            elif isinstance(event, ModelProviderErrorReported):
                error_reported = model_provider_error_of(event, billing)
                yield _Observation(delivery.message_id, error_reported)
            else:
                yield _Debit(delivery.message_id, RunChange(event, billing))

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

    def _observe_in_time(
        self, found: _Observation, now: datetime, time_is_left: TimeIsLeft
    ) -> ReportedModelProviderError | _Settled:
        try:
            if not time_is_left():
                raise OutOfTime("the function's time is up")
            is_new = self._provider_errors.record(found.error, now)
        except AgentCreditsError as error:
            return _Settled(found.message_id, RetryLater(error))
        return ReportedModelProviderError(found.message_id, found.error, is_new)

    def _commit_in_time(
        self,
        principal: Principal,
        debits: Sequence[_Debit],
        now: datetime,
        time_is_left: TimeIsLeft,
    ) -> list[_Group]:
        if not time_is_left():
            return [_all_of(debits, RetryLater(OutOfTime("the function's time is up")))]
        return self._commit(principal, debits, now)

    def _commit(
        self, principal: Principal, debits: Sequence[_Debit], now: datetime
    ) -> list[_Group]:
        """Commit the debits of one account, as several groups if they do not fit one row."""
        # After any error, the next batch reads the row again.
        warm = self._warm.pop(principal, None)
        try:
            committed = commit(
                self._rows,
                principal,
                [debit.change for debit in debits],
                now=now,
                pause=self._pause,
                warm=warm,
                before_failing=self._rebilled,
            )
        except AccountTooLarge as error:
            if len(debits) == 1:
                return [_all_of(debits, RetryLater(error))]
            half = len(debits) // 2
            return [
                *self._commit(principal, debits[:half], now),
                *self._commit(principal, debits[half:], now),
            ]
        except AccountMissing as error:
            return [_all_of(debits, Rejected(Rejection("unknown_user", str(error))))]
        except Contended as error:
            return [_all_of(debits, RetrySoon(error), retries=error.races_lost)]
        except AgentCreditsError as error:
            return [_all_of(debits, RetryLater(error))]
        self._keep_warm(committed.account)
        return [_group_of(committed, debits)]

    def _rebilled(self, changes: Sequence[Change], now: datetime) -> list[Change]:
        """Bill again by settings read now, so that no run fails because of cached settings."""
        runs = [change for change in changes if isinstance(change, RunChange)]
        self._directory.forget(change.event.data.team_id for change in runs)
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


def _by_account(debits: Iterable[_Debit]) -> Iterator[tuple[Principal, list[_Debit]]]:
    """Yield the debits of each account in bounded chunks, in order of arrival."""
    by_account: dict[Principal, list[_Debit]] = {}
    for debit in debits:
        by_account.setdefault(debit.change.billing.principal, []).append(debit)
    for principal, of_account in by_account.items():
        for start in range(0, len(of_account), CHANGES_PER_COMMIT_MAX):
            yield principal, of_account[start : start + CHANGES_PER_COMMIT_MAX]


def _by_message(
    deliveries: Iterable[Delivery], settled: Iterable[_Settled]
) -> dict[str, Disposition]:
    by_message: dict[str, list[Disposition]] = {d.message_id: [] for d in deliveries}
    for found in settled:
        by_message[found.message_id].append(found.disposition)
    return {message_id: combined(found) for message_id, found in by_message.items()}


def _all_of(debits: Iterable[_Debit], disposition: Disposition, retries: int = 0) -> _Group:
    settled = tuple(_Settled(debit.message_id, disposition) for debit in debits)
    return _Group(settled, retries=retries)


def _group_of(committed: Committed, debits: Sequence[_Debit]) -> _Group:
    account, outcomes, settled = committed.account, list[Outcome](), list[_Settled]()
    for debit, result in zip(debits, committed.results, strict=True):
        if isinstance(result, Waiting):
            settled.append(_Settled(debit.message_id, RetrySoon(result)))
            continue
        outcomes.append(Outcome(debit.message_id, account.principal, account.version, result))
        if isinstance(result, Conflicting):
            reason = f"event {debit.change.event.id} was recorded with another payload"
            rejection = Rejection("conflicting", reason)
            settled.append(_Settled(debit.message_id, Rejected(rejection)))
    return _Group(
        tuple(settled), tuple(outcomes), committed.retries, committed.errored_runs_forgotten
    )
