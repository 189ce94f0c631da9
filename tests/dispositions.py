"""What became of the messages of a batch, by kind and by message."""

from agent_credits.commit.changes import Unsure, Waiting
from agent_credits.events.agent_runs import Rejection
from agent_credits.intake.debited_batch import DebitedBatch
from agent_credits.intake.dispositions import Rejected, RetryLater, RetrySoon
from agent_credits.values.errors import AgentCreditsError


def rejected(batch: DebitedBatch) -> dict[str, Rejection]:
    """Return why, for each message that can never be recorded."""
    found = batch.dispositions.items()
    return {message: what.rejection for message, what in found if isinstance(what, Rejected)}


def postponed(batch: DebitedBatch) -> dict[str, AgentCreditsError]:
    """Return the fault or the lost races, for each message that comes back because of them."""
    found = batch.dispositions.items()
    return {
        message: what.cause
        for message, what in found
        if isinstance(what, RetryLater | RetrySoon) and not isinstance(what.cause, Waiting | Unsure)
    }


def out_of_order(batch: DebitedBatch) -> dict[str, str]:
    """Return the run, for each message that comes back because nothing is known of it yet."""
    found = batch.dispositions.items()
    return {
        message: what.cause.run_id
        for message, what in found
        if isinstance(what, RetrySoon) and isinstance(what.cause, Unsure)
    }


def waiting(batch: DebitedBatch) -> dict[str, str]:
    """Return the reload's id, for each message with an event that waits for one."""
    found = batch.dispositions.items()
    return {
        message: what.cause.reload_id
        for message, what in found
        if isinstance(what, RetrySoon) and isinstance(what.cause, Waiting)
    }
