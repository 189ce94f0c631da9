from typing import Any

import pytest

from agent_credits.aws.run_queue import WAIT_SECONDS_LONGEST, deliveries, visible_in
from agent_credits.commit.changes import Waiting
from agent_credits.events.agent_runs import Rejection
from agent_credits.intake.dispositions import (
    Disposition,
    Done,
    Rejected,
    RetryLater,
    RetrySoon,
    combined,
)
from agent_credits.values.errors import Contended, RowsUnavailable

REJECTED = Rejected(Rejection("malformed", "the body is not JSON"))
WAITING = RetrySoon(Waiting("reload:user:ana:2"))


def record(message_id: str, receives: int = 1, **members: Any) -> dict[str, Any]:
    return {
        "messageId": message_id,
        "receiptHandle": f"handle of {message_id}",
        "body": "{}",
        "attributes": {"ApproximateReceiveCount": str(receives)},
        "messageAttributes": {},
        **members,
    }


def test_each_message_comes_back_when_its_disposition_says() -> None:
    dispositions: dict[str, Disposition] = {
        "done": Done(),
        "rejected": REJECTED,
        "waiting": WAITING,
        "contended": RetrySoon(Contended("lost 10 races in a row", 10)),
        "later": RetryLater(RowsUnavailable("throttled")),
    }
    records = [record(message_id, receives=3) for message_id in dispositions]

    assert visible_in(records, dispositions) == {
        "handle of rejected": 0,
        "handle of waiting": 8,
        "handle of contended": 8,
    }


def test_a_message_with_a_rejected_and_a_waiting_event_comes_back_with_the_waiting_one() -> None:
    """Sent to the dead-letter queue at once, its waiting event would be lost to the operator."""
    both = {"both": combined([REJECTED, WAITING])}

    assert visible_in([record("both", receives=2)], both) == {"handle of both": 4}


@pytest.mark.parametrize(("receives", "seconds"), [(1, 2), (4, 16), (5, 30), (1_000, 30)])
def test_a_wait_doubles_up_to_a_bound(receives: int, seconds: int) -> None:
    found = visible_in([record("m", receives)], {"m": WAITING})

    assert found == {"handle of m": seconds}
    assert seconds <= WAIT_SECONDS_LONGEST


def test_a_signature_of_another_type_than_string_is_no_signature() -> None:
    signed = {"signature": {"dataType": "String", "stringValue": "k1:00"}}
    binary = {"signature": {"dataType": "Binary", "binaryValue": "AA=="}}
    records = [
        record("signed", messageAttributes=signed),
        record("binary", messageAttributes=binary),
        record("unsigned"),
    ]

    assert [d.signature for d in deliveries(records)] == ["k1:00", None, None]
