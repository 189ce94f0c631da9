"""Debiting a batch of messages: read them, group their events by account, commit each group.

A message is done when every event in it is recorded: as an entry of its account, or, where a model
provider rejected, as an observation. What is wrong with one message, or with one account, costs no
other message anything.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, assert_never

from msgspec import Struct, field

from agent_credits.billing.directory import Directory
from agent_credits.billing.teams import Billing
from agent_credits.commit.changes import (
    AlreadyRecorded,
    Change,
    Conflicting,
    Recorded,
    RunChange,
    Waiting,
)
from agent_credits.commit.rows import Rows
from agent_credits.commit.write_protocol import CHANGES_PER_COMMIT_MAX, Committed, Pause, commit
from agent_credits.events.agent_runs import (
    AgentRunEvent,
    ModelProviderErrorReported,
    Rejection,
    parse_message,
)
from agent_credits.events.signatures import Keys, why_not_authentic
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
)
from agent_credits.values.principals import Principal

if TYPE_CHECKING:
    from agent_credits.notices.observations import ModelProviderError

WARM_ACCOUNTS_MAX = 1_000


class Delivery(Struct, frozen=True):
    """A message as the queue delivered it, with the signature that came beside it, if any."""

    message_id: str
    body: str
    signature: str | None = None


class Outcome(Struct, frozen=True):
    """What came of one event: on whose account, at which version, with which result."""

    message_id: str
    principal: Principal
    version: int
    result: Recorded | AlreadyRecorded | Conflicting

    @property
    def name(self) -> str:
        """Return what to call it: the entry's outcome, or that nothing was recorded anew."""
        match self.result:
            case Recorded(entry):
                return entry.outcome
            case AlreadyRecorded():
                return "already_recorded"
            case Conflicting():
                return "conflicting"
            case _:
                assert_never(self.result)

    @property
    def log_fields(self) -> dict[str, str | int]:
        identity = self.result.entry.identity
        return {
            "message_id": self.message_id,
            "event_id": identity.id,
            "run_id": identity.subject,
            "principal": str(self.principal),
            "version": self.version,
        }


class DebitRows(Rows, ObservationRows, Protocol):
    """The rows that events are recorded in."""


class DebitedBatch(Struct):
    """`rejected` messages can never be recorded as they are; `postponed` ones are to come again.

    `waiting` messages hold an event that waits for a reload, named by its id.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    reported: list[ReportedModelProviderError] = field(default_factory=list)
    rejected: dict[str, Rejection] = field(default_factory=dict)
    postponed: dict[str, AgentCreditsError | None] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    retries: int = 0

    @property
    def runs_failed(self) -> int:
        return sum(
            isinstance(outcome.result, Recorded) and outcome.result.entry.fails_run
            for outcome in self.outcomes
        )

    @property
    def failed_message_ids(self) -> list[str]:
        """Exactly the messages that hold an event which is not recorded."""
        return list({**self.rejected, **self.postponed, **self.waiting})


class _Debit(Struct, frozen=True):
    message_id: str
    change: RunChange


class _Work(Struct):
    """What a batch asks for: entries by account, and providers' rejections, each by its message."""

    debits: dict[Principal, list[_Debit]] = field(default_factory=dict)
    rejections: list[tuple[str, "ModelProviderError"]] = field(default_factory=list)


class Debits:
    """One worker: its rows, and what it keeps warm from one batch to the next.

    With `signing_keys`, a message counts only if one of them signed it.
    """

    def __init__(
        self,
        rows: DebitRows,
        directory: Directory,
        pause: Pause,
        signing_keys: Keys | None = None,
    ) -> None:
        self._rows = rows
        self._directory = directory
        self._pause = pause
        self._signing_keys = signing_keys
        self._warm: dict[Principal, Account] = {}
        self._rejections = ModelProviderErrors(rows)

    def debit(
        self, deliveries: Iterable[Delivery], *, now: datetime, time_is_left: Callable[[], bool]
    ) -> DebitedBatch:
        """Record every event of the deliveries that can be recorded while time is left."""
        batch = DebitedBatch()
        work = self._read(deliveries, batch, now)
        for principal, debits in work.debits.items():
            for start in range(0, len(debits), CHANGES_PER_COMMIT_MAX):
                chunk = debits[start : start + CHANGES_PER_COMMIT_MAX]
                if time_is_left():
                    self._commit(principal, chunk, batch, now)
                else:
                    batch.postponed.update((debit.message_id, None) for debit in chunk)
        # Money first: thousands of rejections of a busy provider may not use up a debit's time.
        for message_id, rejected in work.rejections:
            if time_is_left():
                self._observe(message_id, rejected, batch, now)
            else:
                batch.postponed[message_id] = None
        return batch

    def _read(self, deliveries: Iterable[Delivery], batch: DebitedBatch, now: datetime) -> _Work:
        work = _Work()
        for delivery in deliveries:
            if not self._is_authentic(delivery, batch):
                continue
            message = parse_message(delivery.body)
            for rejection in message.rejections:
                batch.rejected.setdefault(delivery.message_id, rejection)
            for event in message.events:
                billing = self._billed(delivery, event, batch, now)
                if billing is None:
                    continue
                if isinstance(event, ModelProviderErrorReported):
                    work.rejections.append(
                        (delivery.message_id, model_provider_error_of(event, billing))
                    )
                else:
                    debit = _Debit(delivery.message_id, RunChange(event, billing))
                    work.debits.setdefault(billing.principal, []).append(debit)
        return work

    def _is_authentic(self, delivery: Delivery, batch: DebitedBatch) -> bool:
        if self._signing_keys is None:
            return True
        try:
            rejection = why_not_authentic(delivery.body, delivery.signature, self._signing_keys)
        except AgentCreditsError as error:
            batch.postponed[delivery.message_id] = error
            return False
        if rejection is not None:
            batch.rejected[delivery.message_id] = rejection
        return rejection is None

    def _billed(
        self, delivery: Delivery, event: AgentRunEvent, batch: DebitedBatch, now: datetime
    ) -> Billing | None:
        try:
            billing = self._directory.bill(event, now)
        except AgentCreditsError as error:
            batch.postponed[delivery.message_id] = error
            return None
        if isinstance(billing, Rejection):
            batch.rejected.setdefault(delivery.message_id, billing)
            return None
        return billing

    def _observe(
        self, message_id: str, rejected: "ModelProviderError", batch: DebitedBatch, now: datetime
    ) -> None:
        try:
            is_new = self._rejections.record(rejected, now)
        except AgentCreditsError as error:
            batch.postponed[message_id] = error
        else:
            batch.reported.append(ReportedModelProviderError(message_id, rejected, is_new))

    def _commit(
        self,
        principal: Principal,
        debits: Sequence[_Debit],
        batch: DebitedBatch,
        now: datetime,
    ) -> None:
        # Whatever goes wrong, the next batch reads the row again.
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
                batch.postponed[debits[0].message_id] = error
                return
            half = len(debits) // 2
            self._commit(principal, debits[:half], batch, now)
            self._commit(principal, debits[half:], batch, now)
        except AccountMissing as error:
            rejection = Rejection("unknown_user", str(error))
            for debit in debits:
                batch.rejected.setdefault(debit.message_id, rejection)
        except Contended as error:
            batch.retries += error.races_lost
            batch.postponed.update((debit.message_id, error) for debit in debits)
        except AgentCreditsError as error:
            batch.postponed.update((debit.message_id, error) for debit in debits)
        else:
            self._keep_warm(committed.account)
            _note(committed, debits, batch)

    def _rebilled(self, changes: Sequence[Change], now: datetime) -> list[Change]:
        """Bill again by settings read now: nobody is declined on cached settings."""
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


def _note(committed: Committed, debits: Sequence[_Debit], batch: DebitedBatch) -> None:
    account = committed.account
    batch.retries += committed.retries
    for debit, result in zip(debits, committed.results, strict=True):
        if isinstance(result, Waiting):
            batch.waiting[debit.message_id] = result.reload_id
            continue
        batch.outcomes.append(Outcome(debit.message_id, account.principal, account.version, result))
        if isinstance(result, Conflicting):
            reason = f"event {debit.change.event.id} was recorded with another payload"
            batch.rejected.setdefault(debit.message_id, Rejection("conflicting", reason))
