"""What a batch is counted as: each message once, by its disposition."""

from agent_credits.commit.changes import Waiting
from agent_credits.events.agent_runs import Rejection
from agent_credits.intake.debited_batch import DebitedBatch
from agent_credits.intake.dispositions import Done, Rejected, RetryLater, RetrySoon
from agent_credits.values.errors import Contended, OutOfTime, RowsUnavailable

BATCH = DebitedBatch(
    {
        "recorded": Done(),
        "rejected": Rejected(Rejection("malformed", "no JSON")),
        "waiting": RetrySoon(Waiting("reload-1")),
        "contended": RetrySoon(Contended("lost every race", 10)),
        "unavailable": RetryLater(RowsUnavailable("no answer")),
        "unavailable too": RetryLater(RowsUnavailable("throttled")),
        "late": RetryLater(OutOfTime("no time is left")),
    }
)


def test_a_message_that_comes_back_waits_or_is_postponed() -> None:
    counts = BATCH.counts

    assert (counts["MessagesWaiting"], counts["MessagesPostponed"]) == (1, 4)
    assert counts["MessagesRejected"] == 1
    assert len(BATCH.failed_message_ids) == 6


def test_what_is_postponed_is_counted_by_the_error() -> None:
    assert BATCH.postponed == {"Contended": 1, "RowsUnavailable": 2, "OutOfTime": 1}
