"""Recording events for a caller who waits: the same path as the queue's, with an answer for each.

What the queue would give back to be delivered again is answered too. An event that waits for a
reload is 202, one that nobody could decide is 503, and neither is ever a yes.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, assert_never

from msgspec import Struct

from agent_credits.api.problems import (
    TYPES,
    Problem,
    Refused,
    undecided,
)
from agent_credits.commit.changes import AlreadyRecorded, Conflicting, Unsure, Waiting
from agent_credits.events.agent_runs import AgentRunEvent
from agent_credits.intake.debited_batch import DebitedBatch, Outcome
from agent_credits.intake.debits import Debits, TimeIsLeft
from agent_credits.intake.dispositions import Disposition, Done, Rejected, RetryLater, RetrySoon
from agent_credits.intake.model_provider_errors import ReportedModelProviderError
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Directive, Entry
from agent_credits.notices.insufficient_credits import insufficient_credits
from agent_credits.values.credits import format_credits
from agent_credits.values.errors import AccountTooLarge, AgentCreditsError, Contended

# A reload takes seconds. Asking more often than this helps nobody.
WAIT_SECONDS: Final = 5


class Decided(Struct, frozen=True):
    """The event is recorded, now or by an earlier request; `account` is the row after it."""

    entry: Entry
    account: Account
    is_repeat: bool

    @property
    def directive(self) -> Directive:
        """Return what the platform is to do with the run from here on."""
        said = self.entry.reservation.directive
        if said is not None:
            return said
        return "stop" if self.entry.outcome == "insufficient" else "continue"


class Observed(Struct, frozen=True):
    """A model provider's error is recorded. It moves no credits."""

    reported: ReportedModelProviderError


class Waits(Struct, frozen=True):
    """Not recorded: a reload that may cover it is under way."""

    reload_id: str


Answered = Decided | Observed | Waits | Refused


class Recorder:
    """Records events and says what became of each. `problem_type_base_url` may be empty."""

    def __init__(self, debits: Debits, problem_type_base_url: str) -> None:
        self._debits = debits
        self._base_url = problem_type_base_url

    def record(
        self, events: Mapping[str, AgentRunEvent], now: datetime, time_is_left: TimeIsLeft
    ) -> tuple[dict[str, Answered], DebitedBatch]:
        """Return an answer for each event by its key, and the batch for logs and metrics."""
        batch = self._debits.record(events, now=now, time_is_left=time_is_left)
        outcomes = {outcome.message_id: outcome for outcome in batch.outcomes}
        reported = {report.message_id: report for report in batch.reported}
        answers: dict[str, Answered] = {}
        for key in events:
            if key in reported:
                answers[key] = Observed(reported[key])
            else:
                answers[key] = _answered(outcomes.get(key), batch.dispositions[key])
        return answers, batch

    def problem_of(self, decided: Decided) -> Problem | None:
        """Return the problem of an event that found too little, or None."""
        if decided.entry.outcome != "insufficient":
            return None
        document = insufficient_problem(decided, self._base_url)
        return Problem("insufficient_credits", TYPES["insufficient_credits"], "", document=document)


def _answered(outcome: Outcome | None, disposition: Disposition) -> Answered:
    if outcome is not None and not isinstance(outcome.result, Conflicting):
        if outcome.account is None:
            raise TypeError("an outcome of a commit has the account")
        is_repeat = isinstance(outcome.result, AlreadyRecorded)
        return Decided(outcome.result.entry, outcome.account, is_repeat)
    if isinstance(disposition, RetrySoon):
        return _soon(disposition.cause)
    match disposition:
        case Rejected(rejection):
            return Refused(rejection.code, rejection.reason)
        case RetryLater(cause):
            return undecided(reason_of(cause))
        case Done():
            raise TypeError("an event that is done has an outcome")
        case _:
            assert_never(disposition)


def _soon(cause: Waiting | Unsure | Contended) -> Answered:
    match cause:
        case Waiting(reload_id):
            return Waits(reload_id)
        case Unsure():
            return Refused(
                "out_of_order",
                "the event names a run of which nothing is recorded yet; if its request is still "
                "in the queue, send the event again",
                headers={"Retry-After": "1"},
            )
        case Contended():
            return undecided(reason_of(cause))
        case _:
            assert_never(cause)


def reason_of(error: AgentCreditsError) -> str:
    """Return why nothing was decided, without what only an operator can use."""
    match error:
        case Contended():
            return "other requests changed the same account each time; send the request again"
        case AccountTooLarge():
            return "the account holds too much to take another entry now"
        case _:
            return "a service that the decision needs is not available; send the request again"


def insufficient_problem(decided: Decided, problem_type_base_url: str) -> dict[str, Any]:
    """Return the problem document of the notice, extended by what a program needs to act."""
    entry, account = decided.entry, decided.account
    notice = insufficient_credits(account, entry, problem_type_base_url)
    available = sum(pool.available_microcredits for pool in entry.pools_before)
    is_of_parent = entry.type != "agent_run.usage" and entry.reservation.parent_run_id is not None
    if is_of_parent:
        # A child reserves from what its parent holds, whatever the pools hold.
        available = entry.amount_microcredits - entry.shortfall_microcredits
    scope = "parent_run" if is_of_parent else "account"
    said, refused = notice.data, entry.limits.refused_by
    resets_at, of_limits = said["resets_at"], dict[str, Any]()
    if refused is not None:
        scope, available = refused.key.scope, refused.room_microcredits
        resets_at = said["limit"]["resets_at"]
        of_limits = {"limit": said["limit"], "limits": said["limits"]}
    return {
        **said["problem"],
        "error": "insufficient_credits",
        "cause": said["cause"],
        "scope": scope,
        "run_id": said["run_id"],
        "principal": said["principal"],
        "required_credits": format_credits(entry.amount_microcredits),
        "available_credits": format_credits(available),
        "reserved_credits": format_credits(entry.reservation.reserved_before_microcredits),
        "shortfall_credits": said["shortfall_credits"],
        "resets_at": resets_at,
        "directive": decided.directive,
        "fix": said["fix"],
        **of_limits,
    }
