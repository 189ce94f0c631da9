"""Ten workers take an account below a threshold concurrently, and one notice is published."""

import threading
from typing import TYPE_CHECKING, Any

import pytest

from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.billing.directory import Directory
from agent_credits.commit.changes import Recorded
from agent_credits.intake.debited_batch import Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.accounts import Account
from tests.dispositions import postponed
from tests.integration.lambda_runtime import Function
from tests.integration.stack_tables import StackTables
from tests.integration.test_announce import inbox, stream_event
from tests.unit.builders import (
    ACME,
    NOW,
    POLICY,
    body,
    finished,
    open_account,
    pause,
    plan_change,
    usage,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

WORKERS = 10
# Who loses ten races in a row is given back to the queue; ten workers commit ten events.
REDELIVERIES_MAX = 100


class RecordingRows(DynamoDBRows):
    """The rows, and each image that was written of an account, as its change stream has them."""

    def __init__(self, client: "DynamoDBClient", tables: StackTables) -> None:
        super().__init__(client, *tables)
        self._images: dict[int, Account] = {}

    def compare_and_set(self, account: Account) -> Account | None:
        current = super().compare_and_set(account)
        if current is None:
            assert account.version not in self._images
            self._images[account.version] = account
        return current

    @property
    def stream(self) -> list[tuple[Account | None, Account]]:
        return [(self._images.get(v - 1), image) for v, image in sorted(self._images.items())]


@pytest.fixture
def low_rows(dynamodb: "DynamoDBClient", tables: StackTables) -> RecordingRows:
    """Return the rows with an account that has 130 credits left of its plan's 400."""
    rows = RecordingRows(dynamodb, tables)
    rows.put_policy(POLICY)
    rows.compare_and_set_team(ACME.model_copy(update={"version": 1}))
    open_account(rows, plan_change("400"))
    debit(rows, usage("e-before", "270", run="run-before"))
    return rows


def debit(rows: DynamoDBRows, document: dict[str, Any]) -> None:
    debits = Debits(rows, Directory(rows), pause)
    for _ in range(REDELIVERIES_MAX):
        batch = debits.debit([Delivery("m", body(document))], now=NOW, time_is_left=lambda: True)
        if not postponed(batch):
            (outcome,) = batch.outcomes
            assert isinstance(outcome.result, Recorded)
            return
    pytest.fail("the event was never recorded")


def debit_at_once(rows: DynamoDBRows, documents: list[dict[str, Any]]) -> None:
    faults: list[BaseException] = []
    start = threading.Barrier(len(documents))

    def work(document: dict[str, Any]) -> None:
        try:
            start.wait()
            debit(rows, document)
        except BaseException as fault:
            faults.append(fault)
            raise

    threads = [threading.Thread(target=work, args=(document,)) for document in documents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def announced(sqs: "SQSClient", inbox_url: str) -> list[tuple[str, str | None, str]]:
    notices = [arrived["notice"] for arrived in inbox(sqs, inbox_url)]
    return [(n["type"], n["data"].get("threshold"), n["subject"]) for n in notices]


@pytest.mark.usefixtures("short_switch_interval")
def test_ten_concurrent_crossings_of_a_threshold_are_one_notice(
    low_rows: RecordingRows,
    announce: Function,
    sqs: "SQSClient",
    inbox_url: str,
) -> None:
    debit_at_once(low_rows, [usage(f"e{n}", "11", run=f"run-{n}") for n in range(WORKERS)])

    assert announce.failed_ids(stream_event(low_rows.stream)) == []

    # From 130 credits to 20, by eleven: below 120 at once, and below 40 after nine of the ten.
    assert announced(sqs, inbox_url) == [
        ("credits_low", "30%", "user:ana"),
        ("credits_low", "10%", "user:ana"),
    ]


@pytest.mark.usefixtures("short_switch_interval")
def test_ten_concurrent_runs_that_are_given_back_restore_the_account_once(
    low_rows: RecordingRows,
    announce: Function,
    sqs: "SQSClient",
    inbox_url: str,
) -> None:
    debit_at_once(low_rows, [usage(f"e{n}", "9", run=f"run-{n}") for n in range(WORKERS)])

    given_back = [finished(f"end-{n}", "error", run=f"run-{n}") for n in range(WORKERS)]
    debit_at_once(low_rows, [*given_back, finished("end", "error", run="run-before")])
    assert announce.failed_ids(stream_event(low_rows.stream)) == []

    assert announced(sqs, inbox_url) == [
        ("credits_low", "30%", "user:ana"),
        ("credits_restored", None, "user:ana"),
    ]
