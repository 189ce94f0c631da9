"""Auto-reload over the stack's tables in moto: the same guarantees, on real conditional writes."""

import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from msgspec.structs import replace

import agent_credits.ledger.reloads
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.aws.items import is_account_item, policy_item, team_item
from agent_credits.aws.reload_queue import ReloadQueue, read_request
from agent_credits.billing.teams import Team
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.reloads import RELOAD_DEADLINE, ReloadRequest
from agent_credits.notices.announcements import AccountRecord, reload_requests
from agent_credits.payments.port import InvoicePayments
from agent_credits.payments.reload_saga import Granted, ReloadSaga
from agent_credits.values.errors import Contended
from agent_credits.values.principals import Principal
from tests.emitted_metrics import emitted, of_stack
from tests.integration.lambda_runtime import cold_start
from tests.integration.stack_tables import StackTables
from tests.unit.builders import (
    ANA,
    INVOICE,
    NOW,
    PACK_CENTS,
    POLICY,
    RELOADING_ACME,
    grant_change,
    open_account,
    pause,
    run_change,
    usage,
)
from tests.unit.payments.payment_fakes import FakePayments

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

STRIPE_KEY = "sk_test_of_nobody"
ACCOUNTS = 8
TRIGGERS = 16
ROOM_PACKS = 3
MONTH = "2025-11"
# A worker that loses too many races gives its message back; another one won each of them.
DELIVERIES_MAX = 100


class ObservedRows(DynamoDBRows):
    """Rows that note what was spent and reserved in all, after each write of a team."""

    def __init__(self, client: "DynamoDBClient", accounts_table: str, ledger_table: str) -> None:
        super().__init__(client, accounts_table, ledger_table)
        self.observed_cents: list[int] = []

    def compare_and_set_team(self, team: Team) -> Team | None:
        lost = super().compare_and_set_team(team)
        if lost is None:
            spending = team.spending
            self.observed_cents.append(spending.spent_in(MONTH) + spending.reserved_in(MONTH))
        return lost


def request_reload(rows: DynamoDBRows, principal: Principal) -> ReloadRequest:
    """Open an account and commit an event that finds too little in it."""
    old = open_account(rows, grant_change("g-1", credits="150", principal=principal))
    event = usage(f"e-{principal.id}", "200", run=f"run-{principal.id}", user=principal.id)
    new = commit(rows, principal, [run_change(event, RELOADING_ACME)], now=NOW, pause=pause).account
    (request,) = reload_requests(AccountRecord(old, new))
    return request


def in_threads(saga: ReloadSaga, requests: list[ReloadRequest]) -> None:
    faults: list[BaseException] = []
    together = threading.Barrier(TRIGGERS)

    def deliver(number: int) -> None:
        together.wait()
        try:
            for _ in range(DELIVERIES_MAX):
                try:
                    saga.resolve(requests[number % ACCOUNTS], NOW)
                except Contended:
                    continue
                return
            pytest.fail("a message was never carried out")
        except BaseException as fault:
            faults.append(fault)
            raise

    threads = [threading.Thread(target=deliver, args=(n,)) for n in range(TRIGGERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.usefixtures("short_switch_interval")
def test_sixteen_triggers_for_eight_accounts_charge_exactly_the_three_packs_that_fit_the_cap(
    dynamodb: "DynamoDBClient", tables: StackTables
) -> None:
    rows = DynamoDBRows(dynamodb, tables.accounts, tables.ledger)
    cap_cents = ROOM_PACKS * PACK_CENTS + PACK_CENTS // 2
    rows.put_policy(POLICY)
    rows.compare_and_set_team(RELOADING_ACME.model_copy(update={"spend_cap_cents": cap_cents}))
    principals = [Principal("user", f"u{number}") for number in range(ACCOUNTS)]
    requests = [request_reload(rows, principal) for principal in principals]
    observed = ObservedRows(dynamodb, tables.accounts, tables.ledger)
    payments = FakePayments()
    saga = ReloadSaga(observed, observed, {"stripe": payments, "invoice": payments}, pause)

    in_threads(saga, requests)

    team = rows.read_team("acme")
    assert team is not None
    assert len(payments.charges) == ROOM_PACKS
    assert team.spending.spent_cents == ROOM_PACKS * PACK_CENTS
    assert team.spending.reservations == ()
    assert len(observed.observed_cents) >= 2 * ROOM_PACKS
    assert max(observed.observed_cents) <= cap_cents
    accounts = [rows.read_account(principal) for principal in principals]
    causes = [a.reload.cause if a and a.reload else "granted" for a in accounts]
    assert sorted(map(str, causes)) == ["granted"] * 3 + ["spend_cap_reached"] * 5


def test_a_request_sent_twice_is_delivered_once_and_carried_out(
    rows: DynamoDBRows, sqs: "SQSClient"
) -> None:
    rows.put_policy(POLICY)
    rows.compare_and_set_team(RELOADING_ACME.model_copy(update={"payment": INVOICE}))
    request = request_reload(rows, ANA)
    queue_url = sqs.create_queue(QueueName="reloads.fifo", Attributes={"FifoQueue": "true"})[
        "QueueUrl"
    ]
    queue = ReloadQueue(sqs, queue_url)

    queue.send(request)
    queue.send(request)
    messages = sqs.receive_message(
        QueueUrl=queue_url, MaxNumberOfMessages=10, AttributeNames=["All"]
    )["Messages"]

    (message,) = messages
    assert message["Attributes"]["MessageGroupId"] == "acme"
    assert read_request(message["Body"]) == request
    payments = {"invoice": InvoicePayments(), "stripe": FakePayments()}
    saga = ReloadSaga(rows, rows, payments, pause)
    assert isinstance(saga.resolve(request, NOW), Granted)
    account = rows.read_account(ANA)
    assert account is not None
    assert account.reload is None
    assert [g.cause for g in account.grants] == ["purchase", "reload"]


def test_a_message_whose_reload_is_open_is_delivered_again(
    rows: DynamoDBRows, sqs: "SQSClient"
) -> None:
    rows.put_policy(POLICY)
    rows.compare_and_set_team(RELOADING_ACME)
    queue_url = sqs.create_queue(QueueName="reloads.fifo", Attributes={"FifoQueue": "true"})[
        "QueueUrl"
    ]
    request = request_reload(rows, ANA)
    queue = ReloadQueue(sqs, queue_url)
    queue.send(request)
    (first,) = sqs.receive_message(QueueUrl=queue_url)["Messages"]
    record = {
        "receiptHandle": first["ReceiptHandle"],
        "attributes": {"ApproximateReceiveCount": "1"},
    }

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(agent_credits.ledger.reloads, "ASK_AGAIN_SECONDS", 0)
        queue.ask_again(record, request)

    (again,) = sqs.receive_message(QueueUrl=queue_url)["Messages"]
    assert again["Body"] == first["Body"]


def test_a_payment_past_its_deadline_holds_up_no_other_reload_of_its_team(
    aws: boto3.Session,
    rows: DynamoDBRows,
    tables: StackTables,
    sqs: "SQSClient",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows.put_policy(POLICY)
    rows.compare_and_set_team(RELOADING_ACME)
    secret = aws.client("secretsmanager").create_secret(Name="stripe", SecretString=STRIPE_KEY)
    queue_url = sqs.create_queue(QueueName="reloads.fifo", Attributes={"FifoQueue": "true"})[
        "QueueUrl"
    ]
    environment = {
        "STACK_NAME": "agent-credits",
        "ACCOUNTS_TABLE": tables.accounts,
        "LEDGER_TABLE": tables.ledger,
        "RELOADS_QUEUE_URL": queue_url,
        "STRIPE_SECRET_ARN": secret["ARN"],
        "STRIPE_API_BASE": "",
    }
    auto_reload = cold_start("auto_reload", environment, monkeypatch)
    payments = FakePayments(["processing", "success"])
    auto_reload.app.saga = ReloadSaga(rows, rows, {"stripe": payments}, pause)
    queue = ReloadQueue(sqs, queue_url)
    asked = request_reload(rows, ANA)

    def received(request: ReloadRequest) -> dict[str, Any]:
        queue.send(request)
        (message,) = sqs.receive_message(
            QueueUrl=queue_url, MessageSystemAttributeNames=["All"], VisibilityTimeout=3_600
        )["Messages"]
        return {
            "messageId": request.reload_id,
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
        }

    def failed(record: dict[str, Any], now: datetime) -> list[str]:
        auto_reload.app.now = lambda: now
        return auto_reload.failed_ids({"Records": [record]})

    first = received(asked)
    in_time = failed(first, NOW)
    late = failed(first, NOW + RELOAD_DEADLINE)
    follow_up = received(replace(asked, follows_up=True))
    still_open = failed(follow_up, NOW + RELOAD_DEADLINE)
    payments.finish(succeeds=True)
    ended = failed(follow_up, NOW + 2 * RELOAD_DEADLINE)

    # The queue delivers the next message of a group once the one before is done.
    groups = [record["attributes"]["MessageGroupId"] for record in (first, follow_up)]
    assert (groups[0], groups[1] != "acme") == ("acme", True)
    assert (in_time, late) == ([asked.reload_id], [])
    assert (still_open, ended) == ([asked.reload_id], [])
    assert len(payments.charges) == 1
    metrics = emitted(capsys.readouterr().out)
    assert metrics[of_stack("ReloadsOpen", "auto_reload")] == 3
    assert metrics[of_stack("ReloadsGranted", "auto_reload")] == 1
    spent = of_stack("ReloadSpendCents", "auto_reload", currency="usd")
    assert metrics[spent] == payments.charges[0].price_cents


def test_only_the_rows_of_accounts_are_read_as_accounts() -> None:
    assert not is_account_item(team_item(RELOADING_ACME))
    assert not is_account_item(policy_item(POLICY))
